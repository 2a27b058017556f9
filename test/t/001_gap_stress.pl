# Nobody who follows the global order misses an event.
#
# Writers whose transactions commit, abort, roll back to savepoints and are
# prepared, with random holds; readers in every isolation level, on the primary
# and on a streaming standby, follow the log at the same time.  At the end each
# history must equal the committed events.  A reader that asks for "position
# greater than the last one" on the plain view runs beside them and must miss
# events, or this test proves nothing.
#
# And the same work is done once more under one lock for all, held to commit,
# where positions are in the order of commits and nothing can go wrong: followers
# of both get the same events, in the same order within each stream.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::History
  qw(check_delivery check_commits verdict faultless_delivery);
use EventStoreTest::Load qw(write_events total_of @categories);
use Test::More;
use Time::HiRes qw(time);

my $seconds = setting('ES_STRESS_SECONDS', 12);
my $writers = setting('ES_STRESS_WRITERS', 16);

seed_random();
checker_finds_faults();
stress('preloaded', 'event_store', 0);
stress('not preloaded, with maintenance', '', 1);
same_as_under_one_lock();
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
	my ($title, $preload, $maintained) = @_;
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
	start_client('maintenance', sub { maintain($primary, $deadline) }) if $maintained;

	my $written = wait_clients(
		names => \@writer_names,
		limit => $seconds + 90,
		test => "$title: no writer failed");
	my $dbh = connect_store($primary);
	check_maintenance($title, $dbh) if $maintained;
	is(sql_value($dbh, 'SELECT count(*) FROM pg_catalog.pg_prepared_xacts'),
		0, "$title: every prepared transaction is resolved");
	$primary->wait_for_catchup($standby, 'replay');
	flag_set('drain');
	my $read = wait_clients(
		names => [ keys %reader ],
		limit => 120,
		test => "$title: no reader failed");

	my $committed = store_rows($dbh);
	my ($acknowledged, $undone, $total) = total_of($written);
	note "$title: " . verdict($total);
	my $commits = check_commits($committed, $acknowledged, $undone);
	is_deeply($commits, { map { $_ => 0 } keys %$commits },
		"$title: committed events are exactly the acknowledged ones");
	foreach my $kind (
		qw(commit rollback savepoint many_savepoints commit_prepared rollback_prepared))
	{
		ok($total->{$kind}, "$title: the load contains $kind");
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
# The oracle

sub same_as_under_one_lock
{
	my $node = store_cluster('oracle');
	my $seed = random_int(1, 1_000_000_000);
	my %run = map { $_ => worked_through($node, $_, $seed) } qw(product oracle);
	my %events = map { $_ => $run{$_}{primary_rc_all} } keys %run;

	is(join(' ', sort map { $_->[3] } @{ $events{product} }), join(' ', sort map { $_->[3] } @{ $events{oracle} }),
		'oracle: followers of both get the same events');
	is_deeply(order_within_streams($events{product}), order_within_streams($events{oracle}),
		'oracle: in the same order within each stream');
	isnt(join(' ', map { $_->[3] } @{ $events{product} }), join(' ', map { $_->[3] } @{ $events{oracle} }),
		'oracle: not in the same global order, so the writers did meet');

	# a follower that is wrong would not pass for a right one
	my ($naive, $truth) = map { order_within_streams($_) } $run{product}{primary_naive}, $events{oracle};
	my @wrong = grep { join(' ', @{ $naive->{$_} || [] }) ne join(' ', @{ $truth->{$_} }) } keys %$truth;
	cmp_ok(scalar(@wrong), '>=', 1, 'oracle, control: the naive reader differs from it');
	$node->stop;
	return;
}

# Each writer's events of a stream in the order in which they came, and of a
# stream that is one writer's alone the versions, too.
sub order_within_streams
{
	my ($events) = @_;
	my %order;
	foreach my $event (@$events)
	{
		my (undef, $stream, $version, $id) = @$event;
		my ($writer) = $id =~ /^(\w+)/;
		push @{ $order{"$stream of $writer"} }, $stream =~ /^Item/ ? "$version $id" : $id;
	}
	return \%order;
}

# The work, in a database of its own; what each reader got.
sub worked_through
{
	my ($node, $db, $seed) = @_;
	my $locked = $db eq 'oracle';
	my %reader = (
		primary_rc_all => { level => 'READ COMMITTED', kind => 'all' },
		primary_rr_all => { level => 'REPEATABLE READ', kind => 'all' },
		primary_category => { level => 'READ COMMITTED', kind => 'category', category => $categories[0] },
		primary_naive => { level => 'READ COMMITTED', kind => 'naive' });

	create_store($node, $db);
	new_flags();
	my @writers = map { "worker_$_" } 1 .. 8;
	start_client("worker_$_", sub { work($node, $db, $seed, $_, $locked) }) for 1 .. 8;
	foreach my $name (sort keys %reader)
	{
		start_client($name, sub { follow({ %{ $reader{$name} }, node => $node, db => $db }) });
	}
	my $written = wait_clients(names => \@writers, limit => 300, test => "$db: no writer failed");
	flag_set('drain');
	my $read = wait_clients(names => [ keys %reader ], test => "$db: no reader failed");

	my $dbh = connect_store($node, db => $db);
	my $committed = store_rows($dbh);
	$dbh->disconnect;
	is(join(' ', sort map { @{ $_->{committed} || [] } } values %$written),
		join(' ', sort map { $_->[3] } @$committed), "$db: the committed events are there, and no others");
	foreach my $name (sort keys %reader)
	{
		if ($reader{$name}{kind} ne 'naive')
		{
			faultless_delivery("$db: $name", $committed, $read->{$name}{events}, category => $reader{$name}{category});
			next;
		}
		my $count = check_delivery($committed, $read->{$name}{events});
		note "$db: $name: " . verdict($count);
		$locked
		  ? is($count->{skipped}, 0, "$db: under one lock not even the naive reader skips any")
		  : cmp_ok($count->{skipped}, '>=', 1, "$db: control: the naive reader skips events");
	}
	return { map { $_ => $read->{$_}{events} } keys %reader };
}

# One writer's part.  What it does hangs on the seed alone, whatever the others
# do: streams are taken in one order, no version is asked for, ids are counted.
sub work
{
	my ($node, $db, $seed, $number, $locked) = @_;
	my $dbh = connect_store($node, db => $db);
	my $events = 0;
	my @committed;

	srand($seed + $number);
	foreach my $transaction (1 .. setting('ES_ORACLE_TRANSACTIONS', 40))
	{
		my $fate = rand();
		my $undo = rand() < 0.2;
		my @streams = map { rand() < 0.6 ? "$categories[0]-" . random_int(1, 6) : "Item-$number-" . random_int(1, 3) }
		  1 .. random_int(1, 3);
		my %once = map { $_ => random_int(1, 4) } @streams;
		my @pending;
		my $append = sub {
			my ($stream, $count) = @_;
			my @ids = map { sprintf '%08x-0000-4000-8000-%012x', $number, ++$events } 1 .. $count;
			append_batch($dbh, $stream, ANY, 'Worked', \@ids);
			return @ids;
		};

		$dbh->do('BEGIN');
		$dbh->do('SELECT pg_catalog.pg_advisory_xact_lock(1)') if $locked;
		foreach my $stream (sort keys %once)
		{
			push @pending, $append->($stream, $once{$stream});
			random_pause(10);
		}
		if ($undo)
		{
			$dbh->do('SAVEPOINT s');
			$append->((sort keys %once)[-1], 2);
			$dbh->do('ROLLBACK TO SAVEPOINT s');
			push @pending, $append->((sort keys %once)[-1], 1);
		}
		random_pause(20);
		if ($fate < 0.15)
		{
			$dbh->do('ROLLBACK');
			next;
		}
		if ($fate < 0.3)
		{
			my $gid = "${db}_${number}_$transaction";
			$dbh->do("PREPARE TRANSACTION '$gid'");
			random_pause(10);
			$dbh->do(($fate < 0.2 ? 'ROLLBACK' : 'COMMIT') . " PREPARED '$gid'");
			next if $fate < 0.2;
		}
		else
		{
			$dbh->do('COMMIT');
		}
		push @committed, @pending;
	}
	$dbh->disconnect;
	return { committed => \@committed };
}

# ---------------------------------------------------------------------------
# What administrators do meanwhile

# Vacuum, rewrite and reindex the store's tables under the load.  New indexes
# must get every entry while they are built, readers must find them afterwards.
sub maintain
{
	my ($node, $deadline) = @_;
	my $dbh = connect_store($node, app => 'maintenance');
	my @jobs = (
		'VACUUM event_store.event',
		'REINDEX TABLE CONCURRENTLY event_store.event',
		'ANALYZE event_store.event',
		'VACUUM (FREEZE) event_store.event, event_store.stream',
		'REINDEX TABLE CONCURRENTLY event_store.stream',
		'CREATE INDEX CONCURRENTLY extra ON event_store.event (created_at)',
		'VACUUM FULL event_store.event',
		'DROP INDEX CONCURRENTLY IF EXISTS event_store.extra',
		'REINDEX TABLE CONCURRENTLY event_store.event_type');
	my %count;
	for (my $number = 0; time() < $deadline; $number++)
	{
		my $job = $jobs[ $number % @jobs ];
		my ($kind) = $job =~ /^(\w+(?: FULL)?)/;
		# What locks the table must not hold the writers up for long; the
		# others may wait for the open transactions.
		$dbh->do('SET lock_timeout = ' . ($kind eq 'VACUUM FULL' ? 1000 : 3000));
		my $state = sqlstate($dbh, $job);
		die "$job: $state " . $dbh->errstr . "\n" unless $state =~ /^(?:00000|55P03|40P01)$/;
		$count{"$kind $state"}++;
		# an interrupted CONCURRENTLY leaves its index, which is kept up
		# until it is dropped
		my $broken = $dbh->selectcol_arrayref(
			q{SELECT c.oid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
			  WHERE NOT i.indisvalid AND c.relnamespace = 'event_store'::regnamespace});
		sqlstate($dbh, "DROP INDEX CONCURRENTLY $_") for @$broken;
		random_pause(50);
	}
	$dbh->disconnect;
	return { count => \%count };
}

sub check_maintenance
{
	my ($title, $dbh) = @_;
	my $count = wait_clients(
		names => ['maintenance'],
		test => "$title: maintenance did not fail")->{maintenance}{count};
	note "$title: " . verdict($count);
	foreach my $kind ('VACUUM', 'REINDEX')
	{
		ok($count->{"$kind 00000"}, "$title: $kind ran under the load");
	}
	$dbh->do('CREATE EXTENSION amcheck');
	cmp_ok(
		sql_value(
			$dbh, q{
			SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid,
				   LATERAL bt_index_parent_check(c.oid, true)
			WHERE c.relnamespace = 'event_store'::regnamespace AND i.indisvalid
			  AND c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree')}),
		'>=', 9, "$title: every index has an entry for every row");
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
	my $dbh = connect_store($reader->{node}, db => $reader->{db});
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
			die $error unless $state =~ /^(?:40001|40P01)$/;
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
