# Consumers are woken after commits: by es_wait and by LISTEN, with the worker,
# without it, on a standby; appends do not care what happens to the worker.

use strict;
use warnings;

use DBD::Pg ':async';
use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use Test::More;
use Time::HiRes qw(time);

# A wake-up that takes longer than this has been lost: it came by a fallback.
# The machine may be slow, but not by that much; the fallbacks lie above.
my $late = 4;

seed_random();
starts_on_demand();
starts_with_the_server();
many_databases();
comes_back();
dies_too_soon();
listeners();
waiters_go();
databases_come_and_go();
no_worker_to_be_had();
no_memory();
modes();
worker_waits_for_lock();
full_queue();
made_anew();
session_defaults();
standby();
done_testing();

# ---------------------------------------------------------------------------

sub worker_pid
{
	my ($dbh) = @_;
	return sql_value($dbh, 'SELECT worker_pid FROM event_store.status');
}

sub wait_for_worker
{
	my ($dbh) = @_;
	return poll_until(sub { worker_pid($dbh) }, 20);
}

# Next notification, or undef after the time limit.
sub next_notification
{
	my ($dbh, $seconds) = @_;
	my $found;
	poll_until(sub { $found = $dbh->pg_notifies }, $seconds || $late);
	return $found;
}

sub no_more_notifications
{
	my ($dbh) = @_;
	1 while $dbh->pg_notifies;
	return;
}

# Run es_wait in a client of its own; it tells what it got and how long it took.
sub start_waiter
{
	my ($name, $node, $after, $timeout, $db) = @_;
	start_client($name, sub {
		my $dbh = connect_store($node, db => $db || 'postgres');
		flag_set("$name.ready");
		my $start = time();
		my $head = sql_value($dbh, 'SELECT es_wait(?, ?::interval)', $after, $timeout);
		return { head => $head, seconds => time() - $start };
	});
	poll_until(sub { flag_is_set("$name.ready") });
	return;
}

# ... and is known to sleep.
sub wait_until_asleep
{
	my ($dbh, $count) = @_;
	return poll_until(sub {
		sql_value($dbh, q{SELECT count(*) FROM pg_catalog.pg_stat_activity
			WHERE query LIKE 'SELECT es_wait%' AND state = 'active'
			  AND wait_event_type = 'Extension' AND pid <> pg_backend_pid()}) >= $count;
	}, 20);
}

sub starts_on_demand
{
	my $node = store_cluster('wakeup');
	create_store($node);
	my $dbh = connect_store($node);
	my $listener = connect_store($node);
	$listener->do('LISTEN event_store');

	# a worker that starts before this is committed finds no extension
	my $new = connect_store($node, db => 'template1', plain => 1);
	$new->do('CREATE DATABASE migrated');
	$new->disconnect;
	$new = connect_store($node, db => 'migrated', plain => 1);
	$new->begin_work;
	$new->do('CREATE EXTENSION event_store');
	append($new, 'Order-1', 0, 'Placed');
	my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'event_store worker'};
	poll_until(sub { sql_value($dbh, $workers) > 0 }, 0.3);
	poll_until(sub { sql_value($dbh, $workers) == 0 }, 0.3);
	$new->commit;
	ok(wait_for_worker($new), 'an append in the transaction that creates the extension starts the worker');
	$new->disconnect;
	$dbh->do('DROP DATABASE migrated WITH (FORCE)');

	is(worker_pid($dbh), undef, 'no worker before the first append');
	append($dbh, 'Order-1', 0, 'Placed');
	ok(wait_for_worker($dbh), 'the first append starts the worker, without preloading');
	my $note = next_notification($listener, 20);
	is($note && $note->[2], sql_value($dbh, 'SELECT es_head()'),
		'a listener gets the settled head as payload');

	my $head = sql_value($dbh, 'SELECT es_head()');
	start_waiter('waiter', $node, $head, '60 s');
	ok(wait_until_asleep($dbh, 1), 'es_wait sleeps');
	my $event = append($dbh, 'Order-1', 1, 'Placed');
	my $got = wait_clients()->{waiter};
	is($got->{head}, $event->{position}, 'es_wait returns the new head');
	cmp_ok($got->{seconds}, '<', $late, '... as soon as it is there');

	# the trap: a higher position commits first, the lower one aborts
	no_more_notifications($listener);
	my $slow = connect_store($node);
	$slow->begin_work;
	my $low = append($slow, 'Order-slow', 0, 'Placed')->{position};
	my $high = append($dbh, 'Order-1', 2, 'Placed')->{position};
	cmp_ok($low, '<', $high, 'positions 9 and 10, so to speak');
	my ($blocking, $pid) = $dbh->selectrow_array(
		'SELECT blocking_position, blocking_pid FROM event_store.status');
	is($blocking, $low, 'the status names the blocking position');
	is($pid, $slow->{pg_pid}, '... and its process');
	start_waiter('blocked', $node, $event->{position}, '60 s');
	ok(wait_until_asleep($dbh, 1), 'es_wait sleeps while the lower one is open');
	is(next_notification($listener, 0.5), undef, 'nobody is told');
	my $start = time();
	$slow->rollback;
	$got = wait_clients()->{blocked};
	is($got->{head}, $high, 'after the abort the higher one is there');
	cmp_ok(time() - $start, '<', $late, '... soon');
	$note = next_notification($listener);
	is($note && $note->[2], $high, 'the listener is told, too');

	# the same for a prepared transaction, which ends in another session
	$slow->begin_work;
	$low = append($slow, 'Order-slow', 0, 'Placed')->{position};
	$slow->do(q{PREPARE TRANSACTION 'slow'});
	is(sql_value($dbh, 'SELECT blocking_gid FROM event_store.status'), 'slow',
		'the status names the prepared transaction');
	start_waiter('prepared', $node, $high, '60 s');
	ok(wait_until_asleep($dbh, 1), 'es_wait sleeps while it is prepared');
	$dbh->do(q{COMMIT PREPARED 'slow'});
	is(wait_clients()->{prepared}{head}, $low, 'COMMIT PREPARED wakes the waiter');

	# whatever happens to the worker, appends go on and it comes back
	my $before = worker_pid($dbh);
	$dbh->do("SELECT pg_terminate_backend($before)");
	ok(poll_until(sub { (worker_pid($dbh) || 0) != $before }, 20), 'the worker is killed');
	is(sqlstate($dbh, q{SELECT es_append('Order-1', es_any(), 'Placed', '1')}), '00000',
		'an append without a worker');
	ok(poll_until(sub {
		append($dbh, 'Order-1', ANY, 'Placed');
		worker_pid($dbh);
	}, 20), 'appends bring the worker back');

	is(sqlstate($dbh, 'SELECT es_wait(1000000)'), 'VE004',
		'a cursor from another life of the store');
	is(sqlstate($dbh, q{SET statement_timeout = '200ms'; SELECT es_wait(es_head(), '60 s')}),
		'57014', 'es_wait obeys statement_timeout');
	$dbh->do('RESET statement_timeout');

	# it lets go of a dropped extension
	$dbh->do('DROP EXTENSION event_store');
	ok(poll_until(sub {
		sql_value($dbh, q{SELECT count(*) FROM pg_stat_activity
			WHERE backend_type = 'event_store worker'}) == 0;
	}, 20), 'the worker ends after DROP EXTENSION');
	$_->disconnect for $dbh, $listener, $slow;
	$node->stop;
	return;
}

sub starts_with_the_server
{
	my $node = store_cluster('wakeup_preload', preload => 'event_store');
	create_store($node);
	my $dbh = connect_store($node);
	append($dbh, 'Order-1', 0, 'Placed');
	$dbh->disconnect;

	$node->restart;
	$dbh = connect_store($node, plain => 1);
	my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'postgres'
		AND backend_type = 'event_store worker'};
	ok(poll_until(sub { sql_value($dbh, $workers) == 1 }, 20),
		'preloaded, the worker starts with the server');
	$dbh->disconnect;

	# a crash of the worker restarts the server processes, and it as well
	$dbh = connect_store($node);
	my $pid = worker_pid($dbh);
	kill 'KILL', $pid;
	ok(poll_until(sub { connection_lost($dbh) }, 20), 'the worker crashes');
	ok(poll_until(sub {
		$dbh = connect_store($node, fail_ok => 1) or return 0;
		my $new = eval { worker_pid($dbh) };
		return $new && $new != $pid;
	}, 60), 'after the crash it is there again');
	$dbh->disconnect;
	$node->stop;
	return;
}

# Databases without the extension need no place of their own.  One for which
# there was none gets its worker when there is, without another append.
sub many_databases
{
	my $node = store_cluster('wakeup_places', preload => 'event_store',
		conf => "max_worker_processes = 3\nevent_store.worker_idle_timeout = 3s\n");
	$node->safe_psql('postgres', "CREATE DATABASE empty_$_") for 1 .. 6;
	create_store($node, 'last');
	$node->restart;
	my $dbh = connect_store($node, plain => 1);
	my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE datname = ?
		AND backend_type = 'event_store worker'};
	ok(poll_until(sub { sql_value($dbh, $workers, 'last') }, 20),
		'places: the worker starts with the server, however many other databases there are');
	unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/could not start the event store's worker/,
		'places: one at a time is enough');

	$dbh->do('CREATE EXTENSION event_store');
	my $last = connect_store($node, db => 'last');
	append($last, 'Order-1', 0, 'Placed');
	ok(wait_for_worker($last), 'places: the only place is taken');
	append($dbh, 'Order-1', 0, 'Placed');
	ok(poll_until(sub { sql_value($dbh, $workers, 'postgres') }, 60),
		'places: when it is free the other worker starts');
	$_->disconnect for $dbh, $last;
	$node->stop;
	return;
}

# Preloaded, a worker that has ended before its work was done is started again
# without an append.
sub comes_back
{
	my $node = store_cluster('wakeup_again', preload => 'event_store');
	create_store($node);
	my $dbh = connect_store($node);
	append($dbh, 'Order-1', 0, 'Placed');
	ok(wait_for_worker($dbh), 'again: a worker is there');
	my $pid = worker_pid($dbh);
	my $is_new = sub { my $now = worker_pid($dbh); return $now && $now != $pid };
	$dbh->do("SELECT pg_terminate_backend($pid)");
	ok(poll_until($is_new, 20), 'again: after it was terminated');

	# one that cannot get on is not joined by others
	my $holder = connect_store($node);
	my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'event_store worker'};
	$pid = worker_pid($dbh);
	$holder->begin_work;
	$holder->do('LOCK TABLE pg_catalog.pg_extension IN ACCESS EXCLUSIVE MODE');
	$holder->do("SELECT pg_terminate_backend($pid)");
	ok(!poll_until(sub { sql_value($holder, $workers) > 2 }, 5), 'again: not time and again');
	$holder->rollback;
	$holder->disconnect;
	ok(poll_until($is_new, 20), 'again: after the catalog was locked');

	# it makes way, but as we stay the database cannot be copied
	$pid = worker_pid($dbh);
	my $admin = connect_store($node, db => 'template1', plain => 1);
	is(sqlstate($admin, 'CREATE DATABASE copy TEMPLATE postgres'), '55006', 'again: the database is in use');
	ok(poll_until($is_new, 20), 'again: after it has made way');
	is(sqlstate($admin, 'CREATE DATABASE gone'), '00000', 'again: another database');
	my $other = connect_store($node, db => 'gone', plain => 1);
	$other->do('CREATE EXTENSION event_store');
	append($other, 'Order-1', 0, 'Placed');
	ok(wait_for_worker($other), 'again: which has a worker');
	$other->disconnect;
	is(sqlstate($admin, 'DROP DATABASE gone'), '00000', 'again: and is dropped');
	$admin->disconnect;
	$dbh->disconnect;
	$node->stop;
	unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/database \d+ does not exist/,
		'again: nobody tries to start a worker there');
	return;
}

# A worker that an append has started dies before it has begun; the one before
# has retired, so nobody has said yet that there is to be one.
sub dies_too_soon
{
	my $node = store_cluster('wakeup_soon', conf => "event_store.worker_idle_timeout = 1s\n");
	create_store($node);
	use_fault_build($node);
	my $dbh = connect_store($node);
	run_sql($dbh, 'CREATE TABLE followed (position bigint)',
		q{CREATE FUNCTION follow(e es_event) RETURNS void LANGUAGE sql AS
			$$ INSERT INTO followed VALUES (e.global_position) $$},
		q{SELECT es_create_projection('p', 'follow')});
	$dbh->disconnect;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = '$ENV{ES_FAULTS_LIBDIR}/event_store'\n");
	$node->restart;

	$dbh = connect_store($node);
	append($dbh, 'Order-1', 0, 'Placed');
	ok(poll_until(sub { sql_value($dbh, 'SELECT count(*) FROM followed') == 1 }, 20), 'too soon: the projection follows');
	ok(poll_until(sub { !sql_value($dbh, q{SELECT count(*) FROM pg_stat_activity
			WHERE backend_type IN ('event_store worker', 'event_store projections')}) }, 20),
		'too soon: the workers have retired');
	$dbh->do(q{ALTER DATABASE postgres SET event_store.fault = 'worker_starts:fatal'});
	append($dbh, 'Order-1', 1, 'Placed');
	ok(poll_until(sub {
		PostgreSQL::Test::Utils::slurp_file($node->logfile) =~ /fault point "worker_starts"/;
	}, 20), 'too soon: the worker dies');
	$dbh->do('ALTER DATABASE postgres RESET event_store.fault');
	ok(poll_until(sub { sql_value($dbh, 'SELECT count(*) FROM followed') == 2 }, 20),
		'too soon: another one takes its place, without another append');
	$dbh->disconnect;
	$node->stop;
	return;
}

# A session, of a pool maybe, that listens now and then; preloaded, each counts
# itself, because who is counted is told at once and not a second later.
sub listeners
{
	my $node = store_cluster('wakeup_listeners', preload => 'event_store');
	create_store($node);
	my $dbh = connect_store($node);
	my $listener = connect_store($node);
	append($dbh, 'Order-1', 0, 'Placed');
	ok(wait_for_worker($dbh), 'listeners: the worker runs');

	foreach my $n (1 .. 40)
	{
		$listener->do('LISTEN event_store');
		$listener->do((q{UNLISTEN event_store}, 'UNLISTEN *', 'DISCARD ALL')[ $n % 3 ]);
	}
	ok(!connection_lost($listener), 'listeners: a session begins and ends to listen as often as it likes');

	my %way = (
		'after all that' => ['LISTEN event_store'],
		'an UNLISTEN rolled back' => [ 'LISTEN event_store', 'BEGIN', 'UNLISTEN event_store', 'ROLLBACK' ],
		'... to a savepoint' =>
		  [ 'LISTEN event_store', 'BEGIN', 'SAVEPOINT s', 'UNLISTEN *', 'ROLLBACK TO s', 'COMMIT' ],
		'UNLISTEN and LISTEN' => [ 'LISTEN event_store', 'BEGIN', 'UNLISTEN event_store', 'LISTEN event_store', 'COMMIT' ]);
	my $told = sub {
		my $start = time();
		foreach (1 .. 20)
		{
			no_more_notifications($listener);
			append($dbh, 'Order-1', ANY, 'Placed');
			next_notification($listener, 20) or return 'nothing';
			# let it go to sleep
			poll_until(sub { sql_value($dbh, q{SELECT count(*) FROM pg_stat_activity
				WHERE backend_type = 'event_store worker' AND state = 'idle' AND wait_event_type = 'Extension'}) });
		}
		return time() - $start;
	};
	foreach my $how (sort keys %way)
	{
		$listener->do('DISCARD ALL');
		run_sql($listener, @{ $way{$how} });
		cmp_ok($told->(), '<', $late, "listeners: $how: told at once");
	}
	$_->disconnect for $dbh, $listener;
	$node->stop;
	return;
}

# Whoever waits is counted; who goes, however he goes, is not, and the next
# session that gets his place among the server's processes is not taken for him.
sub waiters_go
{
	my $node = store_cluster('wakeup_waiters', preload => 'event_store');
	create_store($node);
	my $dbh = connect_store($node);
	my $head = append($dbh, 'Order-1', 0, 'Placed')->{position};
	ok(wait_for_worker($dbh), 'waiters: the worker runs');
	my $count = sub { sql_value($dbh, "SELECT $_[0] FROM event_store.statistics") };
	my $woken = sub {
		my ($before, $told) = map { $count->($_) } qw(wakeups notifications);
		$head = append($dbh, 'Order-1', ANY, 'Placed')->{position};
		poll_until(sub { $count->('notifications') > $told });
		return $count->('wakeups') - $before;
	};
	my $place = sub {
		return sql_value($_[0], q{SELECT i FROM pg_stat_get_backend_idset() i WHERE pg_stat_get_backend_pid(i) = pg_backend_pid()});
	};
	my %end = (
		terminated => sub { $dbh->do("SELECT pg_terminate_backend($_[0]->{pg_pid})"); eval { $_[0]->pg_result } },
		cancelled => sub { $_[0]->pg_cancel; eval { $_[0]->pg_result }; $_[0]->disconnect },
		'gone away' => sub { my $pid = $_[0]->{pg_pid}; $_[0]->disconnect; $dbh->do("SELECT pg_terminate_backend($pid)") });
	poll_until(sub { !$woken->() });
	foreach my $how (sort keys %end)
	{
		my @waiters = map { connect_store($node) } 1 .. 5;
		my %theirs = map { $place->($_) => 1 } @waiters;
		my $wait = sub {
			$_->do("SELECT es_wait($head, '60 s')", { pg_async => PG_ASYNC }) for @waiters;
			wait_until_asleep($dbh, 5) or die 'they do not sleep';
		};
		$wait->();
		is($woken->(), 5, 'waiters, control: they are counted');
		$_->pg_result for @waiters;
		$wait->();
		$end{$how}->($_) for @waiters;
		poll_until(sub { client_count($dbh) == 0 }) or die 'they do not go';
		# newer releases give away the place next that was free first, so that all others come before
		my @others;
		for (1 .. 60)
		{
			$_->disconnect for @others;
			@others = map { connect_store($node) } 1 .. 5;
			last if grep { $theirs{ $place->($_) } } @others;
		}
		ok((grep { $theirs{ $place->($_) } } @others), "waiters, $how: others have their places");
		is($woken->(), 0, "waiters, $how: nobody is counted");
		$_->disconnect for @others;
	}
	$dbh->disconnect;
	$node->stop;
	return;
}

# The test build has room for four databases in shared memory; those that were
# dropped make room for others.
sub databases_come_and_go
{
	my $node = store_cluster('wakeup_many');
	create_store($node, 'original');
	use_fault_build($node, 'original');
	my $admin = connect_store($node, plain => 1);
	foreach my $n (1 .. 6)
	{
		my $copied = poll_until(sub {
			sqlstate($admin, "CREATE DATABASE copy_$n TEMPLATE original") eq '00000';
		});
		ok($copied, "database $n: made");
		my $dbh = connect_store($node, db => "copy_$n");
		append($dbh, 'Order-1', 0, 'Placed');
		ok(wait_for_worker($dbh), "database $n: it has a worker");
		$dbh->disconnect;
		$admin->do("DROP DATABASE copy_$n") if $n <= 4;
	}

	# with five of them at a time there is no room, but all else works
	$admin->do("CREATE DATABASE more_$_ TEMPLATE original") for 1 .. 2;
	my @dbh = map { connect_store($node, db => $_) } qw(copy_5 copy_6 more_1 more_2 original);
	my %has = map { $_->{Name} =~ /dbname=(\w+)/; append($_, 'Order-2', 0, 'Placed'); ($1 => $_) } @dbh;
	my $event = append($has{original}, 'Order-2', 1, 'Placed');
	is(sql_value($has{original}, q{SELECT es_wait(?, '10 s')}, $event->{position} - 1),
		$event->{position}, 'no room: es_wait works');
	is(worker_pid($has{original}), undef, 'no room: there is no worker');
	like(PostgreSQL::Test::Utils::slurp_file($node->logfile),
		qr/more than 4 databases with event stores.*\n.*\n.*HINT:  Add "event_store" to "shared_preload_libraries"/,
		'no room: the log says so');

	# and the views say why a projection stands still
	run_sql($has{original}, 'CREATE TABLE seen (global_position bigint)',
		'CREATE FUNCTION on_event(e es_event) RETURNS void LANGUAGE sql AS '
		  . q{'INSERT INTO seen VALUES (e.global_position)'},
		q{SELECT es_create_projection('p', 'on_event')});
	append($has{original}, 'Order-2', 2, 'Placed');
	my $why = "no room for the database's background worker: more than 4 databases with event stores "
	  . '(shared_preload_libraries makes room for 8)';
	my $problem = q{SELECT concat_ws(' ', p.state, p.lag_events > 0, p.error_sqlstate, p.error_message, c.problem = p.error_message)
		FROM event_store.projections p JOIN event_store.consumers c USING (name)};
	is(sql_value($has{original}, $problem), "running t 53400 $why t", 'no room: the views say why');
	my $monitor = connect_store($node, db => 'original');
	run_sql($monitor, 'CREATE ROLE watches', q{SELECT es_grant('watches', 'monitor')}, 'SET ROLE watches');
	is(sql_value($monitor, 'SELECT error_sqlstate FROM event_store.projections'), '53400', 'no room: to a monitor, too');
	$monitor->disconnect;

	# who has been there takes the place of a database that is dropped
	(delete $has{more_2})->disconnect;
	ok(poll_until(sub { sqlstate($admin, 'DROP DATABASE more_2') eq '00000' }), 'no room: a database is dropped');
	ok( poll_until(sub {
			append($has{original}, 'Order-3', ANY, 'Placed');
			return sql_value($admin, q{SELECT count(*) FROM pg_catalog.pg_stat_activity
				WHERE backend_type = 'event_store worker' AND datname = 'original'});
		}), 'then there is a worker');
	ok( poll_until(sub { sql_value($has{original}, q{SELECT lag_events FROM event_store.projections}) == 0 }),
		'and the projection advances');
	is(sql_value($has{original}, $problem), 'running f', 'nothing is in its way');
	$_->disconnect for values %has, $admin;
	$node->stop;
	more_when_preloaded($node);
	return;
}

# The same databases, and more, where the library is preloaded: twice as many
# have room.
sub more_when_preloaded
{
	my ($node) = @_;
	$node->append_conf('postgresql.conf', "max_worker_processes = 20\n"
		  . "shared_preload_libraries = '$ENV{ES_FAULTS_LIBDIR}/event_store'\n");
	$node->start;
	my $admin = connect_store($node, plain => 1);
	foreach my $n (1 .. 5)
	{
		poll_until(sub { sqlstate($admin, "CREATE DATABASE crowd_$n TEMPLATE original") eq '00000' });
	}
	my %has = map { $_ => connect_store($node, db => $_) } qw(copy_5 copy_6 more_1 original), map { "crowd_$_" } 1 .. 5;
	append($_, 'Order-4', ANY, 'Placed') for values %has;
	ok( poll_until(sub {
			sql_value($admin, q{SELECT count(DISTINCT datname) FROM pg_catalog.pg_stat_activity
				WHERE backend_type = 'event_store worker'}) == 8;
		}), 'preloaded: eight databases have workers');
	my @without = grep { defined sql_value($has{$_}, 'SELECT obstacle FROM event_store.es_worker_status()') } sort keys %has;
	is(scalar @without, 1, "preloaded: one has not (@without)");
	is(sql_value($has{ $without[0] }, 'SELECT obstacle FROM event_store.es_worker_status()'),
		q{no room for the database's background worker: more than 8 databases with event stores}, 'preloaded: it says why');
	$_->disconnect for values %has, $admin;
	$node->stop;
	return;
}

sub no_worker_to_be_had
{
	my $node = store_cluster('wakeup_full', conf => "max_worker_processes = 0\n");
	create_store($node);
	my $dbh = connect_store($node);
	my $event = append($dbh, 'Order-1', 0, 'Placed');
	is($event->{version}, 1, 'appends work when no worker may run');
	start_waiter('poller', $node, $event->{position}, '60 s');
	my $next = append($dbh, 'Order-1', 1, 'Placed');
	my $got = wait_clients()->{poller};
	is($got->{head}, $next->{position}, 'es_wait works without a worker');
	cmp_ok($got->{seconds}, '<', $late, '... and is not late');
	$dbh->disconnect;
	$node->stop;
	return;
}

# Without preloading a server may have no shared memory left.  That is no error,
# wherever it is found out: while another error is raised, or at commit, where
# interrupts are held off.
sub no_memory
{
	my $node = store_cluster('wakeup_memory');
	create_store($node);
	use_fault_build($node);
	my $dbh = connect_store($node);
	append($dbh, 'Order-1', 0, 'Placed');
	run_sql($dbh, q{CREATE FUNCTION ignore(e es_event) RETURNS void LANGUAGE sql AS $$ $$},
		q{SELECT es_create_projection('p', 'ignore')});
	my %first = (
		'an append' => [ q{SELECT es_append('Order-1', es_any(), 'Placed', '1')}, '00000' ],
		'a conflict' => [ q{SELECT es_append('Order-1', 0, 'Placed', '1')}, 'VE001' ],
		'a condition' => [ q{SELECT es_append_if('[{"event_type": "Placed", "data": 1}]', '{}')}, 'VE007' ],
		'an import' => [ q{SELECT es_import($$SELECT 'Order-1' AS stream_id, 1 AS version, 'Placed' AS event_type, '1'::jsonb AS data$$)}, 'VE001' ],
		'a projection' => [ q{SELECT es_pause_projection('p')}, '00000' ]);
	foreach my $mode (qw(worker off))
	{
		foreach my $what (sort keys %first)
		{
			my ($sql, $state) = @{ $first{$what} };
			my $new = connect_store($node);
			run_sql($new, q{SET event_store.fault = 'shmem_found:error=53200'}, "SET event_store.notify = $mode");
			is(sqlstate($new, $sql), $state, "no memory, $mode: $what");
			is(sqlstate($new, 'SELECT es_wait(0)'), '00000', '... and a wait');
			$new->do(q{SET statement_timeout = '100 ms'});
			is(sqlstate($new, 'SELECT pg_sleep(20)'), '57014', '... and the session can be cancelled');
			$new->disconnect;
		}
	}
	$dbh->disconnect;
	$node->stop;
	return;
}

sub modes
{
	my $node = store_cluster('wakeup_modes',
		conf => "event_store.worker_idle_timeout = 1s\nevent_store.notify = off\n");
	create_store($node);
	my $dbh = connect_store($node);
	my $listener = connect_store($node);
	$listener->do('LISTEN event_store');

	$dbh->do('SET event_store.notify = transaction');
	my $event = append($dbh, 'Order-1', 0, 'Placed');
	my $note = next_notification($listener);
	is($note && $note->[2], $event->{position}, 'mode transaction notifies by itself');
	$dbh->begin_work;
	append($dbh, 'Order-1', 1, 'Placed');
	is(sqlstate($dbh, q{PREPARE TRANSACTION 'x'}), '0A000',
		'... and cannot be prepared, as documented');
	eval { $dbh->rollback };

	$dbh->do('SET event_store.notify = off');
	append($dbh, 'Order-2', 0, 'Placed');
	is(next_notification($listener, 0.5), undef, 'mode off tells nobody');
	is(worker_pid($dbh), undef, 'neither mode starts a worker');

	# but for projections, in any of them, and whatever has made them run
	my $workers = q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'event_store%'};
	my $follows = sub {
		my ($what) = @_;
		ok(poll_until(sub {
			sql_value($dbh, q{SELECT count(*) FROM event_store.projections
				WHERE position >= es_head() AND lag_events = 0}) == 1;
		}, 60), "mode off: a projection follows, $what");
		ok(poll_until(sub { sql_value($dbh, $workers) == 0 }, 60), '... until there is nothing to do');
		return;
	};
	run_sql($dbh, 'CREATE TABLE followed (position bigint)',
		q{CREATE FUNCTION follow(e es_event) RETURNS void LANGUAGE sql AS
			$$ INSERT INTO followed VALUES (e.global_position) $$},
		q{SELECT es_create_projection('p', 'follow')});
	$follows->('when it is made');
	append($dbh, 'Order-2', 1, 'Placed');
	$follows->('after an append');
	$dbh->do('SET event_store.notify = transaction');
	append($dbh, 'Order-2', 2, 'Placed');
	$follows->('after one in mode transaction');
	no_more_notifications($listener);
	run_sql($dbh, 'SET event_store.notify = off', 'BEGIN ISOLATION LEVEL SERIALIZABLE',
		q{SELECT es_append('Order-2', 3, 'Placed', '1')}, 'COMMIT');
	$follows->('after a serializable one');

	# it has nothing to be started for, and nobody is told when it has again
	$dbh->do(q{SELECT es_pause_projection('p')});
	append($dbh, 'Order-2', 4, 'Placed');
	is(sql_value($dbh, $workers), 0, 'mode off: a paused projection starts no worker');
	$dbh->do(q{UPDATE event_store.projection SET state = 'running'});
	ok(poll_until(sub {
		append($dbh, 'Order-2', ANY, 'Placed');
		sql_value($dbh, $workers);
	}, 60), '... one that a restore has brought does');
	$follows->('after that');
	$dbh->do(q{SELECT es_pause_projection('p')});
	append($dbh, 'Order-2', ANY, 'Placed');
	$dbh->do(q{SELECT es_resume_projection('p')});
	$follows->('resumed');
	is(sql_value($dbh, 'SELECT count(*) FROM followed'), sql_value($dbh, 'SELECT count(*) FROM event_store.event'),
		'mode off: it has had every event');
	is(next_notification($listener, 0.5), undef, 'mode off: and still nobody is told');
	$_->disconnect for $dbh, $listener;
	$node->stop;
	return;
}

# Who waits for a lock has its latch reset by that.  One NOTIFY at a time may
# commit; what is appended while the worker waits for its turn must not wait for
# a look that the worker takes anyhow.  No single such delay is long, but all
# together are.
sub worker_waits_for_lock
{
	my $node = store_cluster('wakeup_locks', streaming => 1,
		conf => "synchronous_commit = local\nsynchronous_standby_names = 'nobody'\n");
	create_store($node);
	my $dbh = connect_store($node);
	my $listener = connect_store($node);
	my $notifier = connect_store($node);
	my $activity = 'SELECT wait_event FROM pg_stat_activity WHERE pid = ?';
	my $waited = 0;

	$dbh->do('CREATE TABLE written (i int)');
	$listener->do('LISTEN event_store');
	append($dbh, 'Order-1', 0, 'Placed');
	ok(wait_for_worker($dbh), 'the worker runs');
	ok(next_notification($listener, 20), '... and has told');
	for my $round (1 .. 80)
	{
		# it stays in its commit until it is cancelled, for want of a standby
		$notifier->do('BEGIN; SET LOCAL synchronous_commit = on');
		$notifier->do('NOTIFY something; INSERT INTO written VALUES (1)');
		$notifier->do('COMMIT', { pg_async => PG_ASYNC });
		poll_until(sub { (sql_value($dbh, $activity, $notifier->{pg_pid}) || '') eq 'SyncRep' })
		  or die 'the NOTIFY does not commit';
		append($dbh, 'Order-1', ANY, 'Placed');
		poll_until(sub {
			(sql_value($dbh, $activity, worker_pid($dbh)) || '') eq 'object';
		}) or die 'the worker does not wait';
		my $position = append($dbh, 'Order-1', ANY, 'Placed')->{position};

		my $start = time();
		$dbh->do("SELECT pg_cancel_backend($notifier->{pg_pid})");
		$notifier->pg_result;
		poll_until(sub {
			my $note = $listener->pg_notifies;
			return $note && $note->[2] == $position;
		}) or die 'nobody is told';
		$waited += time() - $start;
	}
	cmp_ok($waited, '<', $late, 'what is appended while the worker waits is told at once');
	$_->disconnect for $dbh, $listener, $notifier;
	$node->stop;
	return;
}

# The server's queue of notifications is full, because a session that listens
# stays in a transaction: nobody else's affair.  Before 17 it takes gigabytes.
sub full_queue
{
	my $node = store_cluster('wakeup_queue', conf => "event_store.worker_idle_timeout = 1s\n");
	create_store($node);
	use_fault_build($node);
	my $dbh = connect_store($node);
	my $listener = connect_store($node);
	my $is_real = $dbh->{pg_server_version} >= 170000;
	if ($is_real)
	{
		$node->append_conf('postgresql.conf', 'max_notify_queue_pages = 64');
		$_->disconnect for $dbh, $listener;
		$node->restart;
		($dbh, $listener) = map { connect_store($node) } 1 .. 2;
	}
	run_sql($dbh, 'CREATE TABLE followed (position bigint)',
		q{CREATE FUNCTION follow(e es_event) RETURNS void LANGUAGE sql AS
			$$ INSERT INTO followed VALUES (e.global_position) $$},
		q{SELECT es_create_projection('p', 'follow')});
	run_sql($listener, 'LISTEN event_store', 'LISTEN other', 'BEGIN', 'SELECT 1');

	# for sessions, of which there is none to come
	$dbh->do('ALTER DATABASE postgres SET exit_on_error = on');
	if ($is_real)
	{
		my $state = '00000';
		$state = sqlstate($dbh, q{SELECT count(pg_notify('other', i || repeat('x', 7000))) FROM generate_series(1, 40) i})
		  while $state eq '00000';
		is($state, '54000', 'queue: it is full');
	}
	run_sql($dbh, q{ALTER SYSTEM SET event_store.fault = 'worker_notifies:error=54000'}, 'SELECT pg_reload_conf()')
	  if !$is_real;

	my $head = append($dbh, 'Order-1', 0, 'Placed')->{position};
	ok(wait_for_worker($dbh), 'queue: the worker runs');
	my $pid = worker_pid($dbh);
	for my $round (1 .. 3)
	{
		start_waiter("waiter$round", $node, $head, '60 s');
		ok(wait_until_asleep($dbh, 1), 'queue: es_wait sleeps');
		my $next = append($dbh, 'Order-1', $round, 'Placed')->{position};
		is(wait_clients()->{"waiter$round"}{head}, $next, 'queue: es_wait is woken');
		ok(poll_until(sub { sql_value($dbh, 'SELECT max(position) FROM followed') >= $next }, 20),
			'queue: the projection follows');
		$head = $next;
	}
	my $said = sub {
		return scalar(() = PostgreSQL::Test::Utils::slurp_file($node->logfile) =~ /could not notify those who listen/g);
	};
	ok(poll_until(sub { $said->() }, 20), 'queue: the log says so');
	is(worker_pid($dbh), $pid, 'queue: the worker has gone on');

	# it has not forgotten what it owes, although its time is up
	ok(!poll_until(sub { (worker_pid($dbh) || 0) != $pid }, 3), 'queue: it stays');
	is($said->(), 1, 'queue: the log says it once');
	run_sql($dbh, 'ALTER SYSTEM RESET event_store.fault', 'SELECT pg_reload_conf()') if !$is_real;
	run_sql($listener, 'COMMIT');
	ok(poll_until(sub {
		my $note = $listener->pg_notifies;
		return $note && $note->[0] eq 'event_store' && $note->[2] == $head;
	}, 20), 'queue: when there is room again those who listen are told');
	$_->disconnect for $dbh, $listener;
	$node->stop;
	return;
}

# The extension is dropped and made again in one transaction: what was settled
# in the store before says nothing about the new one.
sub made_anew
{
	my $node = store_cluster('wakeup_anew');
	create_store($node);
	my $dbh = connect_store($node);
	append_batch($dbh, 'Order-1', 0, 'Placed', [ (undef) x 500 ]);
	ok(wait_for_worker($dbh), 'the worker runs');
	is(sql_value($dbh, q{SELECT es_wait(499, '20 s')}), 500, 'es_wait knows the old head');
	$dbh->disconnect;

	$dbh = connect_store($node, plain => 1);
	run_sql($dbh, 'BEGIN', 'DROP EXTENSION event_store CASCADE',
		'CREATE EXTENSION event_store', 'COMMIT');
	is(append($dbh, 'Order-1', 0, 'Placed')->{position}, 1, 'a new store begins at 1');
	ok(poll_until(sub {
		$dbh->do(q{SELECT es_wait(1, '10 ms')});
		worker_pid($dbh);
	}, 20), '... with a worker, which who waits brings back');
	is(sql_value($dbh, q{SELECT es_wait(1, '300 ms')}), 1,
		'es_wait does not return the head of the old one');
	is(sql_value($dbh, q{SELECT es_wait(0, '20 s')}), 1, '... but its own');
	$dbh->disconnect;
	$node->stop;
	return;
}

# Defaults for sessions do not concern the worker.  Where all are SERIALIZABLE,
# its looks are no reason for an append to fail; where all are to be impatient,
# it still waits for a lock; where all are only to read, it writes.
sub session_defaults
{
	my $node = store_cluster('wakeup_defaults',
		conf => "default_transaction_isolation = serializable\nlock_timeout = 100ms\n");
	create_store($node);
	my $dbh = connect_store($node);
	my $other = connect_store($node);
	my $listener = connect_store($node);
	$listener->do('LISTEN event_store');
	run_sql($other, 'ALTER DATABASE postgres SET default_transaction_read_only = on',
		'CREATE TABLE followed (position bigint)',
		q{CREATE FUNCTION follow(e es_event) RETURNS void LANGUAGE sql AS
			$$ INSERT INTO followed VALUES (e.global_position) $$},
		q{SELECT es_create_projection('p', 'follow')});
	append($dbh, 'Order-1', 0, 'Placed');
	ok(next_notification($listener, 20), 'serializable: the worker runs');
	ok(poll_until(sub { sql_value($other, 'SELECT count(*) FROM followed') == 1 }, 20),
		'read-only: the workers write');

	$dbh->begin_work;
	is(sql_value($dbh, q{SELECT count(*) FROM es_read_stream('Order-1')}), 1, 'serializable: one reads');
	append($other, 'Order-1', 1, 'Placed');
	ok(next_notification($listener, 20), '... another one appends, and the worker looks');
	ok(poll_until(sub { sql_value($other, 'SELECT count(*) FROM followed') == 2 }, 20), '... and a projection follows');
	is(sqlstate($dbh, q{SELECT es_append('Order-2', 0, 'Placed', '1')}), '00000', '... the first one appends');
	is(sqlstate($dbh, 'COMMIT'), '00000', '... and commits');

	my $pid = worker_pid($dbh);
	$other->begin_work;
	$other->do('LOCK TABLE event_store.projection IN ACCESS EXCLUSIVE MODE');
	append($dbh, 'Order-1', 2, 'Placed');
	ok(poll_until(sub {
		sql_value($dbh, q{SELECT count(*) FROM pg_stat_activity WHERE pid = ?
			AND wait_event_type = 'Lock' AND clock_timestamp() - state_change > '300 ms'}, $pid);
	}, 20), 'lock_timeout: the worker waits');
	$other->rollback;
	$_->disconnect for $dbh, $other, $listener;
	$node->stop;
	return;
}

sub standby
{
	my $primary = store_cluster('wakeup_primary', streaming => 1);
	create_store($primary);
	my $dbh = connect_store($primary);
	my $event = append($dbh, 'Order-1', 0, 'Placed');
	$primary->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new('wakeup_standby');
	$standby->init_from_backup($primary, 'base', has_streaming => 1);
	$standby->start;
	my $reader = connect_store($standby);
	ok(poll_until(sub { sql_value($reader, 'SELECT es_head()') == $event->{position} }),
		'the standby has caught up');
	start_waiter('standby', $standby, $event->{position}, '60 s');
	my $next = append($dbh, 'Order-1', 1, 'Placed');
	my $got = wait_clients()->{standby};
	is($got->{head}, $next->{position}, 'es_wait works on a standby');
	cmp_ok($got->{seconds}, '<', $late, '... and is not late');
	is(sqlstate($reader, q{SELECT es_append('Order-1', 2, 'Placed', '1')}), '25006',
		'an append does not');

	# promoted, it is a store like any other
	$reader->disconnect;
	$dbh->disconnect;
	$primary->stop('immediate');
	$standby->promote;
	$reader = connect_store($standby);
	ok(poll_until(sub {
		sqlstate($reader, q{SELECT es_append('Order-1', es_any(), 'Placed', '1')}) eq '00000';
	}), 'after promotion appends work');
	ok(wait_for_worker($reader), '... and the worker runs');
	$reader->disconnect;
	$standby->stop;
	return;
}
