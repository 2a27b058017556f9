# Version 0.1 becomes 0.2 under load: the catalog is that of a fresh 0.2, and
# nothing is lost or stopped meanwhile.  A library that is replaced is taken up
# by the workers.
#
# The comparison of catalogs is tried out on differences that are made on
# purpose; each must be found.

use strict;
use warnings;

use File::Copy ();
use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Catalog qw(catalog_of grants_of only_in);
use EventStoreTest::Consumers qw(handled judge);
use EventStoreTest::Projection qw(create_model differences caught_up projection);
use Test::More;
use Time::HiRes qw(time);

# of the load before and after the update
my $seconds = setting('ES_UPGRADE_SECONDS', 3);
my $dir = PostgreSQL::Test::Utils::tempdir();

seed_random();
upgrade('plain', '');
upgrade('preloaded', 'event_store');
replaced_library();
done_testing();

# ---------------------------------------------------------------------------

sub upgrade
{
	my ($name, $preload) = @_;
	my $node = store_cluster($name, preload => $preload);
	my $version = $node->safe_psql('postgres',
		q{SELECT default_version FROM pg_available_extensions WHERE name = 'event_store'});

	# others than who runs the tests create the extension, and update it
	$node->safe_psql('postgres', $_)
	  for 'CREATE ROLE store_owner SUPERUSER LOGIN', 'CREATE ROLE administrator SUPERUSER LOGIN',
	  'CREATE ROLE writer LOGIN', 'CREATE ROLE reader LOGIN', 'CREATE ROLE modeller LOGIN',
	  'CREATE DATABASE fresh', 'CREATE DATABASE store';
	my $fresh = connect_store($node, db => 'fresh', user => 'store_owner', plain => 1);
	run_sql($fresh, 'CREATE EXTENSION event_store', grants());
	my $expected = catalog_of($fresh);

	my $dbh = connect_store($node, db => 'store', user => 'store_owner', plain => 1);
	run_sql($dbh, q{CREATE EXTENSION event_store VERSION '0.1'}, grants());
	isnt(join("\n", only_in($expected, catalog_of($dbh))),
		'', "$name: 0.1 differs from $version");
	my $before = fill($dbh);
	not_yet($dbh, $name);

	# everybody at work
	new_flags();
	my $handled = "$dir/$name.handled";
	start_client("writer $_", sub { writer($node) }) for 1 .. 3;
	start_client('follower', sub { follower($node) });
	start_client("member $_", sub { consumer($node, 'crew', "m$$", $handled) }) for 1 .. 2;
	start_client('single', sub { consumer($node, 'alone', undef, "$handled.alone") });
	ok(poll_until(sub { (projection($dbh, 'sums')->{position} || 0) > $before->{head} }),
		"$name: a projection is at work with 0.1");
	random_pause(1000 * $seconds);

	my $granted = grants_of($dbh);
	my $workers = workers($dbh);
	isnt($workers, '', "$name: workers run");
	my $administrator =
	  connect_store($node, db => 'store', user => 'administrator', plain => 1);
	$administrator->do("ALTER EXTENSION event_store UPDATE TO '$version'");
	$administrator->disconnect;
	pass("$name: updated to $version under load");
	my $head = sql_value($dbh, 'SELECT es_head()');
	ok( poll_until(
			sub {
				my %now = map { $_ => 1 } split ' ', workers($dbh);
				%now && !grep { $now{$_} } split ' ', $workers;
			}),
		"$name: the workers are new ones");
	ok(poll_until(sub { projection($dbh, 'sums')->{position} > $head }),
		"$name: the projection goes on");
	random_pause(1000 * $seconds);
	flag_set('stop');
	my $results = wait_clients(test => "$name: no client failed");

	# the catalog
	is(join("\n", only_in($granted, grants_of($dbh))), '', "$name: who was granted something has it");
	run_sql($dbh, grants());	# of what is new, too
	my $found = catalog_of($dbh);
	is(join("\n", only_in($expected, $found)), '', "$name: nothing is missing");
	is(join("\n", only_in($found, $expected)), '', "$name: nothing is left over");
	planted_differences($dbh, $found) if $preload eq '';

	# the data
	my $rows = store_rows($dbh);
	my %there = map { $_->[3] => $_ } @$rows;
	my ($lost, $written) = (0, 0);
	foreach my $client (grep { /^writer/ } keys %$results)
	{
		my $acknowledged = $results->{$client}{acknowledged};
		foreach my $id (keys %$acknowledged)
		{
			my $row = $there{$id};
			$written++;
			$lost++
			  unless $row && "$row->[0] $row->[1] $row->[2]" eq $acknowledged->{$id};
		}
	}
	cmp_ok($written, '>', 100, "$name: $written events were acknowledged");
	is($lost, 0, "$name: none of them is lost");
	is(join(' ', @{ $results->{follower}{positions} }),
		join(' ', map { $_->[0] } @$rows),
		"$name: a reader of the global order saw each event once");
	caught_up($dbh, 'sums');
	is(differences($dbh, 'sums'), '', "$name: the read model is right");
	is_deeply(judge($handled, $rows),
		{ missing => 0, order => 0, phantom => 0, duplicate => 0, committed => scalar @$rows },
		"$name: a group handled each event once, in order");
	is_deeply(judge("$handled.alone", $rows),
		{ missing => 0, order => 0, phantom => 0, duplicate => 0, committed => scalar @$rows },
		"$name: a subscription handled each event once, in order");
	is_deeply(look($dbh), $before->{look}, "$name: what was there before is as it was");

	# one's own view gives an upcaster no metadata: it says so
	run_sql(
		$dbh,
		'CREATE FUNCTION with_metadata(data jsonb, metadata jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE '
		  . 'AS $$SELECT data || metadata$$',
		q{SELECT es_define_upcaster('Other', 1, 'with_metadata(jsonb,jsonb)')});
	is(sqlstate($dbh, 'SELECT * FROM old_shape'), '55000', "$name: a call without the metadata that is needed");
	is(sqlstate($dbh, q{SELECT * FROM old_shape WHERE data @> '{"n": 42}' LIMIT 1}),
		'00000', "$name: a call without, where it is not needed");

	$fresh->disconnect;
	$dbh->disconnect;
	$node->stop;
	return;
}

# What an administrator has granted stays.
sub grants
{
	return (
		q{SELECT es_grant('writer', 'writer')},
		q{SELECT es_grant('modeller', 'admin')},
		q{SELECT es_grant('reader', 'reader')},
		'GRANT SELECT ON event_store.subscriptions TO reader',
		'GRANT EXECUTE ON FUNCTION es_snapshot(text, bigint, jsonb, int) TO reader');
}

# One of everything that 0.1 stores.
sub fill
{
	my ($dbh) = @_;

	run_sql(
		$dbh,
		'CREATE FUNCTION double_n(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE '
		  . q{AS $$SELECT jsonb_build_object('n', (data->>'n')::int * 2)$$},
		q{SELECT es_define_upcaster('Legacy', 1, 'double_n(jsonb)', 'Modern', 2)},
		# as views of one's own may call it
		'CREATE VIEW old_shape AS SELECT event_store.es_upcast_data(t.name, 1, ' . q{'{"n": 21}'}
		  . ", '00000000-0000-4000-8000-00000000abcd', 'Old-0', 1) AS data FROM (VALUES ('Legacy'), ('Other')) t(name)",
		'CREATE FUNCTION add_n(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE '
		  . q{AS $$SELECT to_jsonb((state::text)::bigint + coalesce((event.data->>'n')::bigint, 0))$$},
		q{SELECT es_define_aggregate('Old', 'add_n(jsonb,es_event)', '0', snapshot_every => 5)},
		q{SELECT count(es_append('Old-' || i % 7, es_any(), 'Happened', jsonb_build_object('n', i)))
		  FROM generate_series(1, 200) i},
		q{SELECT es_append('Old-0', es_any(), 'Legacy', '{"n": 21}')},
		q{SELECT es_append('Keyed-1', 0, 'Happened', '{"n": 1}',
						   event_id => '00000000-0000-4000-8000-00000000abcd')},
		q{SELECT es_snapshot('Keyed-1', 1, '{"mine": true}', 7)},
		q{SELECT es_create_subscription('crew', slots => 8)},
		q{SELECT es_create_subscription('alone')},
		q{SELECT es_create_subscription('stuck', max_retries => 0)},
		q{SELECT count(*) FROM es_fetch('stuck', 5)},
		q{SELECT es_nack('stuck', (SELECT min(global_position) FROM event_store.events), 'does not fit', false)},
		q{SELECT es_create_subscription('held', lease => '1 hour')},
		q{SELECT count(*) FROM es_fetch('held', 5, member => 'somebody')},
		# as pg_restore --disable-triggers leaves them
		(map { ("ALTER TABLE event_store.$_ DISABLE TRIGGER ALL", "ALTER TABLE event_store.$_ ENABLE TRIGGER ALL") }
			qw(stream aggregate)));
	my $handler = create_model($dbh, 'sums');
	run_sql(
		$dbh,
		"SELECT es_create_projection('sums', '$handler')",
		"SELECT es_create_projection('halted', '$handler', categories => '{Nothing}', paused => true)");
	return { head => sql_value($dbh, 'SELECT es_head()'), look => look($dbh) };
}

# The tables of 0.1 have no room for what the library can write already.
sub not_yet
{
	my ($dbh, $name) = @_;

	is(sqlstate($dbh, q{SELECT es_append('Old-1', es_any(), '{"event_type": "A", "data": 1, "tags": ["a"]}')}),
		'55000', "$name: an append with tags is refused before the update");
	like($dbh->errstr, qr/have no tags yet.*UPDATE/s, '... which says why');
	$dbh->do('SET event_store.hash_chain = on');
	is(sqlstate($dbh, q{SELECT es_append('Old-1', es_any(), 'A', '1')}),
		'55000', "$name: an append with a hash is refused before the update");
	like($dbh->errstr, qr/have no hashes yet.*UPDATE/s, '... which says why');
	$dbh->do('RESET event_store.hash_chain');
	return;
}

# What has to look the same before and after, whatever else happens.
sub look
{
	my ($dbh) = @_;
	my %look;
	my %queries = (
		state => q{SELECT s.state, s.version FROM es_state('Old-1') s},
		upcast => q{SELECT event_type, schema_version, data FROM es_read_stream('Old-0', NULL, 1, true)},
		snapshot => q{SELECT version, data FROM es_read_snapshot('Keyed-1', 7)},
		duplicate => q{SELECT version, is_duplicate FROM es_append('Keyed-1', 0, 'Happened', '{"n": 1}',
					   event_id => '00000000-0000-4000-8000-00000000abcd')},
		view => q{SELECT data FROM old_shape},
		parked => q{SELECT subscription, stream_id, version, reason FROM event_store.parked_events},
		held => q{SELECT name, checkpoint, holder FROM event_store.subscriptions WHERE name = 'held'},
		halted => q{SELECT name, state, position, categories FROM event_store.projections WHERE name = 'halted'});

	foreach my $what (keys %queries)
	{
		$look{$what} =
		  sql_value($dbh, "SELECT string_agg(q::text, ' ') FROM ($queries{$what}) q");
	}
	return \%look;
}

# PIDs of this database's workers.
sub workers
{
	my ($dbh) = @_;
	return sql_value(
		$dbh, q{
		SELECT coalesce(string_agg(pid::text, ' '), '') FROM pg_stat_activity
		WHERE datname = current_database()
			  AND backend_type IN ('event_store worker', 'event_store projections')});
}

sub work
{
	my ($node) = @_;
	return connect_store($node, db => 'store', user => 'store_owner');
}

# Appends to streams of its own, of which it knows the versions, and with
# es_any() to those of all; remembers what was acknowledged.
sub writer
{
	my ($node) = @_;
	my $dbh = work($node);
	my (%acknowledged, %version);

	until (flag_is_set('stop'))
	{
		my $own = random_int(1, 5);
		my $stream = rand() < 0.5 ? "Own-$$-$own" : 'Shared-' . random_int(1, 10);
		my $expected = $stream =~ /^Own/ ? $version{$own} || 0 : 'es_any()';
		my $row = $dbh->selectrow_arrayref(
			"SELECT event_id, global_position, stream_id, version
			 FROM es_append(?, $expected, 'Happened', '{\"n\": 1}'), (VALUES (?::text)) s(stream_id)",
			undef, $stream, $stream);
		$acknowledged{ $row->[0] } = "$row->[1] $row->[2] $row->[3]";
		$version{$own} = $row->[3] if $stream =~ /^Own/;
		random_pause(10);
	}
	$dbh->disconnect;
	return { acknowledged => \%acknowledged };
}

# Reads the global order, and rings off when everybody else has.
sub follower
{
	my ($node) = @_;
	my $dbh = work($node);
	my @positions;

	while (1)
	{
		my $stopping = flag_is_set('stop');
		my $after = @positions ? $positions[-1] : 0;
		my $head = sql_value($dbh, q{SELECT es_wait(?, '200 ms')}, $after);
		my $found = $dbh->selectcol_arrayref(
			'SELECT global_position FROM es_read_all(?, 1000)', undef, $after);
		push @positions, @$found;
		next if @$found || !$stopping;
		last if others_are_done($dbh);
	}
	$dbh->disconnect;
	return { positions => \@positions };
}

# No writer is connected any longer.
sub others_are_done
{
	my ($dbh) = @_;
	return 0 == sql_value($dbh,
		# and not that of somebody else who asks this
		q{SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%FROM es_append(%' AND query NOT LIKE '%pg_stat_activity%'});
}

# Fetches, writes down what it was given, and acknowledges; a member of a group
# if it has a name.
sub consumer
{
	my ($node, $name, $member, $file) = @_;
	my $dbh = work($node);
	my $idle = 0;

	$dbh->do('SELECT es_join(?, ?)', undef, $name, $member) if defined $member;
	while (1)
	{
		my $stopping = flag_is_set('stop');
		$dbh->begin_work;
		my $events = $dbh->selectall_arrayref(
			q{SELECT global_position, stream_id, version FROM es_fetch(?, 50, '0 s', ?)},
			undef, $name, $member);
		if (@$events)
		{
			$dbh->do('SELECT es_ack(?, ?, ?)', undef, $name, $events->[-1][0], $member);
			handled($file, $$, @$events);
		}
		$dbh->commit;
		random_pause(20) unless @$events;
		$idle = @$events || !$stopping || !others_are_done($dbh) ? 0 : $idle + 1;
		last if $idle > 20;
	}
	$dbh->disconnect;
	return {};
}

# Each of these makes the catalogs differ.
sub planted_differences
{
	my ($dbh, $found) = @_;
	my @differences = (
		[ 'a comment', 'COMMENT ON COLUMN event_store.event.data IS NULL' ],
		[ 'a grant', 'GRANT EXECUTE ON FUNCTION es_head() TO PUBLIC' ],
		[ 'a disabled trigger', 'ALTER TABLE event_store.event DISABLE TRIGGER es_guard_row' ],
		[ 'a trigger of another kind', q{UPDATE pg_trigger SET tgenabled = 'O' WHERE tgname = 'es_definition_changed'} ],
		[ 'an owner', 'ALTER TABLE event_store.mark OWNER TO administrator' ],
		[ 'a column', 'ALTER TABLE event_store.mark ADD note text' ],
		[ 'a default', 'ALTER TABLE event_store.projection ALTER applied DROP DEFAULT' ],
		[ 'a constraint', 'ALTER TABLE event_store.subscription ADD CHECK (name IS NOT NULL)' ],
		[ 'an index', 'CREATE INDEX ON event_store.event (version)' ],
		[ 'a function body', q{CREATE OR REPLACE FUNCTION es_any() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT -1::int8'} ],
		[ 'a table that is not dumped', q{UPDATE pg_extension SET extconfig = extconfig[2:], extcondition = extcondition[2:]
			WHERE extname = 'event_store'} ],
		[ 'whose rights a view has', 'ALTER VIEW event_store.status SET (security_barrier)' ],
		[ 'a member', 'ALTER EXTENSION event_store DROP FUNCTION es_head()' ]);

	foreach my $difference (@differences)
	{
		my ($what, $sql) = @$difference;
		$dbh->begin_work;
		$dbh->do($sql);
		my $changed = catalog_of($dbh);
		$dbh->rollback;
		ok(only_in($found, $changed) + only_in($changed, $found), "control: $what is noticed");
	}
	return;
}

# Everybody has the library from a folder of ours, in which another file takes
# its place.
sub replaced_library
{
	my $node = store_cluster('replaced', no_start => 1);
	my $pg_config = $ENV{PG_CONFIG} || 'pg_config';
	chomp(my $installed = `$pg_config --pkglibdir`);
	my $libraries = PostgreSQL::Test::Utils::tempdir();
	my $put = sub {
		File::Copy::copy("$installed/event_store.so", "$libraries/new") or die "copy: $!";
		rename "$libraries/new", "$libraries/event_store.so" or die "rename: $!";
	};

	$put->();
	$node->start;
	create_store($node);
	$node->safe_psql('postgres',
		"UPDATE pg_proc SET probin = '$libraries/event_store' WHERE probin = '\$libdir/event_store'");
	my $dbh = connect_store($node);
	my $handler = create_model($dbh, 'sums');
	run_sql($dbh, "SELECT es_create_projection('sums', '$handler')");
	append($dbh, 'Before-1', ANY, 'Happened');
	caught_up($dbh, 'sums');
	my $old = workers($dbh);
	is(scalar(split ' ', $old), 2, 'two workers run');

	$put->();
	ok( poll_until(
			sub {
				my %now = map { $_ => 1 } split ' ', workers($dbh);
				!grep { $now{$_} } split ' ', $old;
			}),
		'they end when the library is replaced');
	ok(poll_until(sub { workers($dbh) ne '' }), 'the worker comes again by itself');
	append($dbh, 'After-1', ANY, 'Happened');
	caught_up($dbh, 'sums');
	is(differences($dbh, 'sums'), '', 'the read model is right');
	ok( poll_until(
			sub {
				sql_value(
					$dbh, q{
					SELECT min(clock_timestamp() - backend_start) > '3 s' FROM pg_stat_activity
					WHERE backend_type IN ('event_store worker', 'event_store projections')});
			}),
		'the new ones stay');
	$dbh->disconnect;
	$node->stop;
	return;
}
