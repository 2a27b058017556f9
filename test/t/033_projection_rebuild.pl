# Rebuilds while events are being appended: from scratch, and a new version
# beside the old one that is then switched in one transaction.
#
# Side effects are written to an outbox unless es_is_replaying(): each event
# must be there exactly once, whatever was rebuilt or switched.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Projection
  qw(create_model write_amounts differences caught_up projection);
use Test::More;
use Time::HiRes qw(time);

my $streams = 200;
my $old_events = setting('ES_REBUILD_EVENTS', 20000);

seed_random();
my $node = store_cluster('rebuild', preload => 'event_store');
create_store($node);
my $dbh = connect_store($node);
foreach my $n (1 .. $streams)
{
	my @ids = map { undef } 1 .. $old_events / $streams;
	append_batch($dbh, "Acc-$n", 0, 'Added', \@ids);
}

# Version 1 counts event by event and has side effects, version 2 is set-based.
$dbh->do('CREATE TABLE outbox (position bigint)');
create_model($dbh, 'model');
create_model($dbh, 'model_new', set => 1);
run_sql($dbh,
	q{CREATE FUNCTION apply_1(e es_event) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM on_model(e);
			IF NOT es_is_replaying() THEN
				INSERT INTO outbox VALUES (e.global_position);
			END IF;
		END $$},
	q{CREATE FUNCTION apply_2(events es_event[]) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM on_model_new(events);
			IF NOT es_is_replaying() THEN
				INSERT INTO outbox SELECT global_position FROM unnest(events);
			END IF;
		END $$},
	'CREATE FUNCTION reset_1() RETURNS void LANGUAGE sql AS $$ TRUNCATE model $$',
	'CREATE FUNCTION reset_2() RETURNS void LANGUAGE sql AS $$ TRUNCATE model_new $$',
	q{CREATE FUNCTION switch() RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			ALTER TABLE model RENAME TO model_old;
			ALTER TABLE model_new RENAME TO model;
			CREATE OR REPLACE FUNCTION on_model_new(events es_event[]) RETURNS void LANGUAGE sql AS
				'INSERT INTO model SELECT stream_id, count(*), sum((data->>''n'')::bigint), max(version)
				 FROM unnest(events) GROUP BY 1
				 ON CONFLICT (id) DO UPDATE SET n = model.n + EXCLUDED.n,
					total = model.total + EXCLUDED.total, last = EXCLUDED.last';
		END $$});
$dbh->do(q{SELECT es_create_projection('model', 'apply_1(es_event)', reset_handler => 'reset_1()')});
caught_up($dbh, 'model');
is(outbox_faults(), '', 'side effects: once each');

new_flags();
start_client("writer_$_", sub { write_amounts($node, $streams, pause => 5) }) for 1 .. 2;
from_scratch();
cancelled();
beside();
flag_set('stop');
wait_clients(test => 'no writer failed');
caught_up($dbh, 'model');
is(differences($dbh, 'model'), '', 'in the end: read model = recomputation');
is(outbox_faults(), '', 'in the end: side effects once each');
replayed_to_a_gap();
dropped();
old_snapshot();
unsettled();
$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# Events whose side effect is missing or doubled, up to the checkpoint.
sub outbox_faults
{
	return sql_value(
		$dbh, q{
		WITH p AS (SELECT position FROM event_store.projections WHERE name = 'model' AND NOT is_shadow),
			 o AS (SELECT position, count(*) AS n FROM outbox GROUP BY 1)
		SELECT coalesce(string_agg(coalesce(e.global_position, o.position) || ': ' || coalesce(o.n, 0), ', '), '')
		FROM (SELECT global_position FROM event_store.event, p WHERE global_position <= p.position) e
		FULL JOIN o ON o.position = e.global_position
		WHERE o.n IS DISTINCT FROM 1});
}

sub from_scratch
{
	$dbh->do(q{SELECT es_rebuild_projection('model')});
	my $seen = 0;
	my $progress;
	ok( poll_until(
			sub {
				$progress = $dbh->selectrow_hashref(
					q{SELECT * FROM event_store.projection_progress WHERE name = 'model'});
				$seen++ if $progress && $progress->{events_to_do} > 0;
				return !$progress;
			}),
		'from scratch: it ends under load');
	cmp_ok($seen, '>', 0, 'from scratch: progress is visible');
	caught_up($dbh, 'model');
	$dbh->do(q{SELECT es_pause_projection('model')});
	my $position = projection($dbh, 'model')->{position};
	is(differences($dbh, 'model', "global_position <= $position"),
		'', 'from scratch: read model = recomputation');
	is(outbox_faults(), '', 'from scratch: no side effect repeated, none lost');
	$dbh->do(q{SELECT es_resume_projection('model')});
	return;
}

sub prepare
{
	$dbh->do(q{SELECT es_prepare_projection('model', 'apply_2(es_event[])', 'reset_2()')});
	return;
}

sub shadow_position
{
	return sql_value($dbh,
		q{SELECT position FROM event_store.projections WHERE name = 'model' AND is_shadow});
}

# A preparation can be given up, and one that was interrupted goes on.
sub cancelled
{
	prepare();
	ok(poll_until(sub { shadow_position() > 0 }), 'cancel: it has begun');
	$dbh->do(q{SELECT es_cancel_rebuild('model')});
	is(shadow_position(), undef, 'cancel: it is gone');
	is(sqlstate($dbh, q{SELECT es_switch_projection('model')}), '55000', 'cancel: nothing to switch');

	prepare();
	ok(poll_until(sub { shadow_position() > 0 }), 'interrupted: it has begun');
	$dbh->do(q{SELECT es_pause_projection('model')});
	my $at = shadow_position();
	append($dbh, 'Acc-1', ANY, 'Added');
	is(shadow_position(), $at, 'interrupted: it stands still');
	$dbh->do(q{SELECT es_resume_projection('model')});
	return;
}

sub beside
{
	my $behind = poll_until(
		sub {
			my $to_do = sql_value($dbh,
				q{SELECT events_to_do FROM event_store.projection_progress WHERE is_shadow});
			return defined $to_do && $to_do < 1000;
		});
	ok($behind, 'beside: it catches up under load');
	cmp_ok(sql_value($dbh, q{SELECT events_done FROM event_store.projection_progress WHERE is_shadow}),
		'>=', $old_events, 'beside: it has done the work');

	# The switch: both read models at the same position, seen in its transaction.
	my $head = sql_value($dbh, 'SELECT es_head()');
	$dbh->begin_work;
	my $begin = time();
	$dbh->do(q{SELECT es_switch_projection('model', 'switch()')});
	my $took = time() - $begin;
	is( sql_value($dbh, q{SELECT count(*) FROM (
			(SELECT * FROM model EXCEPT SELECT * FROM model_old)
			UNION ALL (SELECT * FROM model_old EXCEPT SELECT * FROM model)) AS d}),
		0, 'beside: new read model = old one at the switch');
	my $position = sql_value($dbh,
		q{SELECT position FROM event_store.projections WHERE name = 'model' AND NOT is_shadow});
	$dbh->commit;
	note sprintf('the switch took %.3f s', $took);
	cmp_ok(sql_value($dbh, 'SELECT es_head()'), '>=', $head, 'beside: events came meanwhile');
	is(sql_value($dbh, 'SELECT count(*) FROM event_store.projection_progress WHERE is_shadow'),
		0, 'beside: it is done');
	like(projection($dbh, 'model')->{handler}, qr/apply_2/, 'beside: the new handler is in charge');
	ok( poll_until(sub { projection($dbh, 'model')->{position} > $position }),
		'beside: it goes on from there');
	return;
}

# The old checkpoint, up to which a rebuild replays, lies behind an event that
# the filter does not want, and a full slice ends right before that event.
sub replayed_to_a_gap
{
	$dbh->do('CREATE TABLE seen (position bigint, replaying boolean)');
	$dbh->do(q{CREATE FUNCTION sees(events es_event[]) RETURNS void LANGUAGE sql AS $$
		INSERT INTO seen SELECT global_position, es_is_replaying() FROM unnest(events) $$});
	append_batch($dbh, 'Gap-1', 0, 'Wanted', [ undef, undef ]);
	append($dbh, 'Gap-1', 2, 'Other');
	$dbh->do(q{SELECT es_create_projection('gap', 'sees(es_event[])', ARRAY['Gap'], ARRAY['Wanted'],
		batch_size => 2, paused => true)});
	$dbh->do(q{SELECT es_run_projection('gap')});
	$dbh->do('TRUNCATE seen');
	$dbh->do(q{SELECT es_rebuild_projection('gap', true)});
	caught_up($dbh, 'gap');
	append($dbh, 'Gap-1', 3, 'Wanted');
	caught_up($dbh, 'gap');
	is( sql_value($dbh, 'SELECT string_agg(replaying::text, $$,$$ ORDER BY position) FROM seen'),
		'true,true,false', 'gap: what comes after the replay comes, and is not replayed');
	return;
}

# A worker parks for the new version while the projection is being dropped:
# nothing of it may be left for the next projection of that name.
sub dropped
{
	run_sql($dbh,
		'CREATE FUNCTION does_nothing(event es_event) RETURNS void LANGUAGE sql AS $$ SELECT NULL::void $$',
		q{CREATE FUNCTION fails_and_waits(event es_event) RETURNS void LANGUAGE plpgsql AS $$
			BEGIN
				IF event.stream_id = 'Drop-bad' THEN
					RAISE 'bad';
				END IF;
				PERFORM pg_advisory_xact_lock(7);
			END $$});
	append_batch($dbh, 'Drop-bad', 0, 'Added', [ undef, undef ]);
	append($dbh, 'Drop-good', 0, 'Added');
	$dbh->do(q{SELECT es_create_projection('short', 'does_nothing(es_event)', ARRAY['Drop'],
		policy => 'park', max_attempts => 1)});
	caught_up($dbh, 'short');
	$dbh->do('SELECT pg_advisory_lock(7)');
	$dbh->do(q{SELECT es_prepare_projection('short', 'fails_and_waits(es_event)')});
	ok(waits(q{backend_type LIKE 'event_store %'}, 'advisory'), 'drop: the worker is in a slice');
	start_client('drop', sub {
		my $other = connect_store($node, app => 'drop');
		$other->do(q{SELECT es_drop_projection('short')});
		return {};
	});
	ok(waits(q{application_name = 'drop'}, 'transactionid'), 'drop: it waits for the worker');
	$dbh->do('SELECT pg_advisory_unlock(7)');
	wait_clients(test => 'drop: it goes on after the slice');
	is(sql_value($dbh, q{SELECT count(*) FROM event_store.projection_parked WHERE projection = 'short'}),
		0, 'drop: nothing is left of what the slice has parked');
	return;
}

# Who drops a projection with a snapshot older than its new version cannot
# leave that behind.
sub old_snapshot
{
	my $other = connect_store($node);
	$dbh->do(q{SELECT es_create_projection('old', 'does_nothing(es_event)', ARRAY['Drop'])});
	caught_up($dbh, 'old');
	$other->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	is(sql_value($other, q{SELECT count(*) FROM event_store.projection WHERE name = 'old'}), 1,
		'old snapshot: without the new version');
	$dbh->do(q{SELECT es_prepare_projection('old', 'does_nothing(es_event)')});
	is(sqlstate($other, q{SELECT es_drop_projection('old')}), '40001', 'old snapshot: it says so');
	$other->do('ROLLBACK');
	is(sqlstate($other, q{SELECT es_drop_projection('old')}), '00000', 'old snapshot: a newer one drops');
	is(sql_value($dbh, q{SELECT count(*) FROM event_store.projection WHERE name = 'old'}), 0,
		'old snapshot: both');
	$other->disconnect;
	return;
}

# A checkpoint that somebody has set beyond what is settled: the new version
# cannot get there before the rest is.
sub unsettled
{
	my $other = connect_store($node);
	$dbh->do(q{SELECT es_create_projection('ahead', 'does_nothing(es_event)', ARRAY['Ahead'], paused => true)});
	$dbh->do(q{SELECT es_prepare_projection('ahead', 'does_nothing(es_event)')});
	$other->begin_work;
	my $open = append($other, 'Ahead-1', 0, 'Added')->{position};
	my $head = append($dbh, 'Ahead-2', 0, 'Added')->{position};
	$dbh->do(q{UPDATE event_store.projection SET position = ? WHERE name = 'ahead' AND NOT is_shadow}, undef, $head);
	is(sqlstate($dbh, q{SELECT es_switch_projection('ahead', max_lag => 1000000)}), '55006',
		'unsettled: the new version cannot take over');
	my ($at) = $dbh->errstr =~ /An unsettled event holds it at position (\d+)\./;
	ok(defined $at && $at < $open, 'unsettled: ... and says where it is');
	$other->commit;
	is(sqlstate($dbh, q{SELECT es_switch_projection('ahead', max_lag => 1000000)}), '00000', 'unsettled: afterwards it can');
	is(projection($dbh, 'ahead')->{position}, $head, 'unsettled: ... and is where the other was');
	$dbh->do(q{SELECT es_drop_projection('ahead')});
	$other->disconnect;
	return;
}

sub waits
{
	my ($who, $for) = @_;
	return poll_until(
		sub {
			sql_value($dbh, "SELECT count(*) FROM pg_stat_activity
							  WHERE $who AND wait_event_type = 'Lock' AND wait_event = ?", $for);
		});
}
