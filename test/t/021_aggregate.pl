# Upcasters and aggregates between sessions and servers: es_state neither waits
# nor fails because of its snapshot, definitions take effect everywhere at once,
# a standby gives the same answers, and a dump brings the definitions back.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use DBD::Pg ':async';
use Test::More;

seed_random();
my $node = store_cluster('aggregate', streaming => 1);
create_store($node);
my $dbh = connect_store($node);
my $other = connect_store($node);

run_sql(
	$dbh,
	q{CREATE FUNCTION sum_reduce(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE
	  AS $$ SELECT to_jsonb((state #>> '{}')::int + ((event).data->>'n')::int) $$},
	q{CREATE FUNCTION tenfold(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
	  AS $$ SELECT jsonb_build_object('n', (data->>'n')::int * 10) $$},
	q{SELECT es_define_aggregate('Sum', 'sum_reduce(jsonb,es_event)', '0', 5)});

no_wait();
older_snapshot();
changed_meanwhile();
older_than_definitions();
definitions_elsewhere();
no_loop_together();
no_leak();
waiting_fetch();
standby_and_dump();

$dbh->disconnect;
$other->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub state
{
	my ($conn, $stream) = @_;
	return join ' ', $conn->selectrow_array('SELECT version, state FROM es_state($1)', undef, $stream);
}

sub snapshot_version
{
	my ($stream) = @_;
	return sql_value($dbh, 'SELECT coalesce((es_read_snapshot($1)).version, 0)', $stream);
}

# Whatever another session holds, the answer comes, and comes at once.
sub no_wait
{
	my $number = 0;
	foreach my $blocker (
		[ 'a snapshot being saved', q{SELECT es_state('%s')} ],
		[ 'a snapshot being written', q{INSERT INTO event_store.snapshot (stream_no, schema_version, version, created_at, data)
			SELECT stream_no, 1, 3, now(), '3' FROM event_store.stream WHERE stream_id = '%s'} ],
		[ 'snapshots being thrown away', q{SELECT es_drop_snapshots()}, 1 ],
		[ 'a locked row', q{SELECT FROM event_store.snapshot FOR UPDATE}, 1 ],
		[ 'a locked table', q{LOCK TABLE event_store.snapshot IN EXCLUSIVE MODE} ],
		[ 'an upcaster being defined', q{SELECT es_define_upcaster('Unused', 1, 'tenfold(jsonb)')} ])
	{
		my ($name, $sql, $with_snapshot) = @$blocker;
		my $stream = 'Sum-' . ++$number;
		append_batch($dbh, $stream, 0, 'T', [ (undef) x 6 ]);
		if ($with_snapshot)
		{
			is(state($dbh, $stream), '6 21', "$name: a first snapshot");
			append_batch($dbh, $stream, 6, 'T', [ (undef) x 6 ]);
		}
		my ($answer, $before) = $with_snapshot ? ('12 42', 6) : ('6 21', 0);

		$other->do('BEGIN');
		$other->do(sprintf $sql, $stream);
		$dbh->do(q{SET statement_timeout = '5s'});
		is(eval { state($dbh, $stream) } || $@, $answer, "$name: the answer");
		$dbh->do('RESET statement_timeout');
		is(snapshot_version($stream), $before, "$name: nothing was saved");
		# and not in a transaction that goes on writing either
		$dbh->do('BEGIN');
		is(eval { state($dbh, $stream) } || $@, $answer, "$name: the answer in a transaction");
		append($dbh, "$stream-more", 0, 'T', random_uuid());
		$dbh->do('COMMIT');
		$other->do('ROLLBACK');
		is(state($dbh, $stream), $answer, "$name: the answer later");
		is(snapshot_version($stream), (split / /, $answer)[0], "$name: now it was saved");
	}
	return;
}

# A transaction that cannot see the newest events and the newest snapshot.
sub older_snapshot
{
	foreach my $level ('REPEATABLE READ', 'SERIALIZABLE')
	{
		my $stream = 'Sum-' . lc(substr $level, 0, 3);
		append_batch($dbh, $stream, 0, 'T', [ (undef) x 6 ]);
		$other->do("BEGIN ISOLATION LEVEL $level");
		is(sql_value($other, 'SELECT es_stream_version($1)', $stream), 6, "$level: begun");
		append_batch($dbh, $stream, 6, 'T', [ (undef) x 6 ]);
		is(state($dbh, $stream), '12 42', "$level: a newer snapshot is saved");
		is(eval { state($other, $stream) } || $@, '6 21', "$level: the older state");
		ok(eval { $other->do('COMMIT') }, "$level: the transaction commits");
		is(snapshot_version($stream), 12, "$level: the newer snapshot stays");
	}
	return;
}

# A state that was computed from definitions that change before it is done.
sub changed_meanwhile
{
	run_sql(
		$dbh,
		q{CREATE FUNCTION slow_reduce(state jsonb, event es_event) RETURNS jsonb LANGUAGE plpgsql AS $$
		  BEGIN
			IF (event).version = 3 THEN
				PERFORM pg_advisory_lock(42), pg_advisory_unlock(42);
			END IF;
			RETURN sum_reduce(state, event);
		  END $$},
		q{SELECT es_define_aggregate('Slow', 'slow_reduce(jsonb,es_event)', '0', 1)});
	append_batch($dbh, 'Slow-1', 0, 'S', [ (undef) x 4 ]);
	my $pid = sql_value($other, 'SELECT pg_catalog.pg_backend_pid()');

	foreach my $change (
		[ q{SELECT es_drop_snapshots()}, '4 10', '4 10' ],
		[ q{SELECT es_define_upcaster('S', 1, 'tenfold(jsonb)')}, '4 10', '4 100' ],
		[ q{SELECT es_drop_aggregate('Slow')}, '4 100', undef ])
	{
		my ($sql, $old, $new) = @$change;
		sql_value($dbh, 'SELECT es_drop_snapshots()');
		$dbh->do('SELECT pg_advisory_lock(42)');
		my $sth = $other->prepare(q{SELECT version || ' ' || (state #>> '{}') FROM es_state('Slow-1')},
			{ pg_async => PG_ASYNC });
		$sth->execute;
		ok( poll_until(
				sub {
					sql_value($dbh,
						q{SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted}, $pid);
				}),
			"$sql: the reducer is at work");
		$dbh->do($sql);
		$dbh->do('SELECT pg_advisory_unlock(42)');
		$other->pg_result;
		is($sth->fetchrow_array, $old, "$sql: the reader gets the state from before");
		$sth->finish;
		is(snapshot_version('Slow-1'), 0, "$sql: but does not save it");
		is(state($other, 'Slow-1'), $new, "$sql: next time it is the new one") if $new;
	}
	is(sqlstate($other, q{SELECT es_state('Slow-1')}), '42704', 'the aggregate is gone');
	sql_value($dbh, q{SELECT es_drop_upcaster('S', 1)});
	return;
}

# A transaction that cannot see that definitions have changed, nor that their
# snapshots are gone: it knows by itself, whether it reads or changes them.
sub older_than_definitions
{
	my $define = q{SELECT es_define_upcaster('O', 1, 'tenfold(jsonb)')};
	my $drop = q{SELECT es_drop_upcaster('O', 1)};
	my $begin = sub {
		$other->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
		sql_value($other, q{SELECT es_stream_version('Sum-old')});
	};

	append_batch($dbh, 'Sum-old', 0, 'O', [ (undef) x 6 ]);
	is(state($dbh, 'Sum-old'), '6 21', 'a snapshot');
	append_batch($dbh, 'Sum-old', 6, 'O', [ (undef) x 6 ]);
	$begin->();
	sql_value($dbh, $define);
	is(state($other, 'Sum-old'), '12 420', 'older reader: no snapshot of before the definition');
	$other->do('COMMIT');
	is(snapshot_version('Sum-old'), 12, 'older reader: it has saved one');
	is(state($dbh, 'Sum-old'), '12 420', 'older reader: a good one');

	sql_value($dbh, 'SELECT es_drop_snapshots()');
	$begin->();
	is(state($dbh, 'Sum-old'), '12 420', 'older dropper: a newer snapshot');
	sql_value($other, $drop);
	$other->do('COMMIT');
	is(state($dbh, 'Sum-old'), '12 42', 'older dropper: it is gone');

	sql_value($dbh, 'SELECT es_drop_snapshots()');
	$begin->();
	is(state($dbh, 'Sum-old'), '12 42', 'older definer: a newer snapshot');
	sql_value($other, $define);
	$other->do('COMMIT');
	is(state($dbh, 'Sum-old'), '12 420', 'older definer: it is gone');
	sql_value($dbh, $drop);

	$begin->();
	sql_value($dbh, $define);
	sql_value($other, $drop);
	$other->do('COMMIT');
	is(sql_value($dbh, 'SELECT count(*) FROM event_store.upcaster'), 0,
		'older dropper: a newer definition');

	$begin->();
	is(state($dbh, 'Sum-old'), '12 42', 'older cleaner: a newer snapshot');
	is(sql_value($other, q{SELECT es_drop_snapshots('Sum-old')}), 1, 'older cleaner: thrown away');
	$other->do('COMMIT');
	is(snapshot_version('Sum-old'), 0, 'older cleaner: it is gone');
	return;
}

# What one session defines holds for the next statement of all others.
sub definitions_elsewhere
{
	append($dbh, 'Def-1', 0, 'D', random_uuid(), '{"n": 7}');
	my %sth = (
		stream => $other->prepare(q{SELECT data->>'n' FROM es_read_stream('Def-1')}),
		all => $other->prepare(q{SELECT data->>'n' FROM es_read_all(categories => '{Def}')}),
		view => $other->prepare(
			q{SELECT data->>'n' FROM event_store.events WHERE stream_id = 'Def-1'}));
	my $look = sub {
		my %seen;
		foreach my $name (sort keys %sth)
		{
			$sth{$name}->execute;
			($seen{ $sth{$name}->fetchrow_array }) = 1;
			$sth{$name}->finish;
		}
		return join ',', sort keys %seen;
	};
	is($look->(), 7, 'as stored') for 1 .. 6;
	sql_value($dbh, q{SELECT es_define_upcaster('D', 1, 'tenfold(jsonb)')});
	is($look->(), 70, 'upcast');
	$dbh->do(q{CREATE OR REPLACE FUNCTION tenfold(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
		AS $$ SELECT jsonb_build_object('n', (data->>'n')::int * 11) $$});
	is($look->(), 77, 'by the replaced function');
	$dbh->do('BEGIN');
	sql_value($dbh, q{SELECT es_drop_upcaster('D', 1)});
	is($look->(), 77, 'not before it is committed');
	$dbh->do('COMMIT');
	is($look->(), 7, 'as stored again');

	# nor does an open transaction go on with the old ones
	my $sth = $other->prepare(q{SELECT state FROM es_state('Def-1')});
	my $state = sub {
		$sth->execute;
		my ($value) = $sth->fetchrow_array;
		$sth->finish;
		return $value;
	};
	sql_value($dbh, q{SELECT es_define_aggregate('Def', 'sum_reduce(jsonb,es_event)', '0')});
	$other->do('BEGIN');
	is($state->(), 7, 'state in a transaction') for 1 .. 7;
	sql_value($dbh, q{SELECT es_drop_aggregate('Def')});
	sql_value($dbh, q{SELECT es_define_aggregate('Def', 'sum_reduce(jsonb,es_event)', '100')});
	is($state->(), 107, 'of another aggregate');
	$other->do('COMMIT');
	return;
}

# Two sessions that would close a loop together.
sub no_loop_together
{
	$dbh->do('BEGIN');
	sql_value($dbh, q{SELECT es_define_upcaster('P', 1, 'tenfold(jsonb)', 'Q')});
	my $pid = sql_value($other, 'SELECT pg_catalog.pg_backend_pid()');
	my $sth = $other->prepare(q{SELECT es_define_upcaster('Q', 1, 'tenfold(jsonb)', 'P')},
		{ pg_async => PG_ASYNC });
	$sth->execute;
	ok( poll_until(
			sub {
				sql_value($dbh, q{SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted}, $pid);
			}),
		'the second one waits');
	$dbh->do('COMMIT');
	ok(!eval { $other->pg_result; 1 }, 'and is refused');
	is($other->state, '22023', 'as a loop');
	sql_value($dbh, q{SELECT es_drop_upcaster('P', 1)});
	return;
}

# What is compiled for a function is kept once, however often in a transaction
# it has to be compiled anew: for another search path, and after an error.
sub no_leak
{
	return if $dbh->{pg_server_version} < 140000;

	append($dbh, 'Leak-1', 0, 'L', random_uuid(), '{"n": 1}');
	run_sql(
		$dbh,
		q{CREATE FUNCTION picky(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
		  AS $$ SELECT jsonb_build_object('n', 1 / (data->>'n')::int) $$},
		q{SELECT es_define_upcaster('L', 1, 'picky(jsonb)')},
		q{CREATE FUNCTION leak_read() RETURNS jsonb LANGUAGE sql
		  AS $$ SELECT data FROM public.es_read_stream('Leak-1', 1, 1) $$},
		q{CREATE FUNCTION leak_read_elsewhere() RETURNS jsonb LANGUAGE sql SET search_path = pg_catalog
		  AS $$ SELECT data FROM public.es_read_stream('Leak-1', 1, 1) $$});
	append($dbh, 'Leak-1', 1, 'L', random_uuid(), '{"n": 0}');

	my $contexts = q{SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'event_store function'};
	$dbh->do('BEGIN');
	my $before = sql_value($dbh, $contexts);
	is( sql_value($dbh,
			q{SELECT count(leak_read()) + count(leak_read_elsewhere()) FROM generate_series(1, 100)}),
		200,
		'two search paths in turn');
	$dbh->do(
		q{DO $$ BEGIN
			FOR i IN 1 .. 100 LOOP
				BEGIN
					PERFORM es_read_stream('Leak-1', 2);
					RAISE 'no error';
				EXCEPTION WHEN SQLSTATE 'VE006' THEN NULL;
				END;
			END LOOP;
		  END $$});
	cmp_ok(sql_value($dbh, $contexts), '<=', $before + 1, 'what was compiled is kept once');
	$dbh->do('COMMIT');
	sql_value($dbh, q{SELECT es_drop_upcaster('L', 1)});
	return;
}

# A fetch that has walked over events which nobody wanted then.
sub waiting_fetch
{
	append_batch($dbh, 'Wait-1', 0, 'Before', [ (undef) x 3 ]);
	sql_value($dbh, q{SELECT es_create_subscription('waiting', event_types => '{After}')});
	my $pid = sql_value($other, 'SELECT pg_catalog.pg_backend_pid()');
	my $sth = $other->prepare(
		q{SELECT array_agg(version ORDER BY version) FROM es_fetch('waiting', wait => '1 min')},
		{ pg_async => PG_ASYNC });
	$sth->execute;
	ok( poll_until(
			sub {
				sql_value($dbh,
					q{SELECT count(*) FROM pg_stat_activity
					  WHERE pid = $1 AND wait_event_type = 'Extension'}, $pid);
			}),
		'the fetch waits');
	sql_value($dbh, q{SELECT es_define_upcaster('Before', 1, 'tenfold(jsonb)', 'After')});
	append($dbh, 'Wait-1', 3, 'After', random_uuid());
	$other->pg_result;
	is_deeply($sth->fetchrow_array, [ 1, 2, 3, 4 ], 'and finds what has come to be wanted');
	$sth->finish;
	sql_value($dbh, q{SELECT es_drop_upcaster('Before', 1)});
	return;
}

sub standby_and_dump
{
	append_batch($dbh, 'Sum-standby', 0, 'T', [ (undef) x 6 ]);
	$node->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	my $there = connect_store($standby);
	is(state($there, 'Sum-standby'), '6 21', 'standby: the state, without a snapshot');
	sql_value($dbh, q{SELECT es_define_upcaster('T', 1, 'tenfold(jsonb)')});
	$node->wait_for_catchup($standby, 'replay');
	is(state($there, 'Sum-standby'), '6 231', 'standby: with an upcaster that came later');
	is( sql_value($there,
			q{SELECT sum((data->>'n')::int) FROM event_store.events WHERE stream_id = 'Sum-standby'}),
		231,
		'standby: the view');
	is(state($dbh, 'Sum-standby'), '6 231', 'primary: the same, and a snapshot');
	append($dbh, 'Sum-standby', 6, 'T', random_uuid(), '{"n": 1}');
	$node->wait_for_catchup($standby, 'replay');
	is(state($there, 'Sum-standby'), '7 242', 'standby: snapshot and one event more');
	$there->disconnect;
	$standby->stop;

	my $dump = File::Temp->new(SUFFIX => '.sql');
	is(run_program('pg_dump', '-f', $dump->filename, '-d', $node->connstr('postgres')), 0, 'pg_dump');
	$node->safe_psql('postgres', 'CREATE DATABASE restored');
	is( run_program('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump->filename, '-d',
			$node->connstr('restored')),
		0, 'restore');
	my $restored = connect_store($node, db => 'restored');
	is(state($restored, 'Sum-standby'), '7 242', 'the restored store gives the same state');
	sql_value($restored, 'SELECT es_drop_snapshots()');
	is(state($restored, 'Sum-standby'), '7 242', 'also computed anew');
	$restored->disconnect;
	return;
}
