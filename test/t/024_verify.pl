# Tampering with the log shows: whatever a superuser does to the events of a
# stream with hashes, with the guards off, es_verify names it, and on a sound
# store, whose events came in every way and in parallel, it names nothing.
#
# Each act of tampering is made up at random and rolled back after es_verify has
# looked; it counts as found when a row names the stream, and for a change of one
# event the event.  The control is the same changes of streams without hashes:
# none is found.  What no hash in the store can show, an end that was cut off and
# hashes that were made anew, is found by hashes that were kept elsewhere.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use File::Temp ();
use Test::More;

my $acts = setting('ES_TAMPER_ACTS', 60);
my @tables = qw(event stream event_type mark);

# What a change of one event may be.
my %change = (
	data => q{data = data || '["put in"]'},
	number => q{data = jsonb_build_array(data, 1.0)},
	metadata => q{metadata = metadata || '{"user_id": "another"}'},
	type => q{type_no = (SELECT min(o.type_no) FROM event_store.event_type AS o JOIN event_store.event_type AS n USING (category)
		WHERE n.type_no = event.type_no AND o.type_no <> n.type_no)},
	schema_version => 'schema_version = schema_version + 1',
	time => q{created_at = created_at - interval '1 microsecond'},
	id => 'event_id = gen_random_uuid()',
	tags => q{tags = array_append(tags, 'zzz')},
	position => 'global_position = global_position + 1000000000');

# Removed, put in and moved: statements with the stream's number and events.
my %act = (
	hash => sub { my ($no, $v) = @_; "UPDATE event_store.event SET hash = sha256(hash) WHERE stream_no = $no AND version = $v" },
	strip => sub { my ($no, $v) = @_; "UPDATE event_store.event SET hash = NULL WHERE stream_no = $no AND version = $v" },
	strip_beginning => sub { my ($no, $v) = @_; "UPDATE event_store.event SET hash = NULL WHERE stream_no = $no AND version <= $v" },
	remove => sub { my ($no, $v) = @_; "DELETE FROM event_store.event WHERE stream_no = $no AND version = $v" },
	remove_beginning => sub { my ($no, $v) = @_; "DELETE FROM event_store.event WHERE stream_no = $no AND version <= $v" },
	remove_and_close => sub {
		my ($no, $v) = @_;
		return ("DELETE FROM event_store.event WHERE stream_no = $no AND version = $v", shift_from($no, $v, -1));
	},
	empty => sub { my ($no) = @_; "DELETE FROM event_store.event WHERE stream_no = $no" },
	reorder => sub {
		my ($no, $v) = @_;
		return map { "UPDATE event_store.event SET version = $_->[1] WHERE stream_no = $no AND version = $_->[0]" }
		  [ $v, -1 ], [ $v + 1, $v ], [ -1, $v + 1 ];
	},
	insert => sub {
		my ($no, $v) = @_;
		return (shift_from($no, $v, 1),
			"INSERT INTO event_store.event SELECT -global_position, stream_no, created_at, gen_random_uuid(), $v, type_no,"
			  . " schema_version, data, metadata, tags, hash FROM event_store.event WHERE stream_no = $no AND version = $v + 1");
	},
	append => sub {
		my ($no, $v) = @_;
		return "INSERT INTO event_store.event SELECT 2000000000 + global_position, stream_no, created_at, gen_random_uuid(),"
		  . ' (SELECT max(version) + 1 FROM event_store.event AS o WHERE o.stream_no = e.stream_no), type_no,'
		  . ' schema_version, data, metadata, tags'
		  . (random_int(0, 1) ? ', hash' : '')
		  . " FROM event_store.event AS e WHERE stream_no = $no AND version = $v";
	},
	# which is found in the other stream; what is left may be sound
	move => sub {
		my ($no, $v, $other) = @_;
		return "UPDATE event_store.event SET stream_no = $other, version ="
		  . " (SELECT max(version) + 1 FROM event_store.event AS o WHERE o.stream_no = $other)"
		  . " WHERE stream_no = $no AND version = $v";
	},
	exchange => sub {
		my ($no, $v, $other) = @_;
		return ("UPDATE event_store.event SET stream_no = NULL WHERE stream_no = $no AND version = $v",
			"UPDATE event_store.event SET stream_no = $no WHERE stream_no = $other AND version = $v",
			"UPDATE event_store.event SET stream_no = $other WHERE stream_no IS NULL AND version = $v");
	},
	rename => sub { my ($no) = @_; "UPDATE event_store.stream SET stream_id = stream_id || 'x' WHERE stream_no = $no" });

seed_random();
my $node = store_cluster('verify');
create_store($node, 'store');
my $dbh = connect_store($node, db => 'store');
$dbh->{PrintWarn} = 0;

rows_without_hash_are_short();
my (@chained, @plain);
fill_store();
is(problems($dbh), '', 'nothing is found in a sound store');
tamper_at_random();
control();
kept_elsewhere();
appends_meanwhile();
rewritten_and_restored();
upgraded();
$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub problems
{
	my ($conn, @stream) = @_;
	return join "\n", map { join ' | ', map { defined $_ ? $_ : '-' } @$_ }
	  @{ $conn->selectall_arrayref('SELECT * FROM es_verify(' . (@stream ? '?' : '') . ')',
			undef, @stream) };
}

# An event without hash costs no byte: its row ends where it did without.
sub rows_without_hash_are_short
{
	run_sql($dbh, 'CREATE EXTENSION pageinspect',
		q{SELECT es_append('Short-1', 0, 'A', '1')},
		q{SELECT es_append('Short-1', 1, 'A', '1', tags => ARRAY['a'])},
		q{SET event_store.hash_chain = on},
		q{SELECT es_append('Short-2', 0, 'A', '1')},
		q{SET event_store.hash_chain = off});
	is( sql_value($dbh,
			q{SELECT string_agg((t_infomask2 & 2047) || ':' || t_hoff, ' ' ORDER BY lp)
			  FROM heap_page_items(get_raw_page('event_store.event', 0))}),
		'9:24 10:24 11:32', 'columns and header of an event, one with tags, one with a hash');
	return;
}

# Streams with hashes and without, in every form of append.
sub fill_store
{
	foreach my $number (1 .. 24)
	{
		my $chained = $number <= 18;
		my $stream = ($chained ? 'Chain' : 'Plain') . random_int(1, 3) . "-$number";
		my $version = 0;
		$dbh->do('SET event_store.hash_chain = ' . ($chained ? 'on' : 'off'));
		while ($version < 6)
		{
			my $n = random_int(1, 80);
			$dbh->begin_work;
			if ($n % 3 == 0)
			{
				append($dbh, $stream, $version++, 'Single', random_uuid(),
					'{"é": ' . $n . ', "big": "' . ('x' x random_int(0, 9000)) . '"}');
			}
			elsif ($n % 3 == 1)
			{
				$version += $n if append_batch($dbh, $stream, $version, "Kind$n", [ map { random_uuid() } 1 .. $n ]);
			}
			else
			{
				$version += $dbh->do(
					q{SELECT * FROM es_append_if((SELECT jsonb_agg(jsonb_build_object('event_type', 'If' || i % 3,
						'data', i * 1.50, 'tags', jsonb_build_array('t' || i, 'all'), 'stream_id', CASE WHEN i % 2 = 0 THEN ?::text END))
						FROM generate_series(1, ?::int) AS i), '{"items": [{"tags": ["nobody"]}]}')},
					undef, $stream, $n) && int($n / 2);
			}
			$dbh->commit;
			# what is rolled back leaves positions open, and nothing else
			$dbh->begin_work;
			append($dbh, $stream, ANY, 'Gone', random_uuid());
			$dbh->rollback;
		}
		# once begun, whatever the setting says
		run_sql($dbh, 'SET event_store.hash_chain = off');
		append($dbh, $stream, ANY, 'Later', random_uuid());
		push @{ $chained ? \@chained : \@plain }, $stream;
	}
	my ($hashed, $all) = $dbh->selectrow_array(
		q{SELECT count(e.hash), count(*) FROM event_store.event AS e JOIN event_store.stream AS s USING (stream_no)
		  WHERE s.stream_id LIKE 'Chain%'});
	is($hashed, $all, "all $all events of the streams that began with hashes have one");
	return;
}

# The events of a stream, as [version, position], and its number.
sub events_of
{
	my ($stream) = @_;
	my $number = sql_value($dbh, 'SELECT stream_no FROM event_store.stream WHERE stream_id = ?', $stream);
	return ($number, @{ $dbh->selectall_arrayref(
		'SELECT version, global_position FROM event_store.event WHERE stream_no = ? ORDER BY version',
		undef, $number) });
}

# The events from a version on move by one.
sub shift_from
{
	my ($no, $v, $by) = @_;
	return ("UPDATE event_store.event SET version = -version WHERE stream_no = $no AND version >= $v",
		"UPDATE event_store.event SET version = -version + $by WHERE stream_no = $no AND version < 0");
}

# Carry out one act; result: what is found, whole store and stream by stream.
sub found
{
	my ($stream, @statements) = @_;
	$dbh->begin_work;
	$dbh->do("ALTER TABLE event_store.$_ DISABLE TRIGGER USER") for @tables;
	foreach my $statement (@statements)
	{
		BAIL_OUT("touches nothing: $statement") unless $dbh->do($statement) > 0;
	}
	$dbh->do("ALTER TABLE event_store.$_ ENABLE ALWAYS TRIGGER es_guard_row, ENABLE ALWAYS TRIGGER es_guard_statement")
	  for @tables;
	my $all = problems($dbh);
	my $one = problems($dbh, $stream);
	$dbh->rollback;
	return ($all, $one);
}

sub tamper_at_random
{
	my @kinds = (sort keys %change, sort keys %act);
	my @missed;
	my %done;

	foreach my $n (1 .. $acts)
	{
		# every kind comes
		my $kind = $kinds[ ($n - 1) % @kinds ];
		my $stream = $chained[ random_int(0, $#chained) ];
		my $other = $chained[ random_int(0, $#chained) ];
		my ($no, @events) = events_of($stream);
		my ($other_no, @other_events) = events_of($other);
		redo if $kind =~ /move|exchange/ && $other eq $stream;

		# not the last one: what follows is needed to see that it is gone
		my $last = $kind eq 'exchange' && @other_events < @events ? @other_events : @events;
		my $v = random_int(1, $change{$kind} || $kind eq 'hash' ? $last : $last - 1);
		my @statements = $change{$kind}
		  ? "UPDATE event_store.event SET $change{$kind} WHERE stream_no = $no AND version = $v"
		  : $act{$kind}->($no, $v, $other_no);
		my ($all, $one) = found($stream, @statements);
		my $named = $kind eq 'rename' ? "${stream}x" : $kind eq 'move' ? $other : $stream;
		my $where = $change{$kind} || $kind eq 'hash' ? qr/^\Q$named\E \| $v \|/m : qr/^\Q$named\E \|/m;
		push @missed, "$kind of $stream $v: all: $all; one: $one"
		  unless $all =~ $where && ($kind eq 'move' || $one ne '');
		# nobody else is named
		my %hit = map { ((split / \| /)[0] => 1) } split /\n/, $all;
		delete @hit{ $stream, $named, $other };
		push @missed, "$kind of $stream $v names others: @{[ sort keys %hit ]}" if %hit;
		$done{$kind}++;
	}
	is(join("\n", @missed), '', "$acts acts of tampering are found, where they are");
	is(scalar keys %done, scalar @kinds, 'of every kind') if $acts >= @kinds;
	is(problems($dbh), '', 'and nothing when they are undone');
	return;
}

# Without hashes a change is not found: it is the hashes that find it.
sub control
{
	my @found;
	foreach my $kind (grep { $_ ne 'position' } sort keys %change)
	{
		my $stream = $plain[ random_int(0, $#plain) ];
		my ($no, @events) = events_of($stream);
		my $v = random_int(1, scalar @events);
		my ($all) = found($stream,
			"UPDATE event_store.event SET $change{$kind} WHERE stream_no = $no AND version = $v");
		push @found, "$kind: $all" if $all ne '';
	}
	is(join("\n", @found), '', 'control: no change of a stream without hashes is found');
	return;
}

# An end that is cut off, hashes that are all taken away, and hashes made anew
# by who knows how: es_verify cannot know, hashes that were kept can.
sub kept_elsewhere
{
	$dbh->do(q{CREATE TABLE kept AS
		SELECT s.stream_id, h.version, h.hash FROM event_store.stream AS s
		CROSS JOIN LATERAL (SELECT e.version, e.hash FROM event_store.event AS e
			WHERE e.stream_no = s.stream_no ORDER BY e.version DESC LIMIT 1) AS h
		WHERE h.hash IS NOT NULL});
	my $compare = q{SELECT string_agg(k.stream_id, ' ') FROM kept AS k
		LEFT JOIN event_store.stream AS s USING (stream_id)
		LEFT JOIN event_store.event AS e ON e.stream_no = s.stream_no AND e.version = k.version
		WHERE e.hash IS DISTINCT FROM k.hash};
	is(sql_value($dbh, $compare), undef, 'the last hashes are those that were kept');
	my $stream = $chained[0];
	my ($no, @events) = events_of($stream);
	my $last = @events;
	my $text = sub { "int4send(octet_length(convert_to($_[0], 'UTF8'))) || convert_to($_[0], 'UTF8')" };
	my %limit = (
		'cut off' => "DELETE FROM event_store.event WHERE stream_no = $no AND version > $last - 2",
		'stripped' => "UPDATE event_store.event SET hash = NULL WHERE stream_no = $no",
		'made anew' => "UPDATE event_store.event AS e SET data = '\"forged\"', hash = sha256(p.hash || int8send(e.global_position)"
		  . ' || sha256(' . $text->('s.stream_id') . ' || int8send(e.version) || uuid_send(e.event_id) || ' . $text->('t.event_type')
		  . q{ || int4send(e.schema_version) || timestamptz_send(e.created_at) || sha256('"forged"')}
		  . q{ || sha256(convert_to(e.metadata::text, 'UTF8')) || int4send(0)))}
		  . ' FROM event_store.event AS p, event_store.stream AS s, event_store.event_type AS t'
		  . " WHERE s.stream_no = $no AND p.stream_no = $no AND e.stream_no = $no AND t.type_no = e.type_no"
		  . " AND e.version = $last AND p.version = $last - 1");
	foreach my $kind (sort keys %limit)
	{
		$dbh->begin_work;
		$dbh->do('ALTER TABLE event_store.event DISABLE TRIGGER USER');
		$dbh->do($limit{$kind});
		is(problems($dbh, $stream), '', "$kind: not found by itself");
		is(sql_value($dbh, $compare), $stream, "$kind: found by the hashes that were kept");
		$dbh->rollback;
	}
	return;
}

# Appends to the same streams in parallel, and es_verify while they run.
sub appends_meanwhile
{
	new_flags();
	foreach my $number (1 .. 4)
	{
		start_client("writer $number", sub { writer($number) });
	}
	my $looks = 0;
	my $found = '';
	poll_until(sub {
		$found = problems($dbh);
		$looks++;
		return $found ne '' || 4 == grep { flag_is_set("done $_") } 1 .. 4;
	});
	wait_clients();
	is($found, '', "nothing is found while others append ($looks looks)");
	is(problems($dbh), '', 'nor afterwards');
	return;
}

sub writer
{
	my ($number) = @_;
	my $conn = connect_store($node, db => 'store');
	$conn->do('SET event_store.hash_chain = on');
	foreach my $n (1 .. 60)
	{
		$conn->begin_work;
		# in one order, so that they wait and do not deadlock
		append_batch($conn, "Chain1-shared$_", ANY, 'Par', [ map { random_uuid() } 1 .. random_int(1, 9) ])
		  for sort map { random_int(1, 3) } 1 .. 2;
		rand() < 0.2 ? $conn->rollback : $conn->commit;
	}
	$conn->disconnect;
	flag_set("done $number");
	return {};
}

# Hashes are of what the events say, not of how it is stored.
sub rewritten_and_restored
{
	my $file = File::Temp::tmpnam();
	run_sql($dbh, 'VACUUM FULL event_store.event', 'CLUSTER event_store.event USING event_pkey');
	is(problems($dbh), '', 'nothing is found after VACUUM FULL and CLUSTER');
	my @server = ('-h', $node->host, '-p', $node->port);
	$node->safe_psql('postgres', 'CREATE DATABASE restored');
	is(run_program('pg_dump', @server, '--format=custom', '-f', $file, 'store'), 0, 'pg_dump works');
	is(run_program('pg_restore', @server, '--exit-on-error', '-d', 'restored', $file), 0, 'pg_restore works');
	unlink $file;
	my $restored = connect_store($node, db => 'restored');
	is(problems($restored), '', 'nothing is found after dump and restore');
	append($restored, $chained[0], ANY, 'After', random_uuid());
	is(problems($restored), '', 'nor after the next append');
	is( sql_value($restored, 'SELECT count(*) FROM event_store.event WHERE hash IS NOT NULL'),
		1 + sql_value($dbh, 'SELECT count(*) FROM event_store.event WHERE hash IS NOT NULL'),
		'the hashes are there, and one more');
	$restored->disconnect;
	return;
}

sub upgraded
{
	$node->safe_psql('postgres', 'CREATE DATABASE old');
	$node->safe_psql('old', q{CREATE EXTENSION event_store VERSION '0.1'});
	my $old = connect_store($node, db => 'old');
	run_sql($old, q{SELECT es_append('Old-1', 0, 'A', '1')});
	run_sql($old, 'SET event_store.hash_chain = on');
	is(sqlstate($old, q{SELECT es_append('Old-1', 1, 'A', '2')}), '55000', 'the tables of 0.1 have no room for hashes');
	run_sql($old, 'SET event_store.hash_chain = off', q{SELECT es_append('Old-1', 1, 'A', '2')},
		'ALTER EXTENSION event_store UPDATE', 'SET event_store.hash_chain = on',
		q{SELECT es_append('Old-1', 2, 'A', '3')}, q{SELECT es_append('Old-1', 3, 'A', '4', tags => ARRAY['a'])});
	is(problems($old), '', 'a store of 0.1 is sound after the update');
	is( sql_value($old, q{SELECT string_agg(coalesce(length(hash)::text, '-'), ' ' ORDER BY version) FROM event_store.event}),
		'- - 32 32', 'and hashes begin with the next append');
	run_sql($old, 'ALTER TABLE event_store.event DISABLE TRIGGER USER',
		q{UPDATE event_store.event SET data = '0' WHERE version = 3});
	like(problems($old), qr/^Old-1 \| 3 \|.*hash does not match/m, 'a change is found');
	$old->disconnect;
	return;
}
