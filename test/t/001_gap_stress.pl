# Nobody who follows the global order misses an event.
#
# Writers whose transactions commit, abort, roll back to savepoints and are
# prepared, with random holds; readers in every isolation level, on the primary
# and on a streaming standby, follow the log at the same time.  At the end each
# history must equal the committed events.  A reader that asks for "position
# greater than the last one" on the plain view runs beside them and must miss
# events, or this test proves nothing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::History
  qw(check_delivery check_commits verdict faultless_delivery);
use Test::More;
use Time::HiRes qw(time);

my $seconds = setting('ES_STRESS_SECONDS', 12);
my $writers = setting('ES_STRESS_WRITERS', 16);
my @categories = qw(Order Item Account);

seed_random();
checker_finds_faults();
stress('preloaded', 'event_store');
stress('not preloaded', '');
done_testing();

# ---------------------------------------------------------------------------

# The checker itself: every kind of fault in a small history is reported.
sub checker_finds_faults
{
	my @truth = map { [ $_, 'A-1', $_, "id$_" ] } 1 .. 5;
	my %history = (
		none => [ @truth[ 0 .. 4 ] ],
		skipped => [ @truth[ 0, 1, 3, 4 ] ],
		duplicate => [ @truth[ 0, 1, 1, 2, 3, 4 ] ],
		inversion => [ @truth[ 0, 2, 1, 3, 4 ] ],
		phantom => [ @truth, [ 6, 'A-1', 6, 'id6' ] ],
		version_fault => [ map { [ $_, 'A-1', $_ + 1, "id$_" ] } 1 .. 5 ]);
	foreach my $fault (sort keys %history)
	{
		my $count = check_delivery(\@truth, $history{$fault});
		my $sum = 0;
		$sum += $count->{$_}
		  for qw(skipped duplicate inversion phantom version_fault);
		if ($fault eq 'none')
		{
			is($sum, 0, 'checker: a right history has no fault');
		}
		else
		{
			ok($count->{$fault} > 0, "checker: finds $fault");
		}
	}
	return;
}

sub stress
{
	my ($title, $preload) = @_;
	my $primary = store_cluster(
		$preload ? 'primary_preload' : 'primary_plain',
		preload => $preload,
		streaming => 1);
	create_store($primary);
	$primary->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new(
		$preload ? 'standby_preload' : 'standby_plain');
	$standby->init_from_backup($primary, 'base', has_streaming => 1);
	$standby->start;

	new_flags();
	my %reader;
	foreach my $place ([ primary => $primary ], [ standby => $standby ])
	{
		my ($where, $node) = @$place;
		my @levels = ('READ COMMITTED', 'REPEATABLE READ');
		push @levels, 'SERIALIZABLE' if $where eq 'primary';
		foreach my $level (@levels)
		{
			my $short = lc join('', $level =~ /\b(\w)/g);
			$reader{"${where}_${short}_all"} =
			  { node => $node, level => $level, kind => 'all' };
			$reader{"${where}_${short}_category"} = {
				node => $node,
				level => $level,
				kind => 'category',
				category => $categories[0]
			};
		}
		$reader{"${where}_filter"} = {
			node => $node,
			level => 'READ COMMITTED',
			kind => 'filter',
			category => $categories[1]
		};
		$reader{"${where}_head"} =
		  { node => $node, level => 'REPEATABLE READ', kind => 'head' };
		$reader{"${where}_naive"} =
		  { node => $node, level => 'READ COMMITTED', kind => 'naive' };
	}

	my $deadline = time() + $seconds;
	my @writer_names = map { sprintf 'writer_%02d', $_ } 1 .. $writers;
	foreach my $name (@writer_names)
	{
		start_client($name, sub { write_events($primary, $name, $deadline) });
	}
	foreach my $name (sort keys %reader)
	{
		start_client($name, sub { follow($reader{$name}) });
	}

	my $written = wait_clients(
		names => \@writer_names,
		limit => $seconds + 90,
		test => "$title: no writer failed");
	my $dbh = connect_store($primary);
	is(sql_value($dbh, 'SELECT count(*) FROM pg_catalog.pg_prepared_xacts'),
		0, "$title: every prepared transaction is resolved");
	$primary->wait_for_catchup($standby, 'replay');
	flag_set('drain');
	my $read = wait_clients(
		names => [ keys %reader ],
		limit => 120,
		test => "$title: no reader failed");

	my $committed = store_rows($dbh);
	my (%acknowledged, %undone, %total);
	foreach my $result (values %$written)
	{
		@acknowledged{ keys %{ $result->{acknowledged} } } =
		  values %{ $result->{acknowledged} };
		@undone{ keys %{ $result->{undone} } } = ();
		$total{$_} += $result->{count}{$_} for keys %{ $result->{count} };
	}
	note "$title: " . verdict(\%total);
	my $commits = check_commits($committed, \%acknowledged, \%undone);
	is_deeply($commits, { map { $_ => 0 } keys %$commits },
		"$title: committed events are exactly the acknowledged ones");
	foreach my $kind (qw(commit rollback savepoint commit_prepared rollback_prepared))
	{
		ok($total{$kind} > 0, "$title: the load contains $kind");
	}
	is(sql_value($dbh, 'SELECT es_head()'),
		$committed->[-1][0], "$title: at rest the head is the last event");

	foreach my $name (sort keys %reader)
	{
		my $events = $read->{$name}{events} || [];
		if ($reader{$name}{kind} eq 'naive')
		{
			my $count = check_delivery($committed, $events);
			note "$title $name: " . verdict($count);
			cmp_ok($count->{skipped}, '>=', 1,
				"$title: control: the naive reader on the "
				  . ($name =~ /^(\w+?)_/)[0]
				  . ' skips events');
		}
		else
		{
			faultless_delivery("$title: $name", $committed, $events,
				category => $reader{$name}{category});
			cmp_ok($read->{$name}{pages}, '>=', 10,
				"$title: $name read while events were written");
		}
	}
	$dbh->disconnect;
	$standby->stop;
	$primary->stop;
	return;
}

# ---------------------------------------------------------------------------
# Writers

sub write_events
{
	my ($node, $name, $deadline) = @_;
	my $dbh = connect_store($node, app => $name);
	my (%acknowledged, %undone, %count);
	my $number = 0;

	while (time() < $deadline)
	{
		my @pending;
		my $level = rand() < 0.1 ? 'REPEATABLE READ'
		  : rand() < 0.05 ? 'SERIALIZABLE'
		  : 'READ COMMITTED';
		my $fate = rand();
		my $done = eval {
			$dbh->do("BEGIN ISOLATION LEVEL $level");
			push @pending, append_somewhere($dbh, \%count);
			random_pause(50) if rand() < 0.4;
			if (rand() < 0.2)
			{
				$dbh->do('SAVEPOINT s');
				my @lost = append_somewhere($dbh, \%count);
				$dbh->do('ROLLBACK TO SAVEPOINT s');
				$undone{ $_->[0] } = 1 for @lost;
				$count{savepoint}++;
				push @pending, append_somewhere($dbh, \%count) if rand() < 0.5;
			}
			random_pause(50) if rand() < 0.3;
			1;
		};
		if (!$done)
		{
			# A deadlock, a serialization failure or a version conflict is
			# what this load asks for; anything else is a fault.
			my ($error, $state) = ($@, $dbh->state);
			die $error unless $state =~ /^(?:40001|40P01|VE001)$/;
			$dbh->do('ROLLBACK');
			$count{$state}++;
			$undone{ $_->[0] } = 1 for @pending;
			next;
		}
		if ($fate < 0.15)
		{
			$dbh->do('ROLLBACK');
			$count{rollback}++;
			$undone{ $_->[0] } = 1 for @pending;
		}
		elsif ($fate < 0.25)
		{
			two_phase($dbh, $name, ++$number, \@pending,
				\%acknowledged, \%undone, \%count);
		}
		elsif (eval { $dbh->do('COMMIT'); 1 })
		{
			$count{commit}++;
			$acknowledged{ $_->[0] } = $_->[1] for @pending;
		}
		else
		{
			die $@ unless $dbh->state eq '40001';
			$count{40001}++;
			$undone{ $_->[0] } = 1 for @pending;
		}
	}
	$dbh->disconnect;
	return {
		acknowledged => \%acknowledged,
		undone => \%undone,
		count => \%count
	};
}

# One to five events on one stream; sometimes with a version check, sometimes
# under an event type that nobody has used before.
sub append_somewhere
{
	my ($dbh, $count) = @_;
	my $category = $categories[ random_int(0, $#categories) ];
	my $stream = sprintf '%s-%d', $category, random_int(1, 120);
	my $expected = -1;
	my $type = 'Happened' . random_int(1, rand() < 0.1 ? 500 : 5);

	$expected = sql_value($dbh, 'SELECT es_stream_version($1)', $stream)
	  if rand() < 0.3;
	return append_to($dbh, $stream, $expected, $type, $count);
}

sub append_to
{
	my ($dbh, $stream, $expected, $type, $count) = @_;
	my $size = rand() < 0.6 ? 1 : random_int(2, 5);
	my @ids = rand() < 0.5 ? map { random_uuid() } 1 .. $size : (undef) x $size;
	my $events =
	  $size == 1
	  ? [ append($dbh, $stream, $expected, $type, $ids[0]) ]
	  : append_batch($dbh, $stream, $expected, $type, \@ids);

	die "append returned " . @$events . " rows for $size events\n"
	  unless @$events == $size;
	$count->{appended} += $size;
	foreach my $event (@$events)
	{
		die "a new event is called a duplicate\n" if $event->{duplicate};
	}
	return
	  map { [ $_->{id}, [ $_->{position}, $stream, $_->{version} ] ] } @$events;
}

# Prepare, do other work in the same session, then decide.  The work in between
# uses a stream of its own: waiting for another prepared transaction, while
# that one's session waits for ours, is invisible to the deadlock detector.
sub two_phase
{
	my ($dbh, $name, $number, $pending, $acknowledged, $undone, $count) = @_;
	my $gid = "${name}_$number";

	if (!eval { $dbh->do("PREPARE TRANSACTION '$gid'"); 1 })
	{
		die $@ unless $dbh->state eq '40001';
		$undone->{ $_->[0] } = 1 for @$pending;
		return;
	}
	foreach (1 .. random_int(0, 3))
	{
		my @events = append_to($dbh, "$categories[0]-own-$name", -1, 'Private', $count);
		$acknowledged->{ $_->[0] } = $_->[1] for @events;
		random_pause(15);
	}
	if (rand() < 0.6)
	{
		$dbh->do("COMMIT PREPARED '$gid'");
		$count->{commit_prepared}++;
		$acknowledged->{ $_->[0] } = $_->[1] for @$pending;
	}
	else
	{
		$dbh->do("ROLLBACK PREPARED '$gid'");
		$count->{rollback_prepared}++;
		$undone->{ $_->[0] } = 1 for @$pending;
	}
	return;
}

# ---------------------------------------------------------------------------
# Readers

# Follow the log until the load has ended and a page comes back empty.  In
# REPEATABLE READ and SERIALIZABLE the snapshot is taken first and then several
# pages are read under it, while the writers go on.
sub follow
{
	my ($reader) = @_;
	my $dbh = connect_store($reader->{node});
	my $columns = 'global_position, stream_id, version, event_id';
	my %query = (
		all => "SELECT $columns FROM es_read_all(\$1, \$2)",
		category => "SELECT $columns FROM es_read_category('$categories[0]', \$1, \$2)",
		filter => "SELECT $columns FROM es_read_all(\$1, \$2, ARRAY['$categories[1]'])",
		head => "SELECT $columns FROM event_store.events "
		  . "WHERE global_position > \$1 AND global_position <= (SELECT es_head()) "
		  . "ORDER BY global_position LIMIT \$2",
		naive => "SELECT $columns FROM event_store.events "
		  . "WHERE global_position > \$1 ORDER BY global_position LIMIT \$2");
	my $page = $dbh->prepare($query{ $reader->{kind} });
	my @events;
	my $cursor = 0;
	my $pages = 0;
	my $last_round = 0;

	while (!$last_round)
	{
		$last_round = flag_is_set('drain');
		my @seen;
		my $from = $cursor;
		my $held = $reader->{level} ne 'READ COMMITTED';
		my $done = eval {
			if ($held)
			{
				$dbh->do("BEGIN ISOLATION LEVEL $reader->{level}");
				sql_value($dbh, 'SELECT count(*) FROM pg_catalog.pg_class');
				random_pause(20);
			}
			while (1)
			{
				my $size = random_int(1, rand() < 0.5 ? 20 : 1000);
				$page->execute($from, $size);
				my $rows = $page->fetchall_arrayref;
				die "a page of $size has " . @$rows . " rows\n" if @$rows > $size;
				last unless @$rows;
				push @seen, @$rows;
				$from = $rows->[-1][0];
				last if !$held && !$last_round;
				random_pause(5) if $held && !$last_round;
			}
			$dbh->do('COMMIT') if $held;
			1;
		};
		if (!$done)
		{
			# What a failed transaction has seen does not count.
			my ($error, $state) = ($@, $dbh->state);
			die $error unless $state eq '40001';
			$dbh->do('ROLLBACK');
			$last_round = 0;
			next;
		}
		push @events, @seen;
		$cursor = $from;
		$pages++;
		random_pause(4) unless $last_round;
	}
	$dbh->disconnect;
	return { events => \@events, pages => $pages };
}
