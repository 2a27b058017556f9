# Change data capture on the tables of the store, as doc/feeds.md tells it, with
# a real consumer: what wal2json and pgoutput deliver is put together to events
# again, and is what the store has.  Every statement and command is taken from
# the documentation.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use IPC::Run ();
use JSON::PP ();
use Test::More;

my $doc = do
{
	open my $in, '<:encoding(UTF-8)', "$FindBin::Bin/../../doc/feeds.md" or die $!;
	local $/;
	<$in>;
};
my $node = store_cluster('feeds', streaming => 'logical');
create_store($node);
my $dbh = connect_store($node);
my @server = ('-h', $node->host, '-p', $node->port, '-d', 'postgres');

wal2json_is_refused() if sql_value($dbh, q{SELECT count(*) FROM pg_catalog.pg_settings
	WHERE name = 'output_plugin_libraries'});
documented(q{SELECT pg_create_logical_replication_slot('feed', 'wal2json');});
documented(q{CREATE PUBLICATION feed FOR TABLE event_store.event, event_store.stream, event_store.event_type}
	  . qq{\n    } . q{WITH (publish = 'insert');});
documented(q{SELECT pg_create_logical_replication_slot('feed_pgoutput', 'pgoutput');});
outbox();
write_all();
my $stored = $dbh->selectall_arrayref(
	q{SELECT global_position, event_id, stream_id, version, event_type, data, metadata
	  FROM es_read_all(max_count => NULL)},
	{ Slice => {} });
wal2json();
pgoutput();
outbox_in_order();

$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub documented
{
	my ($sql) = @_;
	ok(index($doc, $sql) >= 0, "documented: $sql");
	$dbh->do($sql);
	return;
}

# Only what the setting names is loaded, and a list in one string names nothing.
sub wal2json_is_refused
{
	my $create = q{SELECT pg_create_logical_replication_slot('refused', '%s')};
	isnt(sqlstate($dbh, sprintf $create, 'wal2json'), '00000', 'wal2json is refused by default');

	$dbh->do(q{ALTER SYSTEM SET output_plugin_libraries = 'pgoutput, wal2json'});
	reload();
	isnt(sqlstate($dbh, sprintf $create, $_), '00000', "a list in one string: $_ is refused") for qw(pgoutput wal2json);

	documented(q{ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, wal2json;});
	documented(q{SELECT pg_reload_conf();});
	reload();
	is(sqlstate($dbh, sprintf $create, 'wal2json'), '00000', 'named in the list it is loaded');

	# a slot that is there is refused, too, and holds its WAL
	$dbh->do('ALTER SYSTEM RESET output_plugin_libraries');
	reload();
	isnt(sqlstate($dbh, q{SELECT * FROM pg_logical_slot_peek_changes('refused', NULL, NULL)}),
		'00000', 'a slot of a library that is no longer named is refused');
	ok(sql_value($dbh, q{SELECT restart_lsn IS NOT NULL FROM pg_replication_slots WHERE slot_name = 'refused'}),
		'and holds WAL');
	$dbh->do(q{SELECT pg_drop_replication_slot('refused')});
	documented(q{ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, wal2json;});
	reload();
	return;
}

# New sessions and this one have the setting when a new one shows it.
sub reload
{
	$dbh->do('SELECT pg_reload_conf()');
	my $wanted = sql_value($dbh, q{SELECT setting FROM pg_catalog.pg_file_settings
		WHERE name = 'output_plugin_libraries' AND applied});
	poll_until(sub {
		my $now = sql_value($dbh, 'SHOW output_plugin_libraries');
		return defined $wanted ? $now eq $wanted : $now !~ /wal2json/;
	}) or die 'the setting does not arrive';
	return;
}

# The statements of the outbox are an example of the documentation.
sub outbox
{
	my ($sql) = $doc =~ /```sql\n(CREATE TABLE outbox.*?)```/s;
	$dbh->do($sql);
	documented(q{CREATE PUBLICATION outbox FOR TABLE outbox WITH (publish = 'insert');});
	$dbh->do(q{SELECT pg_create_logical_replication_slot('outbox', 'pgoutput')});
	return;
}

# Commits in another order than positions, an append that rolls back, an event
# without a stream, a payload that is written apart (TOAST).
sub write_all
{
	my $other = connect_store($node);

	append($dbh, 'Order-1', 0, 'OrderPlaced', undef, '{"total": 10, "note": "\"quoted\" \u00e4"}');
	$dbh->do('BEGIN');
	append($dbh, 'Order-2', 0, 'OrderPlaced', undef, '{"n": "slow"}');
	append($other, 'Order-3', 0, 'OrderShipped', undef, '{"n": "fast"}');
	$dbh->do('COMMIT');
	$dbh->do('BEGIN');
	append($dbh, 'Order-4', 0, 'Never', undef, '1');
	$dbh->do('ROLLBACK');
	append($_ % 2 ? $dbh : $other, 'Order-' . $_ % 7, ANY, "Type" . $_ % 3) for 1 .. 50;
	append($dbh, 'Order-5', ANY, 'Large', undef,
		JSON::PP->new->allow_nonref->encode(join ' ', map { rand() } 1 .. 5000));
	$dbh->do(q{SELECT es_append_if('[{"event_type": "Free", "data": 1, "tags": ["a"]}]',
		'{"items": [{"event_types": ["None"]}]}')});
	$other->disconnect;
	return;
}

# pg_recvlogical with the options that the documentation gives; ends where the
# log ends now.
sub receive
{
	my ($slot) = @_;
	my ($command) = $doc =~ /(pg_recvlogical -d shop --slot $slot --start .*?)\n```/s
	  or die "no command for $slot";
	my @options = map { ('-o', $_) } $command =~ /-o (\S+)/g;
	my $end = sql_value($dbh, 'SELECT pg_current_wal_insert_lsn()');
	my ($out, $err);
	# something behind it, so that the end is reached
	$dbh->do('SELECT pg_logical_emit_message(true, $$end$$, $$$$)');
	IPC::Run::run(
		[ 'pg_recvlogical', @server, '--slot', $slot, '--start', '--no-loop', '-f', '-', '--endpos', $end, @options ],
		'>', \$out, '2>', \$err, IPC::Run::timeout(180))
	  or die "pg_recvlogical: $err";
	return $out;
}

# What a consumer does: keep the names, and put them into the events.
sub consumer
{
	my (%names, @events);
	return {
		take => sub {
			my ($table, $row) = @_;
			if ($table eq 'stream') { $names{stream}{ $row->{stream_no} } = $row->{stream_id} }
			elsif ($table eq 'event_type') { $names{type}{ $row->{type_no} } = $row->{event_type} }
			else
			{
				push @events, {
					%{$row}{qw(global_position event_id version data metadata)},
					stream_id => defined $row->{stream_no} ? $names{stream}{ $row->{stream_no} } // 'unknown' : undef,
					event_type => $names{type}{ $row->{type_no} } // 'unknown'
				};
			}
		},
		events => \@events
	};
}

sub judge
{
	my ($what, $events) = @_;
	my @positions = map { $_->{global_position} } @$events;
	my (%version, $disorder);

	is_deeply([ sort { $a->{global_position} <=> $b->{global_position} } map { +{ map { $_ // '' } %$_ } } @$events ],
		[ map { +{ map { $_ // '' } %$_ } } @$stored ], "$what: every event of the store, once, names and payload");
	isnt("@positions", join(' ', sort { $a <=> $b } @positions), "$what: the order of commits is not the global order");
	foreach my $event (grep { defined $_->{stream_id} } @$events)
	{
		$disorder++ if $event->{version} != ++$version{ $event->{stream_id} };
	}
	is($disorder, undef, "$what: within a stream it is the order of versions");
	return;
}

sub wal2json
{
	my $consumer = consumer();
	my $json = JSON::PP->new->utf8;

	foreach my $line (split /\n/, receive('feed'))
	{
		my $change = $json->decode($line);
		next unless $change->{action} eq 'I';
		my %row = map { $_->{name} => $_->{value} } @{ $change->{columns} };
		$consumer->{take}->($change->{table}, \%row);
	}
	ok(!ref $consumer->{events}[0]{data}, 'wal2json: jsonb is a string');
	judge('wal2json', $consumer->{events});
	return;
}

# The messages of protocol version 1 (Relation, Insert), which pg_recvlogical
# prints with a line feed behind each.
sub parse_pgoutput
{
	my ($out, $take) = @_;
	my %relation;

	while (length $out)
	{
		my $kind = substr $out, 0, 1, '';
		if ($kind eq 'B') { substr $out, 0, 20, '' }
		elsif ($kind eq 'C') { substr $out, 0, 25, '' }
		elsif ($kind eq 'R')
		{
			my ($oid, $schema, $table, $identity, $n) = unpack 'N Z* Z* a n', $out;
			substr $out, 0, 4 + length($schema) + length($table) + 2 + 3, '';
			my @columns;
			for (1 .. $n)
			{
				my ($flags, $column) = unpack 'C Z*', $out;
				push @columns, $column;
				substr $out, 0, 1 + length($column) + 1 + 8, '';
			}
			$relation{$oid} = [ $table, @columns ];
		}
		elsif ($kind eq 'I')
		{
			my ($oid, $new, $n) = unpack 'N a n', substr $out, 0, 7, '';
			my ($table, @columns) = @{ $relation{$oid} };
			my %row;
			foreach my $column (@columns)
			{
				my $is = substr $out, 0, 1, '';
				next if $is eq 'n';
				my $len = unpack 'N', substr $out, 0, 4, '';
				$row{$column} = substr $out, 0, $len, '';
				utf8::decode($row{$column});
			}
			$take->($table, \%row);
		}
		else { die "message of kind $kind" }
		die 'no line feed' unless substr($out, 0, 1, '') eq "\n";
	}
	return;
}

sub pgoutput
{
	my $consumer = consumer();

	parse_pgoutput(receive('feed_pgoutput'), $consumer->{take});
	judge('pgoutput', $consumer->{events});
	return;
}

sub outbox_in_order
{
	my @rows;

	$dbh->do(q{SELECT es_run_projection('outbox')});
	my $out = $dbh->selectcol_arrayref(
		q{SELECT encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('outbox', NULL, NULL,
			'proto_version', '1', 'publication_names', 'outbox')});
	parse_pgoutput(join('', map { pack('H*', $_) . "\n" } @$out), sub { push @rows, $_[1] });
	is_deeply([ map { [ @{$_}{qw(global_position id aggregatetype aggregateid type payload)} ] } @rows ],
		[ map { [ @{$_}{qw(global_position event_id)}, $_->{stream_id} =~ /^([^-]*)/, @{$_}{qw(stream_id event_type data)} ] }
			grep { defined $_->{stream_id} } @$stored ],
		'outbox: every event of a stream, once, in the global order');
	is(sql_value($dbh, 'SELECT count(*) FROM outbox'), 0, 'and the table is empty');
	return;
}
