# contrib/cluster: a router and its shards, databases of one server.  The router
# answers as a database with event_store does; slots move while writers write and
# a reader follows, and nothing is lost, doubled or out of order.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use IPC::Run ();
use Test::More;

seed_random();
my $node = store_cluster('cluster', preload => 'event_store');
my @environment = (PGHOST => $node->host, PGPORT => $node->port);

set_up();
my $late = late_begins();
same_answers();
routed();
under_load();
ended_early();
two_movers();
left_behind();
isolation();
half_read();
unsettled();
read_models();
permissions();
late_ends($late);
dumped();
$node->stop;
memory_ends() unless setting('ES_SANITIZER', 0);
done_testing();

# ---------------------------------------------------------------------------

sub run_sql_file
{
	my ($dbname, $sql, @options) = @_;
	my $out = '';

	local %ENV = (%ENV, @environment);
	IPC::Run::run([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-v', 'SHOW_CONTEXT=never', @options, '-d', $dbname ],
		'<', \$sql, '>', \$out, '2>&1');
	return $out;
}

sub shard
{
	my ($number) = @_;
	return sprintf("dbname=shard%d host=%s port=%s", $number, $node->host, $node->port);
}

# The first shard has events before it becomes one.
sub set_up
{
	$node->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(router shard1 shard2 shard3 direct);
	create_definitions($_) foreach qw(shard1 shard2 shard3 direct);
	$node->safe_psql('shard1',
		q{SELECT es_append('Old-' || n % 50, es_any(), 'Happened', to_jsonb(n), tags => '{old}') FROM generate_series(1, 3000) n});

	local %ENV = (%ENV, @environment);
	is(run_program('event_store_cluster_setup', 'dbname=router', map { shard($_) } 1, 2), 0, 'the set-up script');
	is($node->safe_psql('router', 'SELECT shard, count(*) FROM event_store_cluster.slot GROUP BY 1 ORDER BY 1'),
		"1|512\n2|512", 'slots are spread over the shards');
	is($node->safe_psql('router', q{SELECT count(*), count(DISTINCT event_id), count(DISTINCT shard) FROM es_read_all(NULL, NULL)}),
		'3000|3000|1', 'events that were there before are read once, where they were');
	is($node->safe_psql('router', q{SELECT count(*), min(v), max(v) FROM
			(SELECT es_stream_version('Old-' || n) AS v FROM generate_series(0, 49) n) v}),
		'50|60|60', 'and their streams wherever they are');
	return;
}

sub create_definitions
{
	my ($dbname) = @_;

	$node->safe_psql($dbname, q{
		CREATE EXTENSION event_store;
		CREATE FUNCTION add(state jsonb, event es_event) RETURNS jsonb IMMUTABLE LANGUAGE sql
			AS $$SELECT to_jsonb((state #>> '{}')::numeric + (event.data ->> 'amount')::numeric)$$;
		SELECT es_define_aggregate('Account', 'add(jsonb, es_event)', '0', 3);
		CREATE FUNCTION up(data jsonb) RETURNS jsonb IMMUTABLE LANGUAGE sql AS $$SELECT data || '{"up": true}'$$;
		CREATE FUNCTION internal() RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE 'not found' USING ERRCODE = 'XX000'; END$$;
		SELECT es_define_upcaster('Raised', 1, 'up(jsonb)');});
	return;
}

# Every call, every error: what the router prints is what a database with
# event_store prints.
sub same_answers
{
	my $id = '10000000-0000-4000-8000-00000000000';
	my $sql = qq{
SELECT version, is_duplicate FROM es_append('Account-1', 0, 'Opened', '{"amount": 1}', '{"user": "u"}', '${id}1', 2, '{b,a}');
SELECT version, is_duplicate FROM es_append('Account-1', 0, 'Opened', '{"amount": 1}', '{"user": "u"}', '${id}1', 2, '{b,a}');
SELECT version, is_duplicate FROM es_append('Account-1', 0, 'Opened', '{"amount": 2}', '{}', '${id}1', 2);
SELECT version, is_duplicate FROM es_append('Account-1', 0, 'Opened', '{}');
SELECT version, is_duplicate FROM es_append('Account-1', -1, 'Opened', '{}');
SELECT version, is_duplicate FROM es_append('Account-1', NULL, 'Opened', '{}');
SELECT version, is_duplicate FROM es_append(NULL, 0, 'Opened', '{}');
SELECT version, is_duplicate FROM es_append('', 0, 'Opened', '{}');
SELECT version, is_duplicate FROM es_append('Account-1', 1, 'Opened', NULL);
SELECT version, is_duplicate FROM es_append('Account-2', es_exists(), 'Opened', '{}');
SELECT version, is_duplicate FROM es_append('Account-1', es_any(), 'Paid', 'null');
SELECT version, is_duplicate FROM es_append('Account-1', es_any(), 'Paid', to_jsonb(repeat('x', 2000000)));
SELECT version, is_duplicate FROM es_append_batch('Batch-1', 0, '{A,B,C}', '{1,"\\"x\\"",null}', '{"{}","{\\"m\\": 1}",NULL}',
	'{${id}2,NULL,NULL}', '{1,2,3}', ARRAY['["t"]', NULL, '[]']::jsonb[]);
SELECT version, is_duplicate FROM es_append_batch('Batch-1', 0, '{A,B}', ARRAY['1', '2']::jsonb[]);
SELECT version, is_duplicate FROM es_append_batch('Batch-1', 3, '{A}', ARRAY['1', '2']::jsonb[]);
SELECT version, is_duplicate FROM es_append_batch('Batch-1', 3, '{}', '{}');
SELECT version, is_duplicate FROM es_append('Json-1', 0, '[{"event_type": "A", "data": 1, "tags": ["t", "u"]}, {"event_type": "B", "data": null}]');
SELECT version, is_duplicate FROM es_append('Json-1', 2, '{"event_type": "A", "data": 1, "wrong": 1}');
SELECT version, is_duplicate FROM es_append('Json-1', 3, '{"event_type": "A", "data": 1}');
SELECT stream_id, version, is_duplicate FROM es_append_streams('[{"stream_id": "Json-1", "expected_version": 2, "events": [{"event_type": "X", "data": 1}]}]');
SELECT stream_id, version, is_duplicate FROM es_append_streams('[{"stream_id": "Json-1", "expected_version": 2, "events": [{"event_type": "X", "data": 1}]}]');
SELECT stream_id, version, is_duplicate FROM es_append_streams('{}');
SELECT stream_id, version, is_duplicate FROM es_append_streams('[{"expected_version": 2}]');
SELECT stream_id, version, is_duplicate FROM es_append_streams(NULL);
SELECT version, event_type, schema_version, data, metadata FROM es_read_stream('Batch-1');
SELECT version, data FROM es_read_stream('Batch-1', 2);
SELECT version, data FROM es_read_stream('Batch-1', 2, 1);
SELECT version, data FROM es_read_stream('Batch-1', NULL, 0);
SELECT version, data FROM es_read_stream('Batch-1', NULL, -1);
SELECT version, data FROM es_read_stream('Batch-1', 2, NULL, true);
SELECT version, data FROM es_read_stream('Nothing-1');
SELECT version, data FROM es_read_stream(NULL);
SELECT count(es_append_batch('Long-1', es_any(), array_fill('A'::text, '{700}'), array_fill(to_jsonb(n), '{700}'))) FROM generate_series(1, 5) n;
SELECT count(*), count(DISTINCT version), string_agg(version::text, ',') = (SELECT string_agg(n::text, ',') FROM generate_series(1, 3500) n)
  FROM es_read_stream('Long-1');
SELECT count(*), string_agg(version::text, ',') = (SELECT string_agg(n::text, ',' ORDER BY n DESC) FROM generate_series(1, 3500) n)
  FROM es_read_stream('Long-1', backward => true);
SELECT count(*), min(version), max(version) FROM es_read_stream('Long-1', 500, 2000);
SELECT es_stream_version('Batch-1'), es_stream_version('Nothing-1');
SELECT es_stream_version(NULL);
SELECT es_snapshot('Batch-1', 2, '{"s": 1}'), es_snapshot('Batch-1', 1, '{}');
SELECT es_snapshot('Batch-1', 9, '{}');
SELECT es_snapshot('Account-1', 1, '{}');
SELECT stream_id, version, data, schema_version FROM es_read_snapshot('Batch-1');
SELECT * FROM es_read_snapshot('Nothing-1');
SELECT version, snapshot_version, snapshot, cardinality(events), (events[1]).data, (events[1]).version FROM es_load('Batch-1');
SELECT version, snapshot_version, snapshot, cardinality(events) FROM es_load('Batch-1', 7);
SELECT es_append('Account-3', n - 1, 'Paid', '{"amount": 5}') IS NULL FROM generate_series(1, 7) n;
SELECT * FROM es_state('Account-3');
SELECT * FROM es_state('Account-3', 4);
SELECT * FROM es_state('Account-3', at_time => '2000-01-01');
SELECT * FROM es_state('Nothing-1');
SELECT version, data FROM es_append('Up-1', 0, 'Raised', '{"a": 1}'), es_read_stream('Up-1');
SELECT version, data FROM es_read_stream('Up-1');
SELECT version, event_type, data FROM es_read_event('${id}1');
SELECT * FROM es_read_event('${id}9');
SELECT es_tags(e) FROM es_read_stream('Account-1') e;
SELECT es_tags(e) FROM es_read_stream('Batch-1') e;
SELECT es_envelope(e) ->> 'stream_id', (es_envelope(e) -> 'metadata') ? 'timestamp' FROM es_read_stream('Account-1') e;
SELECT es_any(), es_exists();
};
	my $router = run_sql_file('router', $sql);
	my $direct = run_sql_file('direct', $sql);

	# where in the source an error was raised is no part of it, nor is the
	# statement that a client's mistake was found in
	for ($router, $direct)
	{
		s/^LOCATION: .*\n//mg;
		s/^psql:[^:]*:\d+: //mg;
	}
	my @states = $direct =~ /ERROR:  (\w{5}):/g;
	cmp_ok(scalar(@states), '>', 20, 'errors of many kinds: ' . join(' ', sort keys %{ { map { $_ => 1 } @states } }));
	is($router, $direct, 'the router answers as event_store does, results and errors');
	return;
}

sub routed
{
	my $dbh = connect_store($node, db => 'router');

	$dbh->do(q{SELECT es_append('Route-' || n, 0, 'Made', to_jsonb(n), tags => ARRAY['n:' || n % 10]) FROM generate_series(1, 400) n});
	is(sql_value($dbh, q{SELECT count(*) FROM generate_series(1, 400) n,
			es_on_shards(format('SELECT es_stream_version(%L) AS v', 'Route-' || n)) r
			WHERE (r.result ->> 'v')::int <> CASE WHEN r.shard = event_store_cluster.shard_of('Route-' || n) THEN 1 ELSE 0 END}),
		0, 'each stream is on its shard, and there alone');
	is(sql_value($dbh, q{SELECT count(DISTINCT event_store_cluster.shard_of('Route-' || n)) FROM generate_series(1, 400) n}),
		2, 'on both');

	# rows that go to disk on the router must not end with the subtransaction that has fetched them
	$dbh->do(q{SET work_mem = '64kB'});
	is(sql_value($dbh, q{SELECT count(*) || ' ' || max(version) FROM
			es_append_batch('Large-1', 0, array_fill('Many'::text, '{5000}'), array_fill('1'::jsonb, '{5000}'))}),
		'5000 5000', 'more rows than work_mem has room for');
	$dbh->do('RESET work_mem');

	# one event of each kind of reader and of each page size
	foreach my $case (
		[ 'es_read_category(%s, %s, %s)', q{'Route'} ],
		[ 'es_read_all(%2$s, %3$s, %1$s)', q{'{Route}'} ],
		[ 'es_read_query(%s, %s, %s)', q{'{"items": [{"event_types": ["Made"]}]}'} ])
	{
		my ($call, $argument) = @$case;
		foreach my $size (7, 400)
		{
			my ($positions, @seen) = (undef);
			while (1)
			{
				my $rows = $dbh->selectall_arrayref(sprintf("SELECT data::text, positions::text, shard, global_position FROM $call",
						$argument, defined $positions ? "'$positions'" : 'NULL', $size));
				last unless @$rows;
				push @seen, @$rows;
				$positions = $rows->[-1][1];
			}
			is(join(',', sort { $a <=> $b } map { $_->[0] } @seen), join(',', 1 .. 400), "$call, pages of $size: each event once");
			my %last;
			is(scalar(grep { my $before = $last{ $_->[2] } || 0; $last{ $_->[2] } = $_->[3]; $_->[3] <= $before } @seen),
				0, 'in the order of each shard');
		}
	}
	is(sql_value($dbh, q{SELECT count(*) || ' ' || count(*) FILTER (WHERE global_position >= before) FROM
			(SELECT r.*, lag(global_position) OVER (PARTITION BY shard ORDER BY n) AS before
			   FROM (SELECT r.*, row_number() OVER () AS n FROM es_read_category('Route', NULL, NULL, true) r) r) r}),
		'400 0', 'backward, the other way round');
	is(sql_value($dbh, q{SELECT count(*) FROM es_read_query('{"items": [{"tags": ["n:3"]}]}')}), 40, 'by tags');
	is(sql_value($dbh, 'SELECT count(*) FROM es_read_all(es_head())'), 0, 'nothing after the heads');

	my @two = map { sql_value($dbh, "SELECT 'Route-' || n FROM generate_series(1, 400) n WHERE event_store_cluster.shard_of('Route-' || n) = $_ LIMIT 1") } 1, 2;
	foreach my $case (
		[ sprintf(q{es_append_streams('[{"stream_id": "%s", "expected_version": 1, "events": [{"event_type": "X", "data": 1}]},
			{"stream_id": "%s", "expected_version": 1}]')}, @two), '0A000' ],
		[ q{es_append_if('[{"event_type": "X", "data": 1, "tags": ["t"]}]', '{"items": [{"tags": ["t"]}]}')}, '0A000' ],
		[ q{es_decide('{}', 'es_tags(es_event)', '{}')}, '0A000' ],
		[ q{es_read_all('{100000000,0}')}, 'VE004' ],
		[ q{es_read_all('[0:1]={0,0}')}, '22023' ],
		[ q{es_read_all(NULL, -1)}, '22023' ],
		[ q{es_read_query(NULL)}, '22023' ],
		[ q{es_read_category('$ce-Route')}, '22023' ],
		[ q{es_on_shards('SELECT 1/0')}, '22012' ],
		[ q{es_on_shards('SELECT internal()')}, 'XX000' ],
		[ q{es_on_shards($$SELECT event_store_shard.reading('Route-1')$$)}, '55000' ])
	{
		is(sqlstate($dbh, "SELECT * FROM $case->[0]"), $case->[1], "$case->[1]: " . substr($case->[0], 0, 40));
	}
	is(sql_value($dbh, "SELECT es_stream_version('$two[0]')"), 1, 'nothing was appended by half');
	$dbh->begin_work;
	$dbh->do('SET TRANSACTION ISOLATION LEVEL REPEATABLE READ');
	is(sqlstate($dbh, 'SELECT * FROM es_read_all()'), '0A000', 'no snapshot is promised over several shards');
	$dbh->rollback;
	$dbh->disconnect;
	return;
}

# Writers, a follower, and the slots of everything on their way.
sub under_load
{
	my $writers = setting('ES_CLUSTER_WRITERS', 4);
	my $rounds = setting('ES_CLUSTER_ROUNDS', 6);

	new_flags();
	foreach my $writer (1 .. $writers)
	{
		start_client("writer$writer", sub { write_until_stopped($writer) });
	}
	start_client('follower', \&follow);

	{
		local %ENV = (%ENV, @environment);
		is(run_program('event_store_cluster_add_shard', 'dbname=router', shard(3)), 0, 'a shard is added while everybody works');
	}
	is($node->safe_psql('router', 'SELECT min(n), max(n), count(*) FROM (SELECT count(*) AS n FROM event_store_cluster.slot GROUP BY shard) s'),
		'341|342|3', 'it has its share');
	foreach my $round (1 .. $rounds)
	{
		my ($from, $to) = (random_int(0, 767), random_int(1, 3));
		$node->safe_psql('router', sprintf("CALL es_move_slots('{%s}', %d)", join(',', $from .. $from + 256), $to));
	}
	flag_set('stop');
	my $result = wait_clients(limit => 300, names => [ map { "writer$_" } 1 .. $writers ], test => 'no writer was refused anything');
	flag_set('written');
	$result = { %$result, %{ wait_clients(limit => 300, test => 'nor was the reader') } };

	my $dbh = connect_store($node, db => 'router');
	my (%want, $longest, $appends);
	foreach my $writer (1 .. $writers)
	{
		my $got = $result->{"writer$writer"};
		%want = (%want, %{ $got->{events} });
		$longest = $got->{longest} if !defined $longest || $got->{longest} > $longest;
		$appends += $got->{appends};
	}
	note sprintf('%d events of %d appends, the longest took %.3f s', scalar(keys %want), $appends, $longest);

	my %have = map { $_->[0] => "$_->[1]/$_->[2]" } @{ $dbh->selectall_arrayref(
			q{SELECT r.event_id, r.stream_id, r.version
				FROM generate_series(1, ?) w, generate_series(0, 19) s, es_read_stream(format('Load-%s-%s', w, s)) r}, undef, $writers) };
	is(scalar(grep { ($have{$_} || '') ne $want{$_} } keys %want), 0, 'what was acknowledged is there, with its version');
	is(scalar(keys %have), scalar(keys %want), 'and nothing else');

	is(scalar(@{ $result->{follower}{doubled} }), 0, 'the follower has seen no event twice');
	is(scalar(@{ $result->{follower}{disordered} }), 0, "each stream's events came in their order")
	  or diag(join("\n", @{ $result->{follower}{disordered} }[ 0 .. 4 ]));
	is(scalar(grep { !$result->{follower}{seen}{$_} } keys %want), 0, 'it has missed none')
	  or diag(explain([ (grep { !$result->{follower}{seen}{$_} } keys %want)[ 0 .. 4 ] ]));

	my $all = read_order($dbh, q{es_read_category('Load', NULL, NULL)});
	is_deeply($all, { events => scalar(keys %want), distinct => scalar(keys %want), disordered => 0 }, 'a reader that begins now reads the same');
	$all = read_order($dbh, q{es_read_category('Load', NULL, NULL, true)}, 1);
	is_deeply($all, { events => scalar(keys %want), distinct => scalar(keys %want), disordered => 0 }, 'and backward');
	my $copies = sql_value($dbh, q{SELECT sum((result ->> 'n')::int) FROM es_on_shards($$SELECT count(*) AS n FROM es_read_category('Load', 0, NULL)$$)});
	cmp_ok($copies, '>', scalar(keys %want), "the shards' own readers would see $copies");

	my ($id) = sort keys %want;
	my ($stream, $version) = split qr{/}, $want{$id};
	my $again = append($dbh, $stream, $version - 1, 'Loaded', $id, sql_value($dbh, 'SELECT data FROM es_read_event(?)', $id));
	is_deeply([ @$again{qw(version duplicate)} ], [ $version, 1 ], 'a retry is answered with the first result, wherever its stream is now');
	is(sql_value($dbh, q{SELECT count(*) FROM es_on_shards('SELECT * FROM es_verify()')}), 0, 'every shard is sound');
	$dbh->disconnect;
	return;
}

# Three forms of append, each with the exact version.
sub write_until_stopped
{
	my ($writer) = @_;
	my $dbh = connect_store($node, db => 'router');
	my (%version, %events);
	my ($longest, $appends) = (0, 0);

	while (!flag_is_set('stop'))
	{
		my $stream = sprintf('Load-%d-%d', $writer, random_int(0, 19));
		my $before = $version{$stream} || 0;
		my @id = map { random_uuid() } 1 .. random_int(1, 3);
		my $begin = Time::HiRes::time();
		my $got;
		if (@id == 1)
		{
			$got = [ append($dbh, $stream, $before, 'Loaded', $id[0]) ];
		}
		elsif (random_int(0, 1))
		{
			$got = append_batch($dbh, $stream, $before, 'Loaded', \@id);
		}
		else
		{
			my $json = '[' . join(',', map { qq({"event_type": "Loaded", "data": 1, "event_id": "$_"}) } @id) . ']';
			$got = $dbh->selectall_arrayref('SELECT event_id AS id, version FROM es_append(?, ?, ?::jsonb)', { Slice => {} }, $stream, $before, $json);
		}
		my $took = Time::HiRes::time() - $begin;
		$longest = $took if $took > $longest;
		$appends++;
		foreach my $event (@$got)
		{
			die "version $event->{version} after $before\n" unless $event->{version} == ++$before;
			$events{ $event->{id} } = "$stream/$event->{version}";
		}
		$version{$stream} = $before;
		die "es_stream_version does not see the append\n" if random_int(1, 20) == 1
		  && sql_value($dbh, 'SELECT es_stream_version(?)', $stream) != $before;
	}
	return { events => \%events, longest => $longest, appends => $appends };
}

sub follow
{
	my $dbh = connect_store($node, db => 'router');
	my ($positions, %seen, %version, @doubled, @disordered, $stopped);

	while (1)
	{
		$stopped = flag_is_set('written');
		my $rows = $dbh->selectall_arrayref(q{SELECT event_id, stream_id, version, positions::text, shard, global_position
			FROM es_read_category('Load', ?, 50)}, undef, $positions);
		foreach my $row (@$rows)
		{
			my ($id, $stream, $version) = @$row;
			push @doubled, $id if $seen{$id}++;
			push @disordered, "$stream $version after " . ($version{$stream} || 0) . " at shard $row->[4]: $row->[5]"
			  if $version != ($version{$stream} || 0) + 1;
			$version{$stream} = $version;
			$positions = $row->[3];
		}
		last if $stopped && !@$rows;
	}
	return { seen => \%seen, doubled => \@doubled, disordered => \@disordered };
}

# how many events, how many of them different, how many streams out of order
sub read_order
{
	my ($dbh, $call, $backward) = @_;
	my $direction = $backward ? 'DESC' : 'ASC';

	return $dbh->selectrow_hashref(qq{
		SELECT sum(n)::int AS events, sum(d)::int AS distinct, count(*) FILTER (WHERE got <> want)::int AS disordered
		  FROM (SELECT count(*) AS n, count(DISTINCT event_id) AS d, array_agg(version ORDER BY place) AS got,
					   array_agg(version ORDER BY version $direction) AS want
				  FROM (SELECT r.*, row_number() OVER () AS place FROM $call r) r GROUP BY stream_id) s});
}

# A move that ends between giving a slot away and taking it.
sub ended_early
{
	my $dbh = connect_store($node, db => 'router');
	my $slot = sql_value($dbh, q{SELECT event_store_cluster.slot_of('Early-1')});
	my $from = sql_value($dbh, q{SELECT event_store_cluster.shard_of('Early-1')});
	my $to = $from % 3 + 1;

	append($dbh, 'Early-1', 0, 'Made');
	$node->safe_psql('router', qq{
		SELECT event_store_cluster.begin_copy($to - 1, '{$slot}', $from);
		SELECT event_store_cluster.release($from - 1, '{$slot}');});
	new_flags();
	start_client('waiting', sub {
			my $own = connect_store($node, db => 'router', app => 'waiting');
			return append($own, 'Early-1', 1, 'Made');
	});
	ok(poll_until(sub { sql_value($dbh, q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'waiting' AND wait_event = 'PgSleep'}) }),
		'an append to a slot that nobody has waits');
	is(sqlstate($dbh, qq{CALL es_move_slots('{$slot}', $to)}), '00000', 'a move that ended early is ended by calling it again');
	my $result = wait_clients(test => 'the append goes through');
	is($result->{waiting}{version}, 2, 'with its version');
	is(sql_value($dbh, q{SELECT event_store_cluster.shard_of('Early-1')}), $to, 'on the new shard');

	# and one that ended when the shard had taken the slot, but the router had not heard
	my $next = $to % 3 + 1;
	$node->safe_psql('router', qq{
		BEGIN;
		SELECT event_store_cluster.move_slots('{$slot}', $to, $next);
		ROLLBACK;});
	is(sqlstate($dbh, qq{CALL es_move_slots('{$slot}', $next)}), '00000', 'the same at its very end');
	is(append($dbh, 'Early-1', 2, 'Made')->{version}, 3, 'and appends go on');
	is(sql_value($dbh, q{SELECT string_agg(version || '', ',') FROM es_read_category('Early')}), '1,2,3', 'read once each, in order');
	is(sqlstate($dbh, qq{CALL es_move_slots('{$slot}', 9)}), '22023', 'there is no such shard');
	$dbh->begin_work;
	is(sqlstate($dbh, qq{CALL es_move_slots('{$slot}', $to)}), '2D000', 'not in a transaction block');
	$dbh->rollback;
	$dbh->disconnect;
	return;
}

# the shards that have a slot
sub owners
{
	my ($dbh, $slot) = @_;
	return sql_value($dbh, qq{SELECT string_agg(shard::text, ',' ORDER BY shard)
		FROM es_on_shards('SELECT FROM event_store_shard.slot WHERE slot = $slot')});
}

# A stream with one event: its slot, its shard and the two others.
sub one_event
{
	my ($dbh, $stream) = @_;

	append($dbh, $stream, 0, 'Made');
	my ($slot, $from) = $dbh->selectrow_array('SELECT event_store_cluster.slot_of($1), event_store_cluster.shard_of($1)', undef, $stream);
	return ($slot, $from, $from % 3 + 1, ($from + 1) % 3 + 1);
}

# Who moves a slot while somebody else does takes it from where that one has
# brought it.
sub two_movers
{
	my $dbh = connect_store($node, db => 'router');
	my ($slot, $from, $to, $next) = one_event($dbh, 'Twice-1');

	$dbh->begin_work;
	$dbh->do("SELECT event_store_cluster.move_slots('{$slot}', $from, $to)");
	append($dbh, 'Twice-1', 1, 'Made');
	new_flags();
	start_client('mover', sub {
			my $own = connect_store($node, db => 'router', app => 'mover');
			return { state => sqlstate($own, qq{CALL es_move_slots('{$slot}', $next)}) };
	});
	my $other = connect_store($node, db => 'router');
	ok(poll_until(sub { sql_value($other, q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mover' AND wait_event_type = 'Lock'}) }),
		'a second mover waits for the first');
	$other->disconnect;
	$dbh->commit;
	is(wait_clients(test => 'and goes on')->{mover}{state}, '00000', 'and moves the slot');
	is(owners($dbh, $slot), $next, 'to where it should be, and it is there alone');
	is(sql_value($dbh, q{SELECT string_agg(version::text, ',') FROM es_read_stream('Twice-1')}), '1,2', 'with what was appended in between');
	$dbh->disconnect;
	return;
}

# What moves leave that ended early, when the slot then goes elsewhere.
sub left_behind
{
	my $dbh = connect_store($node, db => 'router');
	my ($slot, $from, $to, $next) = one_event($dbh, 'Left-1');
	my $version = 1;
	my $moves = sub {
		my ($shard, $name) = @_;
		is(sqlstate($dbh, qq{CALL es_move_slots('{$slot}', $shard)}), '00000', $name);
		is(owners($dbh, $slot), $shard, 'the slot is there, and there alone');
		is(append($dbh, 'Left-1', $version, 'Made')->{version}, $version + 1, 'and takes an append');
		$version++;
	};

	# the shard has the slot, the router has not heard
	$node->safe_psql('router', "BEGIN; SELECT event_store_cluster.move_slots('{$slot}', $from, $to); ROLLBACK;");
	my $refused = run_sql_file('router', "CALL es_move_slots('{$slot}', $next)");
	like($refused, qr/^ERROR:  55000: slots belong to another shard than the router's table says\nDETAIL:  slot=$slot shard=$to\nHINT:  /m,
		'what a third shard has already does not move from where the router thinks it is');
	$moves->($to, 'the move that ended early is ended first');
	$moves->($next, 'then it moves on');
	$moves->($to, 'and back');

	# the copy has begun
	$node->safe_psql('router', "SELECT event_store_cluster.begin_copy($from - 1, '{$slot}', $to)");
	$moves->($next, 'a move that ended while it copied leaves the slot free to go elsewhere');
	$moves->($from, 'and from there to where it was to go');

	# nobody has the slot
	$node->safe_psql('router', "SELECT event_store_cluster.release($from - 1, '{$slot}')");
	$moves->($from, 'a slot that was given away, and that nobody has taken, is taken back');

	my $versions = join(',', 1 .. $version);
	is(sql_value($dbh, q{SELECT string_agg(version::text, ',') FROM es_read_stream('Left-1')}), $versions, 'the stream is whole');
	is(sql_value($dbh, q{SELECT string_agg(version::text, ',') FROM es_read_category('Left')}), $versions, 'and read once, in order');
	is(sql_value($dbh, q{SELECT string_agg(version::text, ',') FROM es_read_category('Left', NULL, 1000, true)}),
		join(',', reverse 1 .. $version), 'backward, too');
	$dbh->disconnect;
	return;
}

# A snapshot from before the wait for appends that are under way does not have
# them.
sub isolation
{
	my $dbh = connect_store($node, db => 'router');
	my ($slot, $from, $to) = one_event($dbh, 'Isolated-1');
	my $shard = connect_store($node, db => "shard$from");

	foreach my $level ('REPEATABLE READ', 'SERIALIZABLE')
	{
		$shard->begin_work;
		$shard->do("SET TRANSACTION ISOLATION LEVEL $level");
		is(sqlstate($shard, "SELECT event_store_shard.release('{$slot}')"), '0A000', "no shard gives a slot away in $level");
		$shard->rollback;
		$dbh->do(sprintf q{SET default_transaction_isolation = '%s'}, lc $level);
		is(sqlstate($dbh, "CALL es_move_slots('{$slot}', $_)"), '0A000', "nor does the router move it, $level") foreach $to, $from;
		is(sqlstate($dbh, "SELECT event_store_cluster.move_slots('{$slot}', $from, $to)"), '0A000', 'in any way');
		$dbh->do('RESET default_transaction_isolation');
	}
	is(owners($dbh, $slot), $from, 'it is where it was');
	$_->disconnect foreach $dbh, $shard;
	return;
}

# A read of the table of slots that was cancelled is no read.
sub half_read
{
	my $router = connect_store($node, db => 'router');
	my (undef, $from) = one_event($router, 'Half-1');
	my $shard = connect_store($node, db => "shard$from");

	foreach my $case (
		[ $router, 'event_store_cluster', 'shard = shard', 'event_store_cluster.part_of', q{SELECT es_stream_version('Half-1')} ],
		[ $shard, 'event_store_shard', 'slot = slot', 'event_store_shard.writing', q{SELECT event_store_shard.writing('Half-1')} ])
	{
		my ($dbh, $schema, $set, $function, $call) = @$case;
		$dbh->do("UPDATE $schema.slot SET $set");
		is(sqlstate($dbh, "SELECT pg_cancel_backend(pg_backend_pid()), $function('Half-1')"), '57014', "$schema: a cancel while the slots are read");
		is(sqlstate($dbh, $call), '00000', 'they are read again');
	}
	$_->disconnect foreach $router, $shard;
	return;
}

# A statement that had been running for 31 s when its stream went to another
# shard.  The other tests are the time.
sub late_begins
{
	my %late = (dbh => connect_store($node, db => 'router'), out => '');

	$late{dbh}->do('SELECT pg_advisory_lock(31)');
	my @sql = (q{SET application_name = 'late'}, q{DO $$BEGIN
			PERFORM pg_advisory_lock(31);
			PERFORM pg_advisory_unlock(31);
			PERFORM es_append('Late-1', 0, 'Made', '1');
			PERFORM es_append_streams('[{"stream_id": "Late-1", "expected_version": 1, "events": [{"event_type": "Made", "data": 1}]}]');
		END$$}, q{SELECT 'done'});
	local %ENV = (%ENV, @environment);
	$late{run} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', 'router', map { ('-c', $_) } @sql ],
		'>', \$late{out}, '2>&1');
	return \%late;
}

sub late_ends
{
	my ($late) = @_;
	my $dbh = $late->{dbh};
	my $state = q{SELECT %s FROM pg_stat_activity WHERE application_name = 'late'};

	ok(poll_until(sub { sql_value($dbh, sprintf $state, q{clock_timestamp() > query_start + '31 s'}) }), 'a statement has run for 31 s');
	my ($slot, $from) = $dbh->selectrow_array(q{SELECT event_store_cluster.slot_of('Late-1'), event_store_cluster.shard_of('Late-1')});
	my $to = $from % 3 + 1;
	$node->safe_psql('router', qq{
		SELECT event_store_cluster.begin_copy($to - 1, '{$slot}', $from);
		SELECT event_store_cluster.release($from - 1, '{$slot}');});
	$dbh->do('SELECT pg_advisory_unlock(31)');
	ok(poll_until(sub { $late->{run}->pump_nb; !$late->{run}->pumpable || sql_value($dbh, sprintf $state, q{bool_or(wait_event = 'PgSleep')}) }),
		'its stream is on its way to another shard');
	is(sqlstate($dbh, qq{CALL es_move_slots('{$slot}', $to)}), '00000', 'the stream arrives');
	$late->{run}->finish;
	is($late->{out}, "done\n", 'and the statement goes on');
	$dbh->disconnect;
	return;
}

# A stream leaves a shard where an open transaction holds readers back before its
# last event.  What it
# gets on the new shard must not be read before that.
sub unsettled
{
	my $dbh = connect_store($node, db => 'router');
	my $from = sql_value($dbh, q{SELECT event_store_cluster.shard_of('Held-1')});
	my $slot = sql_value($dbh, q{SELECT event_store_cluster.slot_of('Held-1')});
	my $to = $from % 3 + 1;
	my $blocker = connect_store($node, db => "shard$from");

	append($dbh, 'Held-1', 0, 'Made');
	$blocker->begin_work;
	append($blocker, 'Held-blocker', ANY, 'Made');
	append($dbh, 'Held-1', 1, 'Made');
	is(sqlstate($dbh, qq{CALL es_move_slots('{$slot}', $to)}), '00000', 'a stream can move whose end is not settled');
	append($dbh, 'Held-1', 2, 'Made');
	my $versions = q{SELECT string_agg(version::text, ',') FROM es_read_category('Held', NULL, 1000, %s)};
	is(sql_value($dbh, sprintf($versions, 'false')), '1', 'what comes after an event that is not settled waits for it, on another shard, too');

	# without the router's knowledge of the move: out of order
	$dbh->begin_work;
	$dbh->do('DELETE FROM event_store_cluster.move');
	is(sql_value($dbh, sprintf($versions, 'false')), '1,3', 'which it would not by itself');
	$dbh->rollback;
	$blocker->rollback;
	$blocker->disconnect;
	is(sql_value($dbh, sprintf($versions, 'false')), '1,2,3', 'and is read when that is there');
	is(sql_value($dbh, sprintf($versions, 'true')), '3,2,1', 'backward, too');
	is(sql_value($dbh, q{SELECT string_agg(version::text, ',') FROM es_read_stream('Held-1')}), '1,2,3', 'the stream has all of it');
	$dbh->disconnect;
	return;
}

# A projection on every shard, its rows read on the router by postgres_fdw.
sub read_models
{
	my $dbh = connect_store($node, db => 'router');

	foreach my $number (1 .. 3)
	{
		$node->safe_psql("shard$number", q{
			CREATE TABLE balance (stream_id text PRIMARY KEY, amount numeric NOT NULL);
			CREATE FUNCTION on_paid(event es_event) RETURNS void LANGUAGE sql AS $$
				INSERT INTO balance AS b VALUES (event.stream_id, (event.data ->> 'amount')::numeric)
				ON CONFLICT (stream_id) DO UPDATE SET amount = b.amount + excluded.amount$$;
			CREATE VIEW balance_here AS SELECT * FROM balance WHERE event_store_shard.is_here(stream_id);});
		my $connection = sprintf(q{host '%s', port '%s', dbname 'shard%d'}, $node->host, $node->port, $number);
		$node->safe_psql('router', qq{
			CREATE EXTENSION IF NOT EXISTS postgres_fdw;
			CREATE SERVER read$number FOREIGN DATA WRAPPER postgres_fdw OPTIONS ($connection);
			CREATE USER MAPPING FOR PUBLIC SERVER read$number OPTIONS (user '} . (getpwuid($<))[0] . qq{', password_required 'false');
			CREATE FOREIGN TABLE balance$number (stream_id text, amount numeric) SERVER read$number OPTIONS (table_name 'balance_here');});
	}
	$node->safe_psql('router', 'CREATE VIEW balances AS ' . join(' UNION ALL ', map { "SELECT * FROM balance$_" } 1 .. 3));
	sql_value($dbh, q{SELECT count(*) FROM es_on_shards(
		$$SELECT es_create_projection('balance', 'on_paid(es_event)', '{Pay}')$$)});
	$dbh->do(q{SELECT es_append('Pay-' || n % 30, es_any(), 'Paid', '{"amount": 2}') FROM generate_series(1, 300) n});
	$dbh->do(sprintf("CALL es_move_slots('{%s}', 2)", join(',', map { 5 * $_ } 0 .. 204)));
	$dbh->do(q{SELECT es_append('Pay-' || n % 30, es_any(), 'Paid', '{"amount": 3}') FROM generate_series(1, 300) n});
	is(sql_value($dbh, q{SELECT bool_and((result ->> 'ok')::boolean) FROM es_on_shards(
			$$SELECT es_wait_projection('balance', es_head(), '180 s') AS ok$$)}), 1, 'the projections have come to the end');
	is(sql_value($dbh, q{SELECT count(*) || ' ' || count(DISTINCT stream_id) || ' ' || min(amount) || ' ' || max(amount) FROM balances}), '30 30 50 50',
		'each stream has one row, of the shard where it is, with all its events');
	$dbh->disconnect;
	return;
}

sub permissions
{
	my $owner = connect_store($node, db => 'router');

	$node->safe_psql('postgres', "CREATE ROLE $_ LOGIN") foreach qw(clerk auditor stranger);
	foreach my $grant ([ 'clerk', 'writer' ], [ 'auditor', 'reader' ])
	{
		$node->safe_psql($_, "SELECT es_grant('$grant->[0]', '$grant->[1]')") foreach qw(router shard1 shard2 shard3);
	}
	my %may = (clerk => [ '00000', '00000', '42501' ], auditor => [ '42501', '00000', '00000' ], stranger => [ '42501', '42501', '42501' ]);
	foreach my $role (sort keys %may)
	{
		my $dbh = connect_store($node, db => 'router', user => $role, plain => 1);
		is_deeply([ map { sqlstate($dbh, $_) } q{SELECT es_append('Right-1', es_any(), 'Made', '1')}, q{SELECT * FROM es_read_stream('Right-1')}, 'SELECT * FROM es_read_all()' ],
			$may{$role}, "$role appends, reads a stream, reads all: @{$may{$role}}");
		is(sqlstate($dbh, q{SELECT es_on_shards('SELECT 1')}), '42501', "$role runs nothing on the shards");
		$dbh->disconnect;
	}
	# the rights on a shard are those of the role there
	$node->safe_psql($_, q{SELECT es_revoke('clerk', 'writer')}) foreach qw(shard1 shard2 shard3);
	my $dbh = connect_store($node, db => 'router', user => 'clerk', plain => 1);
	is(sqlstate($dbh, q{SELECT es_append('Right-1', es_any(), 'Made', '1')}), '42501', 'the shard has its say');
	$dbh->disconnect;
	$owner->disconnect;
	return;
}

# The router keeps little: pg_dump has all of it.
sub dumped
{
	my $file = $node->basedir . '/router.sql';
	my $read = q{SELECT count(*), md5(string_agg(event_id::text, ',')) FROM es_read_all(NULL, NULL)};

	$node->safe_psql('postgres', 'CREATE DATABASE router2');
	local %ENV = (%ENV, @environment);
	is(run_program('pg_dump', '-f', $file, 'router'), 0, 'pg_dump of the router');
	is(run_program('psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', 'router2', '-f', $file), 0, 'restored');
	is($node->safe_psql('router2', $read), $node->safe_psql('router', $read), 'it reads the same');
	is($node->safe_psql('router2', q{SELECT version FROM es_append('Account-1', 2, 'Paid', '{"amount": 1}')}), 3, 'and appends');
	return;
}

# An error of a shard that the router has no memory to copy is an error as any
# other: it leaves no subtransaction behind.  It is large, and of the large
# allocations of the call each fails once.
sub memory_ends
{
	my $small = store_cluster('memory', no_start => 1, conf => "jit = off\n");
	my $library = $small->basedir . '/es_malloc.so';
	is(run_program('cc', '-shared', '-fPIC', '-O', '-o', $library, "$FindBin::Bin/../malloc.c"),
		0, 'the library that lets allocations fail is built');
	{
		local $ENV{LD_PRELOAD} = $library;
		local $ENV{ES_MALLOC_MIN} = 50_000;
		$small->start;
	}
	$small->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(router shard1);
	$small->safe_psql('shard1', q{
		CREATE EXTENSION event_store;
		CREATE FUNCTION fails(data jsonb) RETURNS jsonb IMMUTABLE LANGUAGE plpgsql
			AS $$BEGIN RAISE '%', repeat('x', 100000); END$$;
		SELECT es_define_upcaster('Bad', 1, 'fails(jsonb)');});
	local %ENV = (%ENV, PGHOST => $small->host, PGPORT => $small->port);
	is(run_program('event_store_cluster_setup', 'dbname=router', sprintf 'dbname=shard1 host=%s port=%s', $small->host, $small->port),
		0, 'memory: the set-up script');
	my $admin = connect_store($small, db => 'router');
	run_sql($admin, 'CREATE TABLE kept (n int)', q{SELECT es_append('Bad-1', 0, 'Bad', '1')});

	my ($total, @bad, %states) = (0);
	for (my $nth = 0; $nth <= $total; $nth++)
	{
		my $dbh = connect_store($small, db => 'router');
		run_sql($dbh, "LOAD '$ENV{ES_FAULTS_LIBDIR}/event_store'", q{SELECT es_stream_version('Bad-1')});
		sqlstate($dbh, q{SELECT * FROM es_load('Bad-1')}) for 1 .. 2;
		$dbh->do('SET event_store.fault_malloc = ' . ($nth || 1_000_000));
		my $state = sqlstate($dbh, q{SELECT * FROM es_load('Bad-1')});
		$states{$state}++;
		$total = 1_000_000 - sql_value($dbh, 'SHOW event_store.fault_malloc') if $nth == 0;
		sqlstate($dbh, 'SET event_store.fault_malloc = 0') for 1 .. 2;
		my $insert = sqlstate($dbh, "INSERT INTO kept VALUES ($nth)");
		push @bad, "allocation $nth: $state, then $insert"
		  if $insert ne '00000' || !sql_value($admin, "SELECT count(*) FROM kept WHERE n = $nth");
		$dbh->disconnect;
	}
	is("@bad", '', "memory: a session goes on, whichever of $total large allocations fails: "
		  . join(', ', map { "$_ $states{$_}" } sort keys %states));
	cmp_ok($states{53200} || 0, '>', 0, 'memory: some calls have failed for it');
	$admin->disconnect;
	$small->stop;
	return;
}
