# Projection workers: exactly once, whatever happens to them.
#
# The read model is compared with a recomputation from the events after
# workers were killed under load, while several sessions ran the same
# projection, after restarts and without free worker slots.  A naive worker
# that neither locks nor saves its checkpoint with the read model must double
# events, or this test proves nothing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Projection
  qw(create_model write_amounts differences caught_up worker_pid wait_for_worker projection);
use Test::More;
use Time::HiRes qw(time);

my $seconds = setting('ES_STRESS_SECONDS', 20);

seed_random();
naive_worker_fails();
kills_under_load();
several_at_once();
restarts('preloaded', 'event_store');
restarts('not preloaded', '');
makes_way();
both_end();
no_slot();
done_testing();

# ---------------------------------------------------------------------------

# The control: two workers without a lock, the checkpoint in a transaction of
# its own.
sub naive_worker_fails
{
	my $node = store_cluster('naive');
	create_store($node);
	my $dbh = connect_store($node);
	create_model($dbh, 'model');
	run_sql($dbh, 'CREATE TABLE checkpoint (position bigint)',
		'INSERT INTO checkpoint VALUES (0)');
	append_batch($dbh, "Acc-$_", 0, 'Added', [ map { undef } 1 .. 50 ]) for 1 .. 20;

	new_flags();
	foreach my $name (qw(naive_1 naive_2))
	{
		start_client(
			$name,
			sub {
				my $own = connect_store($node);
				until (flag_is_set('stop'))
				{
					my $from = sql_value($own, 'SELECT position FROM checkpoint');
					my $to = sql_value($own,
						'SELECT max(global_position) FROM es_read_all(?, 10)', $from);
					last unless defined $to;
					$own->do(
						q{INSERT INTO model
						  SELECT stream_id, count(*), sum((data->>'n')::bigint), max(version)
						  FROM es_read_all(?, 10) GROUP BY 1
						  ON CONFLICT (id) DO UPDATE SET n = model.n + EXCLUDED.n,
							total = model.total + EXCLUDED.total, last = EXCLUDED.last},
						undef, $from);
					$own->do('UPDATE checkpoint SET position = ?', undef, $to);
				}
				return {};
			});
	}
	wait_clients(test => 'naive workers end');
	isnt(differences($dbh, 'model'), '', 'control: naive workers double events');
	$dbh->disconnect;
	$node->stop;
	return;
}

sub kills_under_load
{
	my $node = store_cluster('kills', preload => 'event_store');
	create_store($node);
	my $dbh = connect_store($node);
	my %handler = (
		each => create_model($dbh, 'each_model'),
		set => create_model($dbh, 'set_model', set => 1));
	$dbh->do('SELECT es_create_projection(?, ?::regprocedure, batch_size => 37)',
		undef, $_, $handler{$_})
	  for sort keys %handler;

	new_flags();
	start_client("writer_$_", sub { write_amounts($node, 50) }) for 1 .. 3;

	my %killed = (KILL => 0, TERM => 0);
	my $end = time() + $seconds;
	while (time() < $end)
	{
		my $pid = poll_until(
			sub {
				$dbh = connect_store($node, fail_ok => 1, plain => 1)
				  if connection_lost($dbh);
				return $dbh && eval { worker_pid($dbh) };
			},
			30);
		ok($pid, 'a worker is there') or last;
		random_pause(1500);
		my $signal = random_int(0, 2) ? 'KILL' : 'TERM';
		$killed{$signal} += kill $signal, $pid;
		poll_until(sub { !kill 0, $pid });
	}
	flag_set('stop');
	wait_clients(limit => 60, test => 'no writer failed');
	$dbh = undef;
	poll_until(sub { $dbh = connect_store($node, fail_ok => 1) });
	note "killed: $killed{KILL} x KILL, $killed{TERM} x TERM";
	cmp_ok($killed{KILL} + $killed{TERM}, '>=', 3, 'workers were killed');
	cmp_ok(sql_value($dbh, 'SELECT es_head()'), '>', 500, 'there was load');

	caught_up($dbh, sort keys %handler);
	is(differences($dbh, "${_}_model"), '', "$_: read model = recomputation")
	  for sort keys %handler;
	is(sql_value($dbh, 'SELECT sum(lag_events) FROM event_store.projections'),
		0, 'no lag is left');
	is(sql_value($dbh, q{SELECT count(*) FROM event_store.projections WHERE state <> 'running'}),
		0, 'nothing has stopped');
	$dbh->disconnect;
	$node->stop;
	return;
}

# Several sessions and the worker apply the same projection at once.
sub several_at_once
{
	my $node = store_cluster('several');
	create_store($node);
	my $dbh = connect_store($node);
	my $handler = create_model($dbh, 'model');
	$dbh->do('SELECT es_create_projection(?, ?::regprocedure, batch_size => 20)',
		undef, 'shared', $handler);
	new_flags();
	start_client("writer_$_", sub { write_amounts($node, 20) }) for 1 .. 2;
	foreach my $n (1 .. 4)
	{
		start_client(
			"runner_$n",
			sub {
				my $own = connect_store($node);
				my ($calls, $applied) = (0, 0);
				until (flag_is_set('stop'))
				{
					$applied += sql_value($own, 'SELECT es_run_projection(?)', 'shared');
					$calls++;
				}
				return { calls => $calls, applied => $applied };
			});
	}
	my $end = time() + $seconds / 4;
	ok(poll_until(sub { time() > $end }), 'runs for a while');
	flag_set('stop');
	my $result = wait_clients(limit => 240, test => 'no client failed');
	my @applied = map { $result->{"runner_$_"}{applied} || 0 } 1 .. 4;
	note "applied by sessions: @applied";
	cmp_ok(scalar(grep { $_ > 0 } @applied), '>=', 2, 'several sessions applied events');
	caught_up($dbh, 'shared');
	is(differences($dbh, 'model'), '', 'several at once: read model = recomputation');
	is(projection($dbh, 'shared')->{events_applied},
		sql_value($dbh, 'SELECT count(*) FROM event_store.events'),
		'each event was applied once');

	# the row is locked: a session that waits for it does not apply twice
	my $other = connect_store($node);
	run_sql($dbh, q{SELECT es_pause_projection('shared')});
	append_batch($dbh, 'Acc-1', ANY, 'Added', [ undef, undef ]);
	$dbh->begin_work;
	is(sql_value($dbh, q{SELECT es_run_projection('shared')}), 2, 'one applies');
	$other->do('SET lock_timeout = 300');
	is(sqlstate($other, q{SELECT es_run_projection('shared')}),
		'55P03', 'the other waits for the lock');
	$dbh->commit;
	is(sql_value($other, q{SELECT es_run_projection('shared')}), 0, 'and finds nothing left');
	$_->disconnect for $dbh, $other;
	$node->stop;
	return;
}

sub restarts
{
	my ($title, $preload) = @_;
	my $node = store_cluster("restart_" . ($preload ? 'preload' : 'plain'), preload => $preload);
	create_store($node);
	my $dbh = connect_store($node);
	$dbh->do('SELECT es_create_projection(?, ?::regprocedure)',
		undef, 'p', create_model($dbh, 'model'));
	append($dbh, 'Acc-1', 0, 'Added');
	caught_up($dbh, 'p');

	foreach my $mode (qw(fast immediate))
	{
		append_batch($dbh, 'Acc-2', ANY, 'Added', [ map { undef } 1 .. 500 ]);
		$dbh->disconnect;
		$node->stop($mode);
		$node->start;
		$dbh = connect_store($node, plain => 1);

		# without the library in the server the first append starts the worker
		append($dbh, 'Acc-3', ANY, 'Added') unless $preload;
		ok(poll_until(sub { differences($dbh, 'model') eq '' }, 30),
			"$title, $mode: the worker is back and catches up");
	}
	$dbh->disconnect;
	$node->stop;
	return;
}

# DROP EXTENSION and DROP DATABASE while workers are busy.
sub makes_way
{
	my $node = store_cluster('makes_way', preload => 'event_store');
	my $admin = connect_store($node, plain => 1);
	foreach my $way ('DROP EXTENSION event_store CASCADE',
		'DROP DATABASE busy WITH (FORCE)', 'DROP DATABASE busy')
	{
		create_store($node, 'busy');
		my $dbh = connect_store($node, db => 'busy');
		$dbh->do('SELECT es_create_projection(?, ?::regprocedure, batch_size => 1)',
			undef, 'p', create_model($dbh, 'model'));
		append_batch($dbh, "Acc-$_", ANY, 'Added', [ map { undef } 1 .. 1000 ]) for 1 .. 10;
		ok(wait_for_worker($dbh), "$way: a worker is busy");
		my $begin = time();
		if ($way =~ /EXTENSION/)
		{
			is(sqlstate($dbh, $way), '00000', $way);
			$dbh->disconnect;
		}
		else
		{
			$dbh->disconnect;
			is(sqlstate($admin, $way), '00000', $way);
		}
		cmp_ok(time() - $begin, '<', 10, "$way: takes less than 10 s");
		ok( poll_until(
				sub {
					!sql_value($admin,
						q{SELECT count(*) FROM pg_catalog.pg_stat_activity
						  WHERE backend_type = 'event_store projections'});
				},
				10),
			"$way: no worker is left");
		$admin->do('DROP DATABASE IF EXISTS busy WITH (FORCE)');
	}
	$admin->disconnect;
	$node->stop;
	return;
}

# First the database's worker ends, then that of the projection, and nothing is
# appended: what is left to do is done.
sub both_end
{
	my $node = store_cluster('both_end');
	create_store($node);
	my $dbh = connect_store($node);
	$dbh->do(q{CREATE FUNCTION slow(e es_event) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN PERFORM pg_sleep(0.01); END $$});
	append_batch($dbh, "Acc-$_", ANY, 'Added', [ map { undef } 1 .. 100 ]) for 1 .. 10;
	$dbh->do(q{SELECT es_create_projection('p', 'slow(es_event)', batch_size => 10)});
	my $end = sub {
		my $pid = sql_value($dbh, 'SELECT pid FROM pg_catalog.pg_stat_activity WHERE backend_type = ?', $_[0]);
		$dbh->do('SELECT pg_terminate_backend(?)', undef, $pid);
		return $pid;
	};
	my $is_new = sub {
		my ($type, $old) = @_;
		return poll_until(
			sub {
				sql_value($dbh, 'SELECT pid FROM pg_catalog.pg_stat_activity WHERE backend_type = ? AND pid <> ?',
					$type, $old);
			});
	};
	ok(wait_for_worker($dbh), 'both end: a worker is busy');
	ok($is_new->('event_store worker', $end->('event_store worker')),
		"both end: it sees that the database's worker is started again");
	ok($is_new->('event_store projections', $end->('event_store projections')),
		'both end: which starts it again');
	$dbh->disconnect;
	$node->stop;
	return;
}

# max_worker_processes used up (one is for the launcher of logical replication):
# visible, appends go on, and it starts when a
# slot becomes free.
sub no_slot
{
	my $node = store_cluster('no_slot', conf => "max_worker_processes = 3\n");
	create_store($node, 'other');
	create_store($node, 'mine');
	my $other = connect_store($node, db => 'other');
	my $dbh = connect_store($node, db => 'mine');
	append($other, 'Acc-1', 0, 'Added');
	append($dbh, 'Acc-1', 0, 'Added');
	ok( poll_until(
			sub {
				append($_, 'Acc-1', ANY, 'Added') for $other, $dbh;
				return sql_value($dbh,
					q{SELECT count(*) = 2 FROM pg_catalog.pg_stat_activity
					  WHERE backend_type = 'event_store worker'});
			}),
		'both databases have their worker');
	$dbh->do('SELECT es_create_projection(?, ?::regprocedure)',
		undef, 'p', create_model($dbh, 'model'));
	ok( poll_until(
			sub {
				append($other, 'Acc-1', ANY, 'Added');
				append($dbh, 'Acc-2', ANY, 'Added');
				return (projection($dbh, 'p')->{error_sqlstate} || '') eq '53400';
			}),
		'that no worker can be had is visible');
	is(projection($dbh, 'p')->{state}, 'running', 'it is not stopped by that');
	is(sqlstate($dbh, 'SELECT es_append(?, es_any(), ?, ?)', 'Acc-3', 'Added', '{"n": 1}'),
		'00000', 'appends go on');

	$other->disconnect;
	connect_store($node, plain => 1)->do('DROP DATABASE other WITH (FORCE)');
	ok(poll_until(sub { differences($dbh, 'model') eq '' }, 20),
		'it starts when a slot is free');
	ok(poll_until(sub { !defined projection($dbh, 'p')->{error_sqlstate} }),
		'the note is gone');
	$dbh->disconnect;
	$node->stop;
	return;
}
