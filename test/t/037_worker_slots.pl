# Too few slots for background workers: many databases with a projection each
# on a server with max_worker_processes = 8.  All of them advance, idle workers
# give way, the view says who waits, and nothing is left waiting in the end,
# nor is anybody waited for who can have no worker.
# Preloaded, where the launcher serves the queue, and not preloaded, where the
# workers of other databases and the sessions do.
#
# Before there was a queue, five databases were enough for one that got no
# worker at all and showed "running" without an error.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Projection qw(create_model differences projection);
use Test::More;
use Time::HiRes qw(time);

my $databases = setting('ES_SLOT_DATABASES', 30);

seed_random();
crowd('preloaded', 'event_store');
crowd('not preloaded', '');
one_slot();
left_behind('preloaded', 'event_store', qw(dropped no_extension closed locked));
left_behind('not preloaded', '', qw(dropped no_extension closed));
dies_at_once();
done_testing();

# ---------------------------------------------------------------------------

sub crowd
{
	my ($title, $preload) = @_;
	my $node = store_cluster($preload ? 'crowd' : 'crowd_plain', preload => $preload,
		conf => "max_worker_processes = 8\nmax_connections = 120\n");
	my $admin = connect_store($node, plain => 1);

	# one is made, the others are copies of it
	create_store($node, 'tenant_1');
	my $first = connect_store($node, db => 'tenant_1');
	my $handler = create_model($first, 'model');
	$first->disconnect;
	foreach my $n (2 .. $databases)
	{
		poll_until(
			sub {
				$admin->do(
					q{SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = 'tenant_1'});
				return eval { $admin->do("CREATE DATABASE tenant_$n TEMPLATE tenant_1"); 1 };
			});
	}

	my %conn = map { $_ => connect_store($node, db => "tenant_$_") } 1 .. $databases;
	foreach my $n (1 .. $databases)
	{
		$conn{$n}->do('SELECT es_create_projection(?, ?::regprocedure)', undef, 'p', $handler);
	}

	# all have something to do at once, three times; nobody appends or waits
	# while it is done
	my $said = 0;
	foreach my $round (1 .. 3)
	{
		append_batch($conn{$_}, 'Acc-' . random_int(1, 5), ANY, 'Added', [ map { undef } 1 .. 20 ])
		  for 1 .. $databases;
		my %late = map { $_ => 1 } 1 .. $databases;
		my $done = poll_until(
			sub {
				foreach my $n (sort keys %late)
				{
					my $state = projection($conn{$n}, 'p');
					$said++ if ($state->{error_sqlstate} || '') eq '53400';
					delete $late{$n} if $state->{lag_events} == 0;
				}
				return !%late;
			},
			60);
		ok($done, "$title, round $round: all $databases advance")
		  or diag 'late: ', join ' ', sort { $a <=> $b } keys %late;
	}
	cmp_ok($said, '>', 0, "$title: who waits shows 53400");
	is(join(' ', grep { differences($conn{$_}, 'model') ne '' } 1 .. $databases),
		'', "$title: every read model = recomputation");
	is(join(' ', grep { projection($conn{$_}, 'p')->{state} ne 'running' } 1 .. $databases),
		'', "$title: none has stopped");
	ok( poll_until(
			sub {
				!grep {
					defined sql_value($_, 'SELECT waiting_since FROM event_store.es_worker_status()')
				} values %conn;
			},
			60),
		"$title: in the end nobody waits");
	is(join(' ', grep { defined projection($conn{$_}, 'p')->{error_sqlstate} } 1 .. $databases),
		'', "$title: and none has an error left");
	like(PostgreSQL::Test::Utils::slurp_file($node->logfile),
		qr/no free background worker for an event store.*\n.*HINT:  Raise "max_worker_processes"/,
		"$title: the log says what to do");

	# those that are always busy do not keep the others out
	$conn{$_}->do(q{CREATE OR REPLACE FUNCTION on_model(e es_event) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN PERFORM pg_sleep(0.02); INSERT INTO model VALUES (e.global_position::text, 1, 1, 1); END $$})
	  for 1 .. 8;
	append_batch($conn{$_}, 'Busy-1', ANY, 'Added', [ map { undef } 1 .. 3000 ]) for 1 .. 8;
	append_batch($conn{$_}, 'Acc-1', ANY, 'Added', [ undef, undef ]) for 9 .. $databases;
	my %late = map { $_ => 1 } 9 .. $databases;
	ok( poll_until(
			sub {
				foreach my $n (sort keys %late)
				{
					delete $late{$n} if projection($conn{$n}, 'p')->{lag_events} == 0;
				}
				return !%late;
			},
			120),
		"$title: beside eight that are busy for a minute all others advance")
	  or diag 'late: ', join ' ', sort { $a <=> $b } keys %late;
	my $still = grep { projection($conn{$_}, 'p')->{lag_events} > 0 } 1 .. 8;
	note "$title: of the busy ones $still are still busy";
	$_->disconnect for values %conn, $admin;
	$node->stop;
	return;
}

# One slot: no projection can have a worker, but each database is told of its
# events, and the view says why the rest stands still.
sub one_slot
{
	my $node = store_cluster('one_slot', conf => "max_worker_processes = 2\n");
	my %conn;
	foreach my $name (qw(one two))
	{
		create_store($node, $name);
		$conn{$name} = connect_store($node, db => $name);
		append($conn{$name}, 'Acc-1', 0, 'Added');
	}
	$conn{one}->do('SELECT es_create_projection(?, ?::regprocedure)', undef, 'p', create_model($conn{one}, 'model'));
	ok( poll_until(
			sub {
				append($conn{one}, 'Acc-1', ANY, 'Added');
				return (projection($conn{one}, 'p')->{error_sqlstate} || '') eq '53400';
			}),
		'one slot: the view says why nothing happens');
	foreach my $name (qw(two one two))
	{
		ok( poll_until(
				sub {
					append($conn{$name}, 'Acc-1', ANY, 'Added');
					return sql_value($conn{$name}, 'SELECT worker_pid FROM event_store.status');
				},
				60),
			"one slot: database $name has its turn");
	}
	is(sql_value($conn{one}, q{SELECT es_run_projection('p') > 0}), 1, 'one slot: a session can run it');
	$_->disconnect for values %conn;
	$node->stop;
	return;
}

# Somebody waits for a slot and can have no use for it when it is free: nobody
# makes way for him.
sub left_behind
{
	my ($title, $preload, @cases) = @_;
	my $node = store_cluster($preload ? 'left' : 'left_plain', preload => $preload,
		conf => slots(2, $preload));
	create_store($node, $_) for qw(one two);
	my @conn = map { connect_store($node, db => $_) } qw(one two);
	my $admin = connect_store($node, plain => 1);
	foreach my $case (@cases)
	{
		create_store($node, $case);
		my $other = connect_store($node, db => $case);
		wait_in_vain($other, @conn);
		$other->do('DROP EXTENSION event_store') if $case eq 'no_extension';
		$other->disconnect;
		$admin->begin_work if $case eq 'locked';
		my $done = $case eq 'dropped' ? "DROP DATABASE $case" :
		  $case eq 'closed' ? "ALTER DATABASE $case ALLOW_CONNECTIONS false" :
		  $case eq 'locked' ? "ALTER DATABASE $case RENAME TO unlocked" : undef;
		$admin->do($done) if $done;
		$_->rollback for @conn;
		ok(workers_stay(@conn), "$title, $case: nobody makes way");
		next if $case ne 'locked';
		$admin->rollback;
		ok( poll_until(
				sub {
					sql_value($admin, q{SELECT count(*) FROM pg_stat_activity
						WHERE backend_type = 'event_store worker' AND datname = ?}, $case) == 1;
				}),
			"$title, $case: when that is over it has a worker");
	}
	$_->disconnect for @conn, $admin;
	$node->stop;
	unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/not currently accepting connections/,
		"$title: no worker is started where it cannot connect");
	return;
}

# A worker dies whenever it starts: nobody makes way for the next one before
# that is due.
sub dies_at_once
{
	my $node = store_cluster('dies', conf => slots(2, 1));
	foreach my $name (qw(one two dying))
	{
		create_store($node, $name);
		use_fault_build($node, $name);
	}
	$node->safe_psql('postgres', q{ALTER DATABASE dying SET event_store.fault = 'worker_starts:fatal'});
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$ENV{ES_FAULTS_LIBDIR}/event_store'\n");
	$node->restart;
	my @conn = map { connect_store($node, db => $_) } qw(one two);
	my $other = connect_store($node, db => 'dying');
	wait_in_vain($other, @conn);
	$_->rollback for @conn;
	ok(workers_stay(@conn), 'one that dies: nobody makes way');
	my $status = q{SELECT waiting_since FROM event_store.es_worker_status()};
	ok(poll_until(sub { !defined sql_value($other, $status) }), 'one that dies: it is not said to wait');
	$_->disconnect for @conn, $other;
	$node->stop;
	return;
}

# Configuration with so many slots for workers of databases and of projections.
sub slots
{
	my ($number, $preload) = @_;
	$number++ if $preload;
	return "max_worker_processes = $number\nmax_logical_replication_workers = 0\n";
}

# A database waits for a slot while the workers of others, as many as there are
# slots, wait for a lock.
sub wait_in_vain
{
	my ($waits, @others) = @_;
	foreach my $dbh (@others)
	{
		append($dbh, 'Acc-1', ANY, 'Added');
		poll_until(sub { sql_value($dbh, 'SELECT worker_pid FROM event_store.status') })
		  or die "$dbh->{pg_db} has no worker";
		$dbh->begin_work;
		$dbh->do('LOCK TABLE event_store.projection IN ACCESS EXCLUSIVE MODE');
		poll_until(
			sub {
				sql_value($waits, q{SELECT count(*) FROM pg_stat_activity
					WHERE backend_type = 'event_store worker' AND datname = ? AND wait_event_type = 'Lock'},
					$dbh->{pg_db}) == 1;
			})
		  or die "no worker of $dbh->{pg_db} waits";
	}
	append($waits, 'Acc-1', ANY, 'Added');
	poll_until(sub { defined sql_value($waits, 'SELECT waiting_since FROM event_store.es_worker_status()') })
	  or die "$waits->{pg_db} does not wait";
	return;
}

# Do these databases have workers that stay, in the end, although they have
# nothing to do?
sub workers_stay
{
	my (@conn) = @_;
	my $before = '';
	my $since = 0;
	return poll_until(
		sub {
			my @pids = map { sql_value($_, 'SELECT worker_pid FROM event_store.status') || 0 } @conn;
			my $now = join ' ', @pids;
			if ($now ne $before || grep { !$_ } @pids)
			{
				append($conn[$_], 'Acc-1', ANY, 'Added') for grep { !$pids[$_] } 0 .. $#conn;
				($before, $since) = ($now, time());
			}
			return time() - $since > 1.5;
		},
		30);
}
