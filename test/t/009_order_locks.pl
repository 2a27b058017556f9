# What holds the global order up, and what must not: locks that are taken while
# events are inserted, what a session remembers of dead gaps, marks behind a jump
# of the sequence, stream locks that a savepoint gives back, an index that is
# replaced under a waiting append or a standby's reader.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use Test::More;

seed_random();
my $node = store_cluster('order_locks');
toast_lock();
dead_gaps();
emptied();
marks();
savepoints();
new_streams();
index_replaced_under_append();
# if something hangs after all, an orderly shutdown would hang as well
$node->stop('immediate');
index_replaced();
done_testing();

# ---------------------------------------------------------------------------

# How many sessions wait for a lock on this relation.
sub waiting_for
{
	my ($dbh, $relation) = @_;
	return sql_value($dbh,
		'SELECT count(*) FROM pg_catalog.pg_locks WHERE NOT granted AND relation = ?::regclass',
		$relation);
}

# 70 kB that do not compress
sub large_data
{
	return '"' . join('', map { random_uuid() } 1 .. 2000) . '"';
}

# An event is written to the TOAST table, which REINDEX wants to lock.  Whoever
# waits for that lock must let the others insert and commit meanwhile.
sub toast_lock
{
	create_store($node, 'toast');
	my $dbh = connect_store($node, db => 'toast');
	my $toast = sql_value($dbh, q{SELECT reltoastrelid::regclass FROM pg_catalog.pg_class
		WHERE oid = 'event_store.event'::regclass});
	my $large = large_data();

	new_flags();
	start_client('first', sub {
		my $first = connect_store($node, db => 'toast');
		$first->begin_work;
		append($first, 'First-1', 0, 'Large', undef, $large);
		flag_set('first.wrote');
		poll_until(sub { flag_is_set('second.waits') }) or die 'the second does not wait';
		append($first, 'First-1', 1, 'Small');
		$first->commit;
		return {};
	});
	ok(poll_until(sub { flag_is_set('first.wrote') }), 'a transaction has written to TOAST');
	start_client('reindex', sub {
		my $reindex = connect_store($node, db => 'toast');
		$reindex->do("REINDEX TABLE $toast");
		return {};
	});
	ok(poll_until(sub { waiting_for($dbh, $toast) == 1 }, 20), 'REINDEX waits for it');
	start_client('second', sub {
		my $second = connect_store($node, db => 'toast');
		$second->do(q{SET lock_timeout = '2s'});
		return { state => sqlstate($second, q{SELECT es_append('Second-1', 0, 'Large', ?::jsonb)}, $large) };
	});
	ok(poll_until(sub { waiting_for($dbh, $toast) == 2 }, 20), 'an append waits for REINDEX');
	flag_set('second.waits');

	wait_clients(names => ['first'], limit => 20,
		test => 'the first goes on and commits meanwhile');
	my $ended = wait_clients(names => [ 'reindex', 'second' ], limit => 20,
		test => 'REINDEX and the other append end, too');
	like($ended->{second}{state} || '', qr/^(00000|55P03)$/,
		'... with success or lock_timeout');
	is(sql_value($dbh, q{SELECT es_stream_version('First-1')}), 2, 'both events are there');
	$dbh->disconnect;
	return;
}

# A session that looks beyond the settled head finds many dead positions, with
# one among them that has been drawn and is not yet inserted: that is no gap.
sub dead_gaps
{
	create_store($node, 'gaps');
	use_fault_build($node, 'gaps');
	my ($dbh, $aborts, $reader) = map { connect_store($node, db => 'gaps') } 1 .. 3;
	$_->do('SET event_store.notify = off') for $dbh, $aborts, $reader;
	my $drawn = 'SELECT last_value FROM event_store.event_global_position_seq';

	append($dbh, 'Start-1', 0, 'T');
	$aborts->begin_work;
	append_batch($aborts, 'Abort-1', 0, 'T', [ (undef) x 10 ]);
	is(sql_value($dbh, $drawn), 11, 'positions 2 to 11 are of one that will abort');
	new_flags();
	start_client('slow', sub {
		my $slow = connect_store($node, db => 'gaps');
		run_sql($slow, 'SET event_store.notify = off',
			q{SET event_store.fault = 'append_drawn:pause=5000'});
		return append($slow, 'Slow-1', 0, 'T');
	});
	ok(poll_until(sub { sql_value($dbh, $drawn) == 12 }, 20),
		'position 12 is drawn and not inserted');
	append_batch($aborts, 'Abort-1', 10, 'T', [ (undef) x 1005 ]);
	$reader->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	is(sql_value($reader, 'SELECT es_head()'), 1, 'a reader sees the first event');
	$aborts->rollback;
	$reader->do('SELECT * FROM event_store.status');
	$reader->do('COMMIT');
	is(sql_value($dbh, q{SELECT count(*) FROM pg_catalog.pg_stat_activity
			WHERE pid <> pg_backend_pid() AND state = 'active'
			  AND query LIKE '%FROM es_append(%'}),
		1, 'all that while position 12 is on its way');

	my $slow = wait_clients(limit => 30)->{slow};
	is($slow->{position}, 12, 'it arrives');
	my $last = append($dbh, 'Start-1', 1, 'T')->{position};
	is_deeply(
		$reader->selectcol_arrayref('SELECT global_position FROM es_read_all(1)'),
		[ 12, $last ], 'the reader that has seen the dead positions does not skip it');
	$_->disconnect for $dbh, $aborts, $reader;
	return;
}

# Its owner may empty the store, and positions begin anew: what a session has
# learnt of the old ones does not hide the new.
sub emptied
{
	create_store($node, 'emptied');
	my $dbh = connect_store($node, db => 'emptied');
	$dbh->do('SET event_store.notify = off');
	my @tables = map { "event_store.$_" } qw(event stream event_type mark);

	append($dbh, 'Order-1', 0, 'T');
	$dbh->begin_work;
	append_batch($dbh, 'Order-1', 1, 'T', [ (undef) x 1500 ]);
	$dbh->rollback;
	append($dbh, 'Order-1', 1, 'T');
	is_deeply($dbh->selectcol_arrayref('SELECT global_position FROM es_read_all()'),
		[ 1, 1502 ], 'a session passes many dead positions');

	$dbh->do("ALTER TABLE $_ DISABLE TRIGGER USER") for @tables;
	$dbh->do('TRUNCATE ' . join(', ', @tables) . ', event_store.snapshot RESTART IDENTITY');
	foreach my $table (@tables)
	{
		$dbh->do("ALTER TABLE $table ENABLE ALWAYS TRIGGER $_")
		  for qw(es_guard_statement es_guard_row);
	}
	append_batch($dbh, 'Order-1', 0, 'T', [ (undef) x 2000 ]);
	is(sql_value($dbh, 'SELECT count(*) FROM es_read_all(0, NULL)'), 2000,
		'it reads all that is there after the store was emptied');
	$dbh->disconnect;
	return;
}

# Positions that begin far up, as an owner may have them who carries on from
# another store: the marks are where the events are.  SERIALIZABLE transactions
# write them, too, and do not conflict because of them.
sub marks
{
	create_store($node, 'marks');
	my @dbh = map { connect_store($node, db => 'marks') } 1 .. 2;
	my $newest = 'SELECT max(global_position) FROM event_store.mark';
	$dbh[0]->do(q{SELECT setval('event_store.event_global_position_seq', 1000000000000)});
	append_batch($dbh[0], "Order-$_", 0, 'T', [ (undef) x 1100 ]) for 1 .. 3;
	my $before = sql_value($dbh[0], $newest);
	cmp_ok($before, '>', 1000000000000, 'the newest mark is behind the jump of the sequence');

	foreach my $i (0, 1)
	{
		$dbh[$i]->do('BEGIN ISOLATION LEVEL SERIALIZABLE');
		append($dbh[$i], "First-$i", 0, 'T');
	}
	foreach my $i (0, 1)
	{
		append_batch($dbh[$i], "Serial-$i", 0, 'T', [ (undef) x 1100 ]);
	}
	is(sqlstate($_, 'COMMIT'), '00000', 'SERIALIZABLE: two write past a mark') for @dbh;
	$dbh[0]->do('BEGIN ISOLATION LEVEL SERIALIZABLE');
	append_batch($dbh[0], 'Serial-2', 0, 'T', [ (undef) x 1100 ]);
	$dbh[0]->do('COMMIT');
	cmp_ok(sql_value($dbh[0], $newest), '>=', $before + 2000, '... and the mark moves on');
	$_->disconnect for @dbh;
	return;
}

# Appends that fail and are caught do not count as locked streams, of which a
# transaction may have some hundred before it locks rows instead.
sub savepoints
{
	create_store($node, 'savepoints');
	my $dbh = connect_store($node, db => 'savepoints');
	append($dbh, 'Order-1', 0, 'T');
	$dbh->do(q{
		DO $$
		DECLARE
			caught int := 0;
		BEGIN
			FOR i IN 1 .. 400 LOOP
				BEGIN
					PERFORM es_append('Order-1', 99, 'T', '{}');
				EXCEPTION WHEN SQLSTATE 'VE001' THEN
					caught := caught + 1;
				END;
			END LOOP;
			ASSERT caught = 400;
			PERFORM es_append('Order-1', 1, 'T', '{}');
		END $$});
	is(sql_value($dbh, q{SELECT es_stream_version('Order-1')}), 2,
		'400 conflicts are caught, then an append works');
	is(sql_value($dbh, q{SELECT xmax FROM event_store.stream WHERE stream_id = 'Order-1'}),
		0, '... without a lock on the row of the stream');
	$dbh->disconnect;
	return;
}

# A call that creates very many streams does not need a lock of the lock manager
# for each of them: its table would be full.
sub new_streams
{
	my $small = store_cluster('small_lock_table',
		conf => "max_locks_per_transaction = 20\nmax_connections = 20\nmax_prepared_transactions = 0\n");
	create_store($small);
	my $dbh = connect_store($small);
	is(sqlstate($dbh, q{SELECT count(*) FROM es_append_streams((SELECT jsonb_agg(jsonb_build_object(
			'stream_id', 'Order-' || i, 'expected_version', CASE WHEN i % 2 = 0 THEN 0 ELSE es_any() END,
			'events', '[{"event_type": "T", "data": 1}]'::jsonb)) FROM generate_series(1, 10000) i))}),
		'00000', 'one call appends to 10 000 new streams');
	is(sqlstate($dbh, q{SELECT count(*) FROM es_append_if((SELECT jsonb_agg(jsonb_build_object(
			'stream_id', 'Item-' || i, 'event_type', 'T', 'data', 1)) FROM generate_series(1, 10000) i),
			'{"items": [{"tags": ["nobody has this"]}]}')}),
		'00000', '... so does one with a condition');
	is(sql_value($dbh, 'SELECT count(*) FROM event_store.events WHERE version = 1'), 20000, '... each of one event');

	# what it has created goes with a conflict that is found later
	is(sqlstate($dbh, q{SELECT count(*) FROM es_append_streams((SELECT jsonb_agg(jsonb_build_object(
			'stream_id', 'Late-' || lpad(i::text, 4, '0'), 'expected_version', CASE WHEN i = 999 THEN 1 ELSE 0 END,
			'events', '[{"event_type": "T", "data": 1}]'::jsonb)) FROM generate_series(1, 999) i))}),
		'VE001', 'a conflict');
	is(sql_value($dbh, q{SELECT count(*) FROM event_store.stream WHERE stream_id LIKE 'Late%'}), 0,
		'... leaves no stream behind');
	$dbh->disconnect;
	$small->stop;
	return;
}

# An append that waits for its stream has not locked the table of event types
# yet.  When that table's index is replaced meanwhile, it goes on with the new
# one.  The old snapshot keeps REINDEX waiting until that append has begun: a
# later one is nothing that it would wait for.
sub index_replaced_under_append
{
	create_store($node, 'replaced');
	my ($dbh, $old, $first) = map { connect_store($node, db => 'replaced') } 1 .. 3;
	my $waiting = sub {
		my ($type, $query) = @_;
		return poll_until(sub { sql_value($dbh,
			q{SELECT count(*) FROM pg_catalog.pg_stat_activity
			  WHERE datname = current_database() AND wait_event = ? AND query LIKE ?},
			$type, $query) }, 20);
	};

	append($_, 'Order-1', ANY, 'T') for $dbh, $first;
	$old->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$old->do('SELECT 1');
	start_client('reindex', sub {
		my $reindex = connect_store($node, db => 'replaced');
		$reindex->do('REINDEX INDEX CONCURRENTLY event_store.event_type_category_event_type_idx');
		return {};
	});
	ok($waiting->('virtualxid', 'REINDEX%'), 'REINDEX waits for an old snapshot');

	append($first, 'Order-2', ANY, 'T');		# knows the type again
	$first->begin_work;
	append($first, 'Order-1', ANY, 'T');
	start_client('second', sub {
		my $second = connect_store($node, db => 'replaced');
		append($second, 'Order-3', ANY, 'T');
		return append($second, 'Order-1', ANY, 'T');
	});
	ok($waiting->('advisory', '%FROM es_append(%'), 'an append waits for its stream');
	$old->do('COMMIT');
	wait_clients(names => ['reindex'], limit => 30, test => 'the index is replaced');
	$first->commit;
	is(wait_clients(names => ['second'], limit => 30)->{second}{version}, 4,
		'the append goes on with the new index');
	$_->disconnect for $dbh, $old, $first;
	return;
}

# On the primary REINDEX CONCURRENTLY waits for those who may use the old index,
# on a standby it is just gone.  A statement there that needs it goes on with the
# new one: here for the names of streams, looked up while events are read.
sub index_replaced
{
	my $primary = store_cluster('order_primary', streaming => 1);
	create_store($primary);
	my $dbh = connect_store($primary);
	my $index = q{SELECT oid FROM pg_catalog.pg_class WHERE relname = 'stream_pkey'};
	# an upcaster must be immutable, and then sees one snapshot only
	$dbh->do(qq{CREATE FUNCTION wait_for_reindex(index oid) RETURNS void LANGUAGE plpgsql AS \$\$
		BEGIN
			WHILE ($index) = index LOOP
				PERFORM pg_sleep(0.01);
			END LOOP;
		END \$\$});
	$dbh->do(q{CREATE FUNCTION waits(data jsonb) RETURNS jsonb IMMUTABLE LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM wait_for_reindex((data->>'index')::oid);
			RETURN data;
		END $$});
	$dbh->do(q{SELECT es_define_upcaster('Waits', 1, 'waits(jsonb)')});
	append($dbh, 'S-0', 0, 'Waits', undef, sprintf('{"index": %d}', sql_value($dbh, $index)));
	append($dbh, "S-$_", 0, 'Plain') for 1 .. 40;
	$primary->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new('order_standby');
	$standby->init_from_backup($primary, 'base', has_streaming => 1);
	$standby->start;
	my $watcher = connect_store($standby);
	ok(poll_until(sub { sql_value($watcher, 'SELECT es_head()') == 41 }),
		'the standby has caught up');

	# else rows may be removed that the reader's snapshot still needs: the standby
	# stops there, and the reader waits for a new index that does not come
	ok(poll_until(sub { sql_value($dbh,
		'SELECT count(*) FROM pg_stat_replication WHERE backend_xmin IS NOT NULL') }),
		'the primary keeps what the standby needs');

	start_client('reader', sub {
		return { count => sql_value(connect_store($standby),
			'SELECT count(DISTINCT stream_id) FROM es_read_all() WHERE data IS NOT NULL') };
	});
	ok(poll_until(sub { sql_value($watcher,
		q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'}) }),
		'a reader there is in the middle of a statement');
	$dbh->do('REINDEX TABLE CONCURRENTLY event_store.stream');
	is(wait_clients()->{reader}{count}, 41, 'it reads to the end with the new index');
	$_->disconnect for $dbh, $watcher;
	$standby->stop;
	$primary->stop;
	return;
}
