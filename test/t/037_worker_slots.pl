# Too few slots for background workers: many databases with a projection each
# on a server with max_worker_processes = 8.  All of them advance, idle workers
# give way, the view says who waits, and nothing is left waiting in the end.
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

my $databases = setting('ES_SLOT_DATABASES', 30);

seed_random();
crowd('preloaded', 'event_store');
crowd('not preloaded', '');
one_slot();
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
