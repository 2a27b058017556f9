# Races: one stream and one version wanted by 32 clients, one event id retried
# by two sessions at once, ids that end with positions which others are about to
# get, cancels and terminations at random, transactions that take streams in
# opposite order, and such that take hundreds of streams.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::History qw(check_commits verdict);
use DBD::Pg ':async';
use Test::More;
use Time::HiRes qw(time);

my $rounds = setting('ES_RACE_ROUNDS', 60);
my $clients = setting('ES_RACE_CLIENTS', 32);
my $kill_seconds = setting('ES_KILL_SECONDS', 12);

seed_random();
my $node = store_cluster('races');
create_store($node);
my $dbh = connect_store($node);

one_winner_for_each_version();
same_id_twice();
same_id_free_running();
forged_ids();
cancel_and_terminate();
opposite_order();
many_streams();

$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# Every client tries to write every version of one stream.  A fifth of the
# winners roll back, so that the version must be won again.
sub one_winner_for_each_version
{
	my ($wins, $result) = race(
		sub {
			my ($conn, $version) = @_;
			append($conn, 'Race-1', $version - 1, 'Won', random_uuid());
		});
	is_deeply($wins, { map { $_ => 1 } 1 .. $rounds },
		"$clients clients: exactly one wins each of $rounds versions");
	my (%state, $bad_detail, $rolled_back);
	foreach my $client (values %$result)
	{
		$state{$_} += $client->{state}{$_} for keys %{ $client->{state} };
		$bad_detail += $client->{bad_detail} || 0;
		$rolled_back += $client->{rolled_back} || 0;
	}
	is_deeply([ keys %state ], ['VE001'], 'losers get VE001 and nothing else');
	is($state{VE001}, ($clients - 1) * $rounds, 'every loser was told');
	is($bad_detail, 0, 'the error names stream, expected and actual version');
	ok($rolled_back > 0, 'some winners rolled back');
	is(sql_value($dbh, q{SELECT es_stream_version('Race-1')}),
		$rounds, 'the stream has one event per round');

	# Control: the same race on a plain table with the usual client code.
	run_sql($dbh,
		'CREATE TABLE plain_race (version bigint)',
		'CREATE INDEX ON plain_race (version)',
		q{CREATE FUNCTION plain_append(expected bigint) RETURNS void
		  LANGUAGE plpgsql AS $$
		  BEGIN
			IF (SELECT coalesce(max(version), 0) FROM plain_race) <> expected THEN
				RAISE EXCEPTION 'conflict' USING ERRCODE = 'VE001',
					DETAIL = 'stream=Race-1 expected=' || expected || ' actual=' || expected + 1;
			END IF;
			-- as long as a client takes from its SELECT to its INSERT
			PERFORM pg_sleep(0.001);
			INSERT INTO plain_race VALUES (expected + 1);
		  END $$});
	my ($plain_wins) = race(
		sub {
			my ($conn, $version) = @_;
			$conn->do('SELECT plain_append($1)', undef, $version - 1);
		});
	my $double = grep { $_ > 1 } values %$plain_wins;
	cmp_ok($double, '>=', 1, 'control: a plain table lets several clients win');
	return;
}

sub race
{
	my ($try) = @_;
	new_flags();
	foreach my $number (1 .. $clients)
	{
		start_client("racer_$number",
			sub { race_client($try) });
	}
	poll_until(sub { client_count($dbh) >= $clients });
	flag_set('go');
	my $result = wait_clients(limit => 180, test => 'no racer failed');
	my %wins;
	foreach my $client (values %$result)
	{
		$wins{$_}++ for @{ $client->{won} || [] };
	}
	return (\%wins, $result);
}

sub race_client
{
	my ($try) = @_;
	my $conn = connect_store($node);
	my %result = (won => [], state => {});
	poll_until(sub { flag_is_set('go') });
	foreach my $version (1 .. $rounds)
	{
		while (1)
		{
			$conn->do('BEGIN');
			if (eval { $try->($conn, $version); 1 })
			{
				if (rand() < 0.2)
				{
					$conn->do('ROLLBACK');
					$result{rolled_back}++;
					next;
				}
				$conn->do('COMMIT');
				push @{ $result{won} }, $version;
			}
			else
			{
				my $detail = $conn->pg_error_field('message_detail') || '';
				$result{state}{ $conn->state }++;
				my $expected = $version - 1;
				$result{bad_detail}++
				  unless $detail =~
				  /^stream=Race-1 expected=$expected actual=(\d+)$/
				  && $1 > $expected;
				$conn->do('ROLLBACK');
			}
			last;
		}
	}
	$conn->disconnect;
	return \%result;
}

# ---------------------------------------------------------------------------

# Two sessions, controlled: the second comes while the first is still open.
sub same_id_twice
{
	my $first = connect_store($node);
	my $second = connect_store($node);
	my $pid = sql_value($second, 'SELECT pg_catalog.pg_backend_pid()');
	my $number = 0;

	# an id that the store has made, sent back before it is committed, too
	foreach my $where ('same stream', 'different streams', 'same stream, id made by the store',
		'different streams, id made by the store')
	{
		foreach my $end (qw(COMMIT ROLLBACK))
		{
			my $case = "same id twice, $where, first one: $end";
			my $id = $where =~ /made/ ? undef : random_uuid();
			my $stream = 'Twice-' . ++$number;
			my $stream2 = $where =~ /^same/ ? $stream : "$stream-other";

			$first->do('BEGIN');
			my $one = append($first, $stream, ANY, 'T', $id);
			$id = $one->{id};
			my $sth = $second->prepare(
				'SELECT version, global_position, is_duplicate '
				  . "FROM es_append('$stream2', es_any(), 'T', '{\"n\": 1}', event_id => '$id')",
				{ pg_async => PG_ASYNC });
			$sth->execute;
			ok( poll_until(
					sub {
						sql_value($dbh,
							'SELECT wait_event_type FROM pg_catalog.pg_stat_activity '
							  . 'WHERE pid = $1', $pid) eq 'Lock';
					},
					20),
				"$case: the second waits");
			$first->do($end);
			my $answer = eval { $second->pg_result; $sth->fetchrow_hashref };
			my $state = $@ ? $second->state : '00000';
			if ($end eq 'ROLLBACK')
			{
				is("$state " . ($answer->{version} || '-') . ' '
					  . ($answer->{is_duplicate} ? 'dup' : 'new'),
					'00000 1 new', "$case: the second appends");
			}
			elsif ($where =~ /^same/)
			{
				is("$state " . ($answer->{global_position} || '-') . ' '
					  . ($answer->{is_duplicate} ? 'dup' : 'new'),
					"00000 $one->{position} dup",
					"$case: the second gets the first answer");
			}
			else
			{
				is($state, 'VE002', "$case: the second is refused");
			}
			$sth->finish;
			is(sql_value($dbh,
					'SELECT count(*) FROM event_store.events WHERE event_id = $1',
					$id),
				1, "$case: stored once");
		}
	}
	$_->disconnect for $first, $second;
	return;
}

# Sessions that send the same ids in the same order as fast as they can.
sub same_id_free_running
{
	my @ids = map { random_uuid() } 1 .. 400;
	foreach my $where ('same stream', 'different streams')
	{
		@ids = map { random_uuid() } 1 .. 400;
		new_flags();
		foreach my $number (1 .. 4)
		{
			start_client("retry_$number", sub {
				my $conn = connect_store($node);
				my @answer;
				poll_until(sub { flag_is_set('go') });
				for my $i (0 .. $#ids)
				{
					my $stream = 'Retry-' . int($i / 10);
					$stream .= "-$number" if $where ne 'same stream';
					my $event =
					  eval { append($conn, $stream, ANY, 'T', $ids[$i]) };
					push @answer, $event
					  ? ($event->{duplicate} ? 'dup' : 'new')
					  . " $event->{position}"
					  : $conn->state;
				}
				$conn->disconnect;
				return { answer => \@answer };
			});
		}
		poll_until(sub { client_count($dbh) >= 4 });
		flag_set('go');
		my $result = wait_clients(test => "same ids, $where: no client failed");
		my $bad = 0;
		foreach my $i (0 .. $#ids)
		{
			my @answer = sort map { $_->{answer}[$i] } values %$result;
			my @new = grep { /^new/ } @answer;
			my ($position) = @new ? $new[0] =~ /(\d+)/ : ('none');
			my $other = $where eq 'same stream' ? "dup $position" : 'VE002';
			my $good = @new == 1 && 3 == grep { $_ eq $other } @answer;
			if (!$good)
			{
				diag "id $i: @answer" if $bad++ < 5;
			}
		}
		is($bad, 0, "same ids, $where: one append, the others as promised");
		is(sql_value($dbh,
				'SELECT count(*) FROM event_store.events WHERE event_id = ANY ($1::uuid[])',
				\@ids),
			scalar @ids, "same ids, $where: each stored once");
	}
	return;
}

# ---------------------------------------------------------------------------

# An id that the store makes ends with its event's position and has no entry in
# the index by id; one that a client gives may end with any position.  Here all
# clients give ids that end with a position which somebody is just about to get:
# they may get it themselves, or another client may, with the same id or with one
# of the store's making.  No id is there twice, whichever of them is first.
sub forged_ids
{
	create_store($node, 'forged');
	use_fault_build($node, 'forged');
	my $conn = connect_store($node, db => 'forged');
	my ($result, $doubles) = forge($conn);
	my %count;
	my %acknowledged;
	foreach my $client (values %$result)
	{
		push @{ $acknowledged{ $_->[0] } }, $_->[1] for @{ $client->{acknowledged} };
		$count{$_} += $client->{count}{$_} for keys %{ $client->{count} };
	}
	note 'forged ids: ' . verdict(\%count);
	is($doubles, 0, 'forged ids: no id is there twice');
	is(join(' ', grep { !/^(?:forged|made|undone|VE002|40P01)$/ } sort keys %count),
		'', 'forged ids: only VE002 and 40P01');
	my $stored = $conn->selectall_hashref('SELECT event_id, global_position FROM event_store.event', 'event_id');
	is(scalar(grep { @{ $acknowledged{$_} } != 1 || $acknowledged{$_}[0] != ($stored->{$_}{global_position} // 0) } keys %acknowledged),
		0, 'forged ids: each was acknowledged to one client, at the position where it is');
	is(scalar(keys %$stored), scalar(keys %acknowledged), 'forged ids: and nothing else is there');
	is( sql_value(
			$conn, q{SELECT count(*) FROM event_store.event e
				WHERE (es_read_event(e.event_id)).global_position IS DISTINCT FROM e.global_position}),
		0, 'forged ids: each is found by its id');

	# there was what this is about
	my %kind = map { @$_ } @{ $conn->selectall_arrayref(
		q{SELECT CASE WHEN e.event_id::text !~ '^f0f0' THEN 'made'
				 WHEN event_store.es_id_has_position(e.event_id, e.global_position) THEN 'own position'
				 WHEN EXISTS (SELECT FROM event_store.event o WHERE event_store.es_id_has_position(e.event_id, o.global_position))
				 THEN 'position of another' ELSE 'other' END, count(*)
		  FROM event_store.event e GROUP BY 1}) };
	note 'forged ids: ' . verdict(\%kind);
	cmp_ok($kind{$_} || 0, '>=', 3, "forged ids: with $_") for 'own position', 'position of another', 'made';
	cmp_ok($count{VE002} || 0, '>=', 10, 'forged ids: many were too late');

	# Control: whoever makes an entry does not look at the position.
	poll_until(
		sub {
			($result, $doubles) = forge($conn, 'SET event_store.fault_no_id_look = on');
			return $doubles;
		},
		60);
	cmp_ok($doubles, '>=', 1, 'control: an id is there twice where only the index is looked at');
	$conn->disconnect;
	return;
}

# Some seconds of that; how many ids are there twice.
sub forge
{
	my ($conn, @settings) = @_;
	my $deadline = time() + setting('ES_FORGE_SECONDS', 4);

	new_flags();
	foreach my $number (1 .. 8)
	{
		start_client("forger_$number", sub { forger($number, $deadline, @settings) });
	}
	my $result = wait_clients(test => 'forged ids: no client failed');
	return ($result,
		sql_value($conn, 'SELECT count(*) FROM (SELECT FROM event_store.event GROUP BY event_id HAVING count(*) > 1) d'));
}

sub forger
{
	my ($number, $deadline, @settings) = @_;
	my $conn = connect_store($node, db => 'forged');
	my (%count, @acknowledged);

	run_sql($conn, q{SET event_store.fault = 'append_drawn:pause=2@20,append_before_indexes:pause=4@30'}, @settings);
	while (time() < $deadline)
	{
		my $last = sql_value($conn, 'SELECT last_value FROM event_store.event_global_position_seq');
		my @ids = map { sprintf 'f0f0f0f0-0000-4000-8000-00%010x', $last + random_int(0, 9) }
		  1 .. (rand() < 0.2 ? 2 : 1);
		# the same twice is refused before anything is written
		pop @ids if @ids == 2 && $ids[0] eq $ids[1];
		my $made = rand() < 0.2;
		my $undo = rand() < 0.15;
		my $events = eval {
			$conn->do('BEGIN');
			my $appended = append_batch($conn, "Forge-$number", ANY, 'Forged', $made ? [undef] : \@ids, qq({"client": $number}));
			random_pause(4) if rand() < 0.3;
			$conn->do($undo ? 'ROLLBACK' : 'COMMIT');
			$appended;
		};
		if (!$events)
		{
			$count{ $conn->state }++;
			$conn->do('ROLLBACK');
			next;
		}
		$count{ $undo ? 'undone' : $made ? 'made' : 'forged' }++;
		# what this client has written before is answered as a duplicate
		push @acknowledged, map { [ $_->{id}, $_->{position} ] } grep { !$_->{duplicate} } @$events
		  unless $undo;
	}
	$conn->disconnect;
	return { count => \%count, acknowledged => \@acknowledged };
}

# ---------------------------------------------------------------------------

# Writers under fire.  A statement that is cancelled has done nothing; after a
# lost connection the batch is there once or not at all, and the retry with the
# same ids finds out which.
sub cancel_and_terminate
{
	my $deadline = time() + $kill_seconds;
	new_flags();
	my @names = map { "target_$_" } 1 .. 12;
	foreach my $name (@names)
	{
		start_client($name, sub { shot_at($name, $deadline) });
	}
	my $shots = 0;
	while (time() < $deadline)
	{
		my $weapon = rand() < 0.7 ? 'pg_cancel_backend' : 'pg_terminate_backend';
		$shots += $dbh->do(
			qq{SELECT pg_catalog.$weapon(a.pid)
			   FROM (SELECT pid FROM pg_catalog.pg_stat_activity
					 WHERE application_name LIKE 'target%' AND state = 'active'
					 ORDER BY random() LIMIT 1) a});
		random_pause(15);
	}
	my $result = wait_clients(test => 'no target of cancels failed');

	my (%acknowledged, %count, @batches);
	foreach my $client (values %$result)
	{
		@acknowledged{ keys %{ $client->{acknowledged} } } =
		  values %{ $client->{acknowledged} };
		$count{$_} += $client->{count}{$_} for keys %{ $client->{count} };
		push @batches, @{ $client->{batches} || [] };
	}
	note "$shots cancels and terminations; " . verdict(\%count);
	cmp_ok($count{cancelled} || 0, '>=', 10, 'appends were cancelled');
	cmp_ok($count{lost} || 0, '>=', 5, 'connections were lost');
	is($count{kept_after_cancel} || 0, 0, 'a cancelled append has done nothing');

	ok(poll_until(sub { client_count($dbh) == 0 }, 20), 'all sessions are gone');
	is(lock_leftovers($dbh), '', 'no lock is left');

	my $committed = [ grep { $_->[1] =~ /^Shot-/ } @{ store_rows($dbh) } ];
	my $commits = check_commits($committed, \%acknowledged, {});
	is_deeply($commits, { map { $_ => 0 } keys %$commits },
		'every acknowledged append is there once, nothing else');
	my %stored = map { $_->[3] => 1 } @$committed;
	my $half = grep {
		my $there = grep { $stored{$_} } @$_;
		$there != 0 && $there != @$_
	} @batches;
	is($half, 0, 'no half batch');

	$dbh->do('SET lock_timeout = 2000');
	my $next = 0;
	foreach my $number (1 .. 10)
	{
		$next += append($dbh, "Shot-$number", es_version("Shot-$number"), 'T', undef)
		  ->{duplicate} ? 0 : 1;
	}
	is($next, 10, 'the next append on every stream works at once');
	$dbh->do('RESET lock_timeout');
	return;
}

sub es_version
{
	my ($stream) = @_;
	return sql_value($dbh, 'SELECT es_stream_version($1)', $stream);
}

sub shot_at
{
	my ($name, $deadline) = @_;
	my (%acknowledged, %count, @batches);
	my $conn;
	while (time() < $deadline)
	{
		my $stream = 'Shot-' . random_int(1, 10);
		my $ids = [ map { random_uuid() } 1 .. random_int(1, 20) ];
		my $cancelled = 0;
		my $events;
		push @batches, $ids;
		until ($events)
		{
			$conn ||= reconnect($name);
			$events = eval { append_batch($conn, $stream, ANY, 'T', $ids) };
			next if $events;
			my ($error, $state) = ($@, $conn->state);
			if ($state eq '57014')
			{
				$count{cancelled}++;
				$cancelled = 1;
			}
			elsif (connection_lost($conn))
			{
				$count{lost}++;
				$cancelled = 0;
				undef $conn;
			}
			elsif ($error !~ /canceling|terminating/)
			{
				die "$state $error";
			}
		}
		$count{kept_after_cancel}++ if $cancelled && $events->[0]{duplicate};
		$count{batches}++;
		$acknowledged{ $_->{id} } = [ $_->{position}, $stream, $_->{version} ]
		  for @$events;
	}
	$conn->disconnect if $conn;
	return {
		acknowledged => \%acknowledged,
		count => \%count,
		batches => \@batches
	};
}

# A shot may hit the first statements of a session, too.
sub reconnect
{
	my ($name) = @_;
	my $conn;
	poll_until(
		sub {
			$conn = eval { connect_store($node, app => $name, fail_ok => 1) };
		}) or die "cannot connect again\n";
	return $conn;
}

# ---------------------------------------------------------------------------

# Transactions over two streams, half of them in the other order.
sub opposite_order
{
	new_flags();
	foreach my $number (1 .. 8)
	{
		start_client("cross_$number", sub { cross($number) });
	}
	my $result = wait_clients(limit => 60, test => 'opposite order: nobody hangs');
	my (%state, %acknowledged, $longest);
	foreach my $client (values %$result)
	{
		$state{$_} += $client->{state}{$_} for keys %{ $client->{state} };
		@acknowledged{ keys %{ $client->{acknowledged} } } =
		  values %{ $client->{acknowledged} };
		$longest = $client->{longest}
		  if !defined $longest || $client->{longest} > $longest;
	}
	note 'opposite order: ' . verdict(\%state) . sprintf ', longest %.1f s', $longest;
	ok($state{'00000'} > 0, 'opposite order: transactions commit');
	ok($state{'40P01'}, 'opposite order: there were deadlocks to find');
	is(join(' ', grep { !/^(?:00000|40P01|40001)$/ } sort keys %state),
		'', 'opposite order: only 40P01 and 40001');
	cmp_ok($longest, '<', 15, 'opposite order: no transaction took long');
	my $committed = [ grep { $_->[1] =~ /^Cross-/ } @{ store_rows($dbh) } ];
	my $commits = check_commits($committed, \%acknowledged, {});
	is_deeply($commits, { map { $_ => 0 } keys %$commits },
		'opposite order: committed events are exactly the acknowledged ones');
	return;
}

sub cross
{
	my ($number) = @_;
	my $conn = connect_store($node);
	my $deadline = time() + setting('ES_DEADLOCK_SECONDS', 6);
	my (%state, %acknowledged);
	my $longest = 0;
	while (time() < $deadline)
	{
		my @streams = ('Cross-1', 'Cross-2');
		@streams = reverse @streams if $number % 2;
		my $level = rand() < 0.25 ? 'REPEATABLE READ' : 'READ COMMITTED';
		my @events;
		my $start = time();
		my $done = eval {
			$conn->do("BEGIN ISOLATION LEVEL $level");
			foreach my $stream (@streams)
			{
				my $event = append($conn, $stream, ANY, 'T', random_uuid());
				push @events,
				  [ $event->{id}, [ $event->{position}, $stream, $event->{version} ] ];
				random_pause(4);
			}
			$conn->do('COMMIT');
			1;
		};
		my $state = $done ? '00000' : $conn->state;
		my $took = time() - $start;
		$longest = $took if $took > $longest;
		$state{$state}++;
		if ($done)
		{
			$acknowledged{ $_->[0] } = $_->[1] for @events;
		}
		else
		{
			$conn->do('ROLLBACK');
		}
	}
	$conn->disconnect;
	return {
		state => \%state,
		acknowledged => \%acknowledged,
		longest => $longest
	};
}

# ---------------------------------------------------------------------------

# Transactions over more streams than the lock table could hold for everybody,
# against single appends that name the version they expect.
sub many_streams
{
	my $deadline = time() + setting('ES_MANY_SECONDS', 6);
	new_flags();
	foreach my $number (1 .. 3)
	{
		start_client("wide_$number", sub { append_wide($deadline) });
	}
	foreach my $number (1 .. 5)
	{
		start_client("narrow_$number", sub { append_narrow($deadline) });
	}
	my $result = wait_clients(limit => 60, test => 'many streams: no client failed');
	my (%acknowledged, %state);
	foreach my $client (values %$result)
	{
		@acknowledged{ keys %{ $client->{acknowledged} } } =
		  values %{ $client->{acknowledged} };
		$state{$_} += $client->{state}{$_} for keys %{ $client->{state} };
	}
	note 'many streams: ' . verdict(\%state);
	cmp_ok($state{wide} || 0, '>=', 3, 'many streams: wide transactions commit');
	cmp_ok($state{narrow} || 0, '>=', 50, 'many streams: narrow ones too');
	is(join(' ', grep { !/^(?:wide|narrow|VE001|40P01)$/ } sort keys %state),
		'', 'many streams: only VE001 and 40P01');
	my $committed = [ grep { $_->[1] =~ /^Many-/ } @{ store_rows($dbh) } ];
	my $commits = check_commits($committed, \%acknowledged, {});
	is_deeply($commits, { map { $_ => 0 } keys %$commits },
		'many streams: committed events are exactly the acknowledged ones');
	return;
}

sub append_wide
{
	my ($deadline) = @_;
	my $conn = connect_store($node);
	my (%state, %acknowledged);
	while (time() < $deadline)
	{
		my $first = random_int(1, 400);
		my $rows = eval {
			$conn->do('BEGIN');
			my $appended = $conn->selectall_arrayref(
				q{SELECT e.event_id, e.global_position, s.stream, e.version
				  FROM (SELECT 'Many-' || i AS stream
						FROM generate_series($1::int, $1::int + 599) i) s,
					   LATERAL es_append(s.stream, es_any(), 'Wide', '1') e},
				undef, $first);
			$conn->do(rand() < 0.8 ? 'COMMIT' : 'SELECT 1/0');
			$appended;
		};
		if ($rows)
		{
			die 'not all streams were appended to' if @$rows != 600;
			$acknowledged{ $_->[0] } = [ @$_[ 1 .. 3 ] ] for @$rows;
			$state{wide}++;
		}
		else
		{
			# one in five is rolled back on purpose
			$state{ $conn->state }++ unless $conn->state eq '22012';
			$conn->do('ROLLBACK');
		}
	}
	$conn->disconnect;
	return { state => \%state, acknowledged => \%acknowledged };
}

sub append_narrow
{
	my ($deadline) = @_;
	my $conn = connect_store($node);
	my (%state, %acknowledged);
	while (time() < $deadline)
	{
		my $stream = 'Many-' . random_int(1, 999);
		my $version = sql_value($conn, 'SELECT es_stream_version($1)', $stream);
		my $event = eval { append($conn, $stream, $version, 'Narrow', undef) };
		if ($event)
		{
			$acknowledged{ $event->{id} } = [ $event->{position}, $stream, $event->{version} ];
			$state{narrow}++;
		}
		else
		{
			$state{ $conn->state }++;
		}
	}
	$conn->disconnect;
	return { state => \%state, acknowledged => \%acknowledged };
}
