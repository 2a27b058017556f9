# Each half of the ordering method is needed, and both together suffice.
#
# The library built with fault points pauses 3 to 8 ms between drawing a
# position and inserting the event, for a tenth of the appends.  There are no
# slow transactions: readers would wait behind them and the window would stay
# hidden.  With everything on, nobody misses an event.  Without the barrier
# before commit, or with a reader that does not stop at an unsettled event,
# events are missed; if they were not, this test could find nothing.
#
# Then every fault point fails or crashes in turn: no half batch, no lock left.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::History
  qw(check_delivery check_commits verdict faultless_delivery);
use Test::More;
use Time::HiRes qw(time);

my $seconds = setting('ES_FAULT_SECONDS', 6);
my $writers = 8;
my @points = qw(append_drawn append_inserted append_before_indexes append_done);

my $libdir = $ENV{ES_FAULTS_LIBDIR};
ok($libdir && -e "$libdir/event_store.so",
	'ES_FAULTS_LIBDIR names the folder of the library with fault points')
  or BAIL_OUT('build with FAULTS=1 and set ES_FAULTS_LIBDIR');

seed_random();

foreach my $preload ('', "$libdir/event_store")
{
	my $title = $preload ? 'preloaded' : 'not preloaded';
	my $name = $preload ? 'preload' : 'plain';
	my @stores =
	  $preload ? qw(all_on crashes) : qw(all_on no_barrier no_stop errors);
	my $primary = store_cluster("primary_$name", streaming => 1);
	# CREATE EXTENSION loads the installed library, which cannot be loaded
	# beside the other one: so the stores are made before that is preloaded.
	foreach my $db (@stores)
	{
		create_store($primary, $db);
		use_fault_build($primary, $db);
	}
	if ($preload)
	{
		$primary->append_conf('postgresql.conf', "shared_preload_libraries = '$preload'\n");
		$primary->restart;
	}
	$primary->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new("standby_$name");
	$standby->init_from_backup($primary, 'base', has_streaming => 1);
	$standby->start;

	run_load($primary, $standby, "$title: everything on", 'all_on', {});
	if ($preload)
	{
		crash_at_every_point($primary);
	}
	else
	{
		run_load($primary, $standby, 'control: no barrier',
			'no_barrier', { writer => 'event_store.fault_no_barrier' });
		run_load($primary, $standby, 'control: the reader does not stop',
			'no_stop', { reader => 'event_store.fault_no_stop' });
		fail_at_every_point($primary);
	}
	$standby->stop;
	$primary->stop;
}
done_testing();

# ---------------------------------------------------------------------------

sub run_load
{
	my ($primary, $standby, $title, $db, $off) = @_;
	$primary->wait_for_catchup($standby, 'replay');
	new_flags();

	my %reader = (
		primary_rc => [ $primary, 'READ COMMITTED' ],
		primary_rr => [ $primary, 'REPEATABLE READ' ],
		standby_rc => [ $standby, 'READ COMMITTED' ]);
	my $deadline = time() + $seconds;
	my @names = map { "writer_$_" } 1 .. $writers;
	foreach my $name (@names)
	{
		start_client($name,
			sub { write_fast($primary, $db, $name, $deadline, $off->{writer}) });
	}
	foreach my $name (sort keys %reader)
	{
		my ($node, $level) = @{ $reader{$name} };
		start_client($name,
			sub { follow_fast($node, $db, $level, $off->{reader}) });
	}
	my $written = wait_clients(names => \@names, test => "$title: no writer failed");
	$primary->wait_for_catchup($standby, 'replay');
	flag_set('drain');
	my $read = wait_clients(
		names => [ keys %reader ],
		test => "$title: no reader failed");

	my $dbh = connect_store($primary, db => $db);
	my $committed = store_rows($dbh);
	$dbh->disconnect;
	my %acknowledged;
	foreach my $result (values %$written)
	{
		@acknowledged{ keys %{ $result->{acknowledged} } } =
		  values %{ $result->{acknowledged} };
	}
	my $commits = check_commits($committed, \%acknowledged, {});
	is_deeply($commits, { map { $_ => 0 } keys %$commits },
		"$title: committed events are exactly the acknowledged ones");
	cmp_ok(scalar @$committed, '>=', 50 * $seconds, "$title: there was load");

	my $skipped = 0;
	foreach my $name (sort keys %reader)
	{
		my $events = $read->{$name}{events} || [];
		if (!%$off)
		{
			faultless_delivery("$title: $name", $committed, $events);
		}
		else
		{
			my $count = check_delivery($committed, $events);
			note "$title: $name: " . verdict($count);
			$skipped += $count->{skipped};
		}
	}
	cmp_ok($skipped, '>=', 1, "$title: events are skipped") if %$off;
	return;
}

sub write_fast
{
	my ($node, $db, $name, $deadline, $off) = @_;
	my $dbh = connect_store($node, db => $db);
	my %acknowledged;
	$dbh->do("SET $off = on") if $off;
	for (my $number = 0; time() < $deadline; $number++)
	{
		if ($number % 20 == 0)
		{
			my $pause = random_int(3, 8);
			$dbh->do("SET event_store.fault = 'append_drawn:pause=$pause\@10'");
		}
		my $stream = sprintf '%s-%d', $name, random_int(1, 20);
		my $event = append($dbh, $stream, ANY, 'Happened', random_uuid());
		$acknowledged{ $event->{id} } =
		  [ $event->{position}, $stream, $event->{version} ];
	}
	$dbh->disconnect;
	return { acknowledged => \%acknowledged };
}

sub follow_fast
{
	my ($node, $db, $level, $off) = @_;
	my $dbh = connect_store($node, db => $db);
	my @events;
	my $cursor = 0;
	my $last_round = 0;
	$dbh->do("SET default_transaction_isolation = '$level'");
	$dbh->do("SET $off = on") if $off;
	my $page = $dbh->prepare('SELECT global_position, stream_id, version, event_id '
		  . 'FROM es_read_all($1, 1000)');
	while (!$last_round)
	{
		$last_round = flag_is_set('drain');
		$dbh->do('BEGIN');
		while (1)
		{
			$page->execute($cursor);
			my $rows = $page->fetchall_arrayref;
			last unless @$rows;
			push @events, @$rows;
			$cursor = $rows->[-1][0];
		}
		$dbh->do('COMMIT');
	}
	$dbh->disconnect;
	return { events => \@events };
}

# ---------------------------------------------------------------------------

sub batch_ids
{
	my ($size) = @_;
	return [ map { random_uuid() } 1 .. $size ];
}

sub stored_of
{
	my ($dbh, $ids) = @_;
	return sql_value($dbh,
		'SELECT count(*) FROM event_store.events WHERE event_id = ANY ($1::uuid[])',
		$ids);
}

# An error at any point inside an append leaves nothing behind, and neither the
# failed session nor another one has to wait afterwards.
sub fail_at_every_point
{
	my ($node) = @_;
	my $dbh = connect_store($node, db => 'errors');
	my $other = connect_store($node, db => 'errors');
	run_sql($_, 'SET lock_timeout = 5000', 'SET statement_timeout = 20000')
	  for $dbh, $other;

	foreach my $point (@points)
	{
		my $stream = "Error-$point";
		my $ids = batch_ids(5);
		my $kept = batch_ids(2);

		$dbh->do("SET event_store.fault = '$point:error'");
		ok(!eval { append_batch($dbh, $stream, 0, 'T', $ids); 1 },
			"error at $point: the append fails");
		$dbh->do('RESET event_store.fault');
		is(stored_of($dbh, $ids), 0, "error at $point: no half batch");
		is(lock_leftovers($other), '', "error at $point: no lock is left");

		# inside a transaction that goes on behind a savepoint
		$dbh->do('BEGIN');
		append_batch($dbh, "$stream-kept", 0, 'T', $kept);
		$dbh->do('SAVEPOINT s');
		$dbh->do("SET event_store.fault = '$point:error'");
		eval { append_batch($dbh, $stream, 0, 'T', $ids) };
		$dbh->do('ROLLBACK TO SAVEPOINT s');
		$dbh->do('RESET event_store.fault');
		my $after = append_batch($dbh, "$stream-kept", 2, 'T', [undef]);
		is($after->[0]{version}, 3, "error at $point: the transaction goes on");
		$dbh->do('COMMIT');
		is(stored_of($dbh, $ids), 0, "error at $point: nothing of the failed part");
		is(stored_of($dbh, $kept), 2, "error at $point: the other part is kept");

		my $again = append_batch($other, $stream, 0, 'T', $ids);
		is_deeply([ map { "$_->{version} " . ($_->{duplicate} ? 1 : 0) } @$again ],
			[ map { "$_ 0" } 1 .. 5 ],
			"error at $point: another session appends the same batch");
		my $delivered = $other->selectall_arrayref(
			'SELECT global_position, stream_id, version, event_id '
			  . 'FROM es_read_all(0, NULL)');
		faultless_delivery("error at $point: read", store_rows($other), $delivered);
	}
	$_->disconnect for $dbh, $other;
	return;
}

# The same with a crash of the backend, which restarts the server.
sub crash_at_every_point
{
	my ($node) = @_;
	foreach my $point (@points)
	{
		my $stream = "Crash-$point";
		my $ids = batch_ids(5);
		my $dbh = connect_store($node, db => 'crashes');
		my $witness = connect_store($node, db => 'crashes');
		my $before = append($dbh, "$stream-before", ANY, 'T', random_uuid());

		$dbh->do("SET event_store.fault = '$point:crash'");
		ok(!eval { append_batch($dbh, $stream, 0, 'T', $ids); 1 },
			"crash at $point: the append fails");
		ok(connection_lost($dbh), "crash at $point: the session is gone");

		# until the server notices it still lets sessions in, to end them
		ok(poll_until(sub { connection_lost($witness) }),
			"crash at $point: the server notices");
		undef $dbh;
		poll_until(
			sub { $dbh = connect_store($node, db => 'crashes', fail_ok => 1) });
		ok($dbh, "crash at $point: the server is back") or return;
		is(stored_of($dbh, $ids), 0, "crash at $point: no half batch");
		is(stored_of($dbh, [ $before->{id} ]),
			1, "crash at $point: the event before is kept");
		my $again = append_batch($dbh, $stream, 0, 'T', $ids);
		is_deeply([ map { "$_->{version} " . ($_->{duplicate} ? 1 : 0) } @$again ],
			[ map { "$_ 0" } 1 .. 5 ],
			"crash at $point: the same batch is appended afterwards");
		my $delivered = $dbh->selectall_arrayref(
			'SELECT global_position, stream_id, version, event_id '
			  . 'FROM es_read_all(0, NULL)');
		faultless_delivery("crash at $point: read", store_rows($dbh), $delivered);
		$dbh->disconnect;
	}
	return;
}
