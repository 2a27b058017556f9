# Durable subscriptions: every event reaches a consumer, in the order of its
# stream, whatever is killed; acknowledgements survive; acknowledged in the
# consumer's own transaction every event is handled exactly once.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Consumers qw(crowd reconnect handled judge write_load lost meanwhile);
use Test::More;
use Time::HiRes qw(time);

my $seconds = setting('ES_STRESS_SECONDS', 12);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $fetch = 'SELECT global_position, stream_id, version FROM es_fetch($1, $2, $3::interval)';

seed_random();
my $node = store_cluster('subscription', preload => 'event_store');
create_store($node);
my $dbh = connect_store($node);
leases();
same_process_number();
moving();
held_up();
changed();
ahead_of_head();
survives();
stress();
$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub fetch
{
	my ($conn, $name, $max, $wait) = @_;
	return $conn->selectall_arrayref($fetch, undef, $name, $max || 100, $wait || '0');
}

sub positions
{
	return join(' ', map { $_->[0] } @{ fetch(@_) });
}

sub checkpoint
{
	my ($name) = @_;
	return sql_value($dbh,
		'SELECT checkpoint FROM event_store.subscriptions WHERE name = ?', $name);
}

# Is somebody shown as having events of it in hand?
sub holder
{
	my ($name) = @_;
	return sql_value($dbh, q{SELECT (in_flight AND holder IS NOT NULL AND lease_until IS NOT NULL)::int
		FROM event_store.subscriptions WHERE name = ?}, $name);
}

# Events 1, 2, 3 ... of one stream; returns the last position.
sub add
{
	my ($stream, $count) = @_;
	my $last;
	$last = append($dbh, $stream, ANY, 'Happened')->{position} for 1 .. $count;
	return $last;
}

# What one consumer has in hand another one does not get.
sub leases
{
	my $other = connect_store($node);
	my $third = connect_store($node);
	add('Lease-1', 10);
	run_sql($dbh, q{SELECT es_create_subscription('lease')},
		q{SELECT es_create_subscription('short', lease => '1500 ms')},
		q{SELECT es_create_subscription('named')});

	is(positions($dbh, 'lease', 3), '1 2 3', 'the first consumer gets events');
	is(positions($other, 'lease', 3), '', 'the second gets none of them');
	is(positions($dbh, 'lease', 4), '1 2 3 4', 'the first gets them again');
	is(sqlstate($other, q{SELECT es_ack('lease', 5)}), '55006',
		'the second cannot acknowledge what was not handed out meanwhile');
	is(sqlstate($dbh, q{SELECT es_ack('lease', 2)}), '00000', 'the first can, in part');
	is(positions($other, 'lease', 3), '', 'then the rest is still the first one\'s');
	is(sqlstate($dbh, q{SELECT es_ack('lease', 4)}), '00000', 'the first can');
	is(positions($other, 'lease', 3), '5 6 7', 'then the second gets the next');
	is(sqlstate($dbh, q{SELECT es_ack('lease', 3)}), '00000', 'acknowledging again is no harm');
	is(sqlstate($third, q{SELECT es_ack('lease', 6)}), '00000',
		'from a pool: another session acknowledges');
	is(positions($other, 'lease', 3), '7 8 9', '... and it counts');

	# the second waits for the first
	start_client('waiting', sub {
		my $conn = connect_store($node);
		flag_set('waiting');
		my $got = positions($conn, 'lease', 3, '60 s');
		return { got => $got };
	});
	poll_until(sub {
		sql_value($dbh, q{SELECT count(*) FROM pg_catalog.pg_stat_activity
			WHERE query LIKE '%es_fetch%' AND state = 'active' AND pid <> pg_backend_pid()});
	});
	is(sqlstate($third, q{SELECT es_ack('lease', 9)}), '00000', 'acknowledged from the pool again');
	# 55006 if the one that waits has its events by now
	like(sqlstate($other, q{SELECT es_ack('lease', 9)}), qr/^5500[06]$/,
		'then the session that got the events cannot');
	is(wait_clients(names => ['waiting'])->{waiting}{got}, '10',
		'a consumer that waits gets its turn');
	poll_until(sub { client_count($dbh) == 2 });
	is(positions($third, 'lease', 2), '10', 'a consumer that is gone has nothing in hand');
	add('Lease-1', 2);

	# in a transaction
	$third->do(q{SELECT es_ack('lease', 10)});
	$other->begin_work;
	is(positions($other, 'lease'), '11 12', 'fetched in a transaction');
	is(positions($third, 'lease'), '', 'meanwhile another one gets nothing and does not wait');
	$other->rollback;
	is(positions($third, 'lease'), '11 12', 'rolled back, it is as if nothing had been fetched');
	$third->do(q{SELECT es_ack('lease', 12)});

	# the lease ends by time
	is(positions($dbh, 'short', 2), '1 2', 'a short lease');
	is(positions($other, 'short', 2, '30 s'), '1 2', 'ends, and another consumer gets the events');
	is(sqlstate($dbh, q{SELECT es_ack('short', 2)}), '55006',
		'the first one cannot acknowledge any more');
	$other->do(q{SELECT es_ack('short', 2)});
	is(sqlstate($dbh, q{SELECT es_ack('short', 2)}), '55000',
		'nor when the other one has done it');
	is(positions($dbh, 'short', 2), '3 4', 'it goes on with the next events');
	is(holder('short'), 1, 'the view shows who has them');
	ok(poll_until(sub { holder('short') == 0 }), '... until the lease ends');
	is(sqlstate($third, q{SELECT es_ack('short', 5)}), '22023',
		'nobody can acknowledge what was not handed out');
	is(sqlstate($third, q{SELECT es_ack('short', 4)}), '00000', 'what was, another session can');
	is(positions($other, 'short', 2), '5 6', 'nothing is left out');

	# a consumer with a name is one consumer in any session
	my $named = q{SELECT count(*) FROM es_fetch('named', 2, member => 'a')};
	is(sql_value($dbh, $named), 2, 'a consumer with a name fetches');
	is(sql_value($other, $named), 2, '... in another session');
	is(positions($third, 'named', 2), '', 'it is not this one');
	is(sqlstate($third, q{SELECT es_ack('named', 2, 'a')}), '00000',
		'it acknowledges in a third session');

	# who is gone is not shown as one who has events in hand
	my $short_lived = connect_store($node);
	is(positions($short_lived, 'named', 2), '3 4', 'fetched');
	is(holder('named'), 1, 'the view shows the session');
	$short_lived->disconnect;
	ok(poll_until(sub { holder('named') == 0 }), 'gone, it is not shown any more');

	# DISCARD ALL is what a pooler does when a client leaves
	is(positions($third, 'named', 2), '3 4', 'fetched');
	is(positions($other, 'named', 2), '', 'leased');
	$third->do('DISCARD ALL');
	is(positions($other, 'named', 2), '3 4', 'DISCARD ALL gives up the lease');
	$other->disconnect;
	$third->disconnect;
	return;
}

# The number of a process is for people to look at.  Whose events are is not told
# by it: another session may have the same one later.
sub same_process_number
{
	my ($first, $second) = map { connect_store($node) } 1 .. 2;
	add('Number-1', 6);
	$dbh->do(q{SELECT es_create_subscription('number', '{Number}')});
	my $mine = positions($first, 'number', 3);
	my $row = q{event_store.subscription_checkpoint WHERE subscription = 'number'};
	my $take_number = sub {
		$dbh->do(q{UPDATE event_store.subscription_checkpoint SET pid = ? WHERE subscription = 'number'}, undef, $second->{pg_pid});
		is(sql_value($second, "SELECT pid = pg_backend_pid() FROM $row"), 1, 'number: the row has that of the second');
	};

	$take_number->();
	is(positions($second, 'number', 3), '', 'number: which gets nothing of what the first has in hand');
	is(sqlstate($first, 'SELECT es_ack(?, ?)', 'number', (split / /, $mine)[0]), '00000', 'number: the first goes on');
	$take_number->();
	is(positions($first, 'number', 2), join(' ', (split / /, $mine)[ 1, 2 ]), 'number: with what is its own');
	$take_number->();
	my $gone = $first->{pg_pid};
	$first->disconnect;
	poll_until(sub { !sql_value($dbh, 'SELECT count(*) FROM pg_stat_activity WHERE pid = ?', $gone) });
	is(holder('number'), 0, 'number: when it is gone nobody has them in hand, though the number is in use');
	is(positions($second, 'number', 2), join(' ', (split / /, $mine)[ 1, 2 ]), 'number: and they are delivered again');
	$dbh->do(q{SELECT es_drop_subscription('number')});
	$second->disconnect;
	return;
}

# The checkpoint moves over what the filter does not want.
sub moving
{
	my $other = connect_store($node);
	$dbh->do(q{SELECT es_create_subscription('wanted', ARRAY['Wanted'])});
	add('Unwanted-1', 1);
	my $unwanted = q{SELECT count(*) FROM generate_series(1, 300) g,
		es_append_batch('Unwanted-1', es_any(), array_fill('T'::text, ARRAY[10]),
			array_fill(to_jsonb(g), ARRAY[10]))};
	my $before = checkpoint('wanted');
	$dbh->do($unwanted);
	is(positions($dbh, 'wanted'), '', 'nothing is wanted');
	cmp_ok(checkpoint('wanted'), '>=', $before + 3000, 'the checkpoint has moved over it');

	$other->begin_work;
	my $open = append($other, 'Wanted-1', ANY, 'Happened')->{position};
	$dbh->do($unwanted);
	my $later = append($dbh, 'Wanted-2', ANY, 'Happened')->{position};
	is(positions($dbh, 'wanted'), '', 'behind an unsettled event nothing is delivered');
	cmp_ok(checkpoint('wanted'), '<', $open, 'and the checkpoint stays before it');
	is(sqlstate($dbh, "SELECT es_ack('wanted', $later)"), 'VE004',
		'it cannot be made to pass');
	$other->commit;
	is(positions($dbh, 'wanted'), "$open $later", 'settled, both come');
	$dbh->do("SELECT es_ack('wanted', $later)");
	is(checkpoint('wanted'), $later, 'acknowledged');
	$other->disconnect;
	return;
}

# 10 commits while 9 is open, and 9 aborts: whoever waits hears of it.
sub held_up
{
	my $other = connect_store($node);
	$dbh->do(q{SELECT es_create_subscription('trap', after_position => es_head())});
	$other->begin_work;
	append($other, 'Trap-1', ANY, 'Happened');
	my $later = append($dbh, 'Trap-2', ANY, 'Happened')->{position};
	start_client('trapped', sub {
		my $conn = connect_store($node);
		my $got = positions($conn, 'trap', 10, '60 s');
		return { got => $got, at => time() };
	});
	poll_until(sub {
		sql_value($dbh, q{SELECT count(*) FROM pg_catalog.pg_stat_activity
			WHERE query LIKE '%es_fetch%' AND wait_event_type = 'Extension'});
	});
	my $start = time();
	$other->rollback;
	my $result = wait_clients(names => ['trapped'])->{trapped};
	is($result->{got}, $later, 'the event behind an aborted one is delivered');
	cmp_ok($result->{at} - $start, '<', 4, '... soon');

	# an error has to end it
	$dbh->do(q{SELECT es_create_subscription('survives', ARRAY['None'])});
	$dbh->do(q{SET statement_timeout = '100 ms'});
	is(sqlstate($dbh, q{SELECT es_fetch('survives', 1, '1 h')}), '57014',
		'statement_timeout ends a waiting fetch');
	$dbh->do('RESET statement_timeout');
	$dbh->do(q{SELECT es_drop_subscription('survives')});
	$other->disconnect;
	return;
}

# What no new event tells of is seen by a consumer that waits, too.
sub changed
{
	my $other = connect_store($node);
	append($dbh, 'Change-1', ANY, 'Odd');
	my $base = append($dbh, 'Change-1', ANY, 'Even')->{position};
	my ($first, $second, $third) =
	  map { append($dbh, 'Change-1', ANY, 'Odd')->{position} } 1 .. 3;
	my $wait = q{es_fetch('change', 100, '1 h')};
	my $create = q{SELECT es_create_subscription('change', ARRAY['Change'], ARRAY['%s'],
		%d, max_retries => 0)};
	$dbh->do(sprintf($create, 'Even', $base));
	is(meanwhile($node, $wait, sub {
			$other->begin_work;
			$other->do(q{SELECT es_drop_subscription('change')});
			$other->do(sprintf($create, 'Odd', $base));
			$other->commit;
		}), "$first $second $third", 'another subscription of that name is walked from its start');

	$dbh->do("SELECT es_ack('change', $third)");
	is(meanwhile($node, $wait, sub { $dbh->do("SELECT es_reset_subscription('change', $first)") }),
		"$second $third", 'a reset is noticed');

	positions($dbh, 'change');
	run_sql($dbh, "SELECT es_nack('change', $second, 'bad')", "SELECT es_ack('change', $third)");
	is(meanwhile($node, $wait, sub { $dbh->do(q{SELECT es_retry_parked('change')}) }),
		$second, 'es_retry_parked is noticed');

	positions($dbh, 'change');
	run_sql($dbh, "SELECT es_nack('change', $second, 'bad')", "SELECT es_ack('change', $second)");
	is(meanwhile($node, $wait, sub { $dbh->do("SELECT es_discard_parked('change', $second)") }),
		$third, 'es_discard_parked is noticed');

	$dbh->do("SELECT es_ack('change', $third)");
	is(positions($dbh, 'change'), '', 'the stream is held up no longer');
	$other->begin_work;
	append($other, 'Change-2', ANY, 'Even');
	my $behind;
	is(meanwhile($node, $wait, sub { $behind = append($dbh, 'Change-1', ANY, 'Odd')->{position} }),
		$behind, 'an event behind an unsettled one that is not wanted is delivered');
	$other->rollback;
	$dbh->do(q{SELECT es_drop_subscription('change')});
	$other->disconnect;
	return;
}

sub ahead_of_head
{
	my $far = 'after_position => es_head() + 3';
	is(sqlstate($dbh, "SELECT es_create_subscription('ahead', $far)"), 'VE004',
		'a subscription is not made ahead of the store');
	$dbh->do(q{SELECT es_create_subscription('ahead')});
	is(sqlstate($dbh, "SELECT es_reset_subscription('ahead', $far)"), 'VE004', 'nor reset there');
	# what is only inserted does not count, nor what an abort has left; another
	# session's position does in a transaction that does not see it yet
	$dbh->do('CREATE FUNCTION on_ahead(e es_event) RETURNS void LANGUAGE sql AS $$$$');
	my $other = connect_store($node);
	foreach my $call (
		q{es_reset_subscription('ahead', %s)},
		q{es_create_subscription('begins', after_position => %s)},
		q{es_create_projection('begins', 'on_ahead(es_event)', after_position => %s, paused => true)},
		q{es_create_projection('begins', 'on_ahead', after_position => %s)})
	{
		# a call leaves nothing behind
		my $state = sub {
			my ($conn, $position, $begin) = @_;
			$conn->do($begin || 'SAVEPOINT s');
			my $result = sqlstate($conn, sprintf "SELECT $call", $position);
			$conn->do($begin ? 'ROLLBACK' : 'ROLLBACK TO s');
			return $result;
		};
		$other->do('BEGIN');
		my $open = append($other, 'Ahead-1', ANY, 'Happened')->{position};
		is($state->($dbh, $open, 'BEGIN'), 'VE004', "$call: an uncommitted position is ahead");
		is($state->($other, $open), '00000', "$call: not for the transaction itself");
		$other->do('ROLLBACK');
		is($state->($dbh, $open, 'BEGIN'), 'VE004', "$call: an aborted one is");
		foreach my $level ('REPEATABLE READ', 'SERIALIZABLE')
		{
			run_sql($dbh, "BEGIN ISOLATION LEVEL $level", 'SELECT 1');
			my $new = append($other, 'Ahead-1', ANY, 'Happened')->{position};
			is(sqlstate($dbh, sprintf "SELECT $call", $new), '00000',
				"$call, $level: what another session has just committed is not ahead");
			$dbh->do('ROLLBACK');
		}
	}
	is(sql_value($dbh, q{SELECT count(*) FROM event_store.consumers WHERE name = 'begins'}), 0, 'none of them is there');
	$other->disconnect;

	# as in a store that was restored from an older backup
	$dbh->do(q{UPDATE event_store.subscription_checkpoint SET position = es_head() + 1000
		WHERE subscription = 'ahead'});
	is(sqlstate($dbh, q{SELECT es_fetch('ahead')}), 'VE004',
		'a checkpoint ahead of the head is an error');
	is( sql_value($dbh, q{SELECT num_nulls(lag_events, lag_seconds, lag_positions) || ' ' || reason
			FROM event_store.subscriptions WHERE name = 'ahead'}),
		'3 the checkpoint is ahead of the head', 'its lag is not known, and the view says why');
	is(sqlstate($dbh, q{SELECT es_ack('ahead', es_head() + 5000)}), 'VE004',
		'so is acknowledging what is not there');
	$dbh->do(q{SELECT es_reset_subscription('ahead', es_head())});
	is(sqlstate($dbh, q{SELECT es_fetch('ahead')}), '00000', 'reset, it works');
	return;
}

# What is acknowledged stays so; who had events in hand is gone after a crash.
sub survives
{
	$dbh->do(q{SELECT es_create_subscription('survives')});
	is(positions($dbh, 'survives', 5), '1 2 3 4 5', 'fetched');
	$dbh->do(q{SELECT es_ack('survives', 3)});
	$node->stop('immediate');
	$node->start;
	$dbh = reconnect($node);
	is(checkpoint('survives'), 3, 'the acknowledgement has survived the crash');
	is(positions($dbh, 'survives', 5), '4 5 6 7 8', 'the rest is delivered again, at once');
	return;
}

# ---------------------------------------------------------------------------
# Everything at once

sub stress
{
	$dbh->do(q{SELECT es_drop_subscription(name) FROM event_store.subscriptions});
	my $start = sql_value($dbh, 'SELECT es_head()');
	run_sql($dbh,
		"SELECT es_create_subscription('outside', after_position => $start, lease => '3 s')",
		"SELECT es_create_subscription('inside', after_position => $start, lease => '3 s')",
		"SELECT es_create_subscription('filtered', ARRAY['Order'], ARRAY['Happened1', 'Happened2'], $start, lease => '3 s')",
		"SELECT es_create_subscription('sloppy', after_position => $start, lease => '3 s')",
		'CREATE TABLE done (name text, global_position bigint)');
	$dbh->disconnect;
	new_flags();

	my $deadline = time() + $seconds;
	start_client("writer_$_", sub { write_load($node, $deadline) }) for 1 .. 4;
	start_client('outside', sub {
		crowd(3, sub { outside('outside', @_) }, kill_every => 0.25);
	});
	start_client('inside', sub {
		crowd(3, sub { inside('inside', @_) }, kill_every => 0.25);
	});
	start_client('filtered', sub {
		crowd(2, sub { outside('filtered', @_) }, kill_every => 0.4);
	});
	start_client('sloppy', sub {
		crowd(1, sub { sloppy('sloppy', @_) });
	});
	start_client('naive', sub { naive($start) });

	foreach my $mode ('fast', 'immediate')
	{
		my $at = time() + $seconds / 3;
		poll_until(sub { time() > $at }, $seconds);
		$node->stop($mode);
		$node->start;
	}
	my @writers = map { "writer_$_" } 1 .. 4;
	my $written = wait_clients(names => \@writers, limit => $seconds + 90,
		test => 'no writer failed');
	my $total = { commit => 0, rollback => 0, lost => 0 };
	foreach my $count (values %$written)
	{
		$total->{$_} += $count->{$_} || 0 for keys %$total;
	}
	note join(', ', map { "$_ $total->{$_}" } sort keys %$total);
	cmp_ok($total->{lost}, '>=', 2, 'the restarts met writers at work');
	flag_set('drain');
	my $result = wait_clients(limit => 120, test => 'no consumer failed');
	cmp_ok($result->{$_}{kills}, '>=', 5, "$_: consumers were killed") for qw(outside inside);
	is($result->{$_}{failures}, 0, "$_: no consumer met an error")
	  for qw(outside inside filtered sloppy);

	$dbh = reconnect($node);
	my $committed =
	  [ grep { $_->[0] > $start } @{ store_rows($dbh) } ];
	# versions begin where the stress began
	my $first = judge("$dir/outside", $committed);
	note 'outside: ' . join(', ', map { "$_ $first->{$_}" } sort keys %$first);
	is($first->{$_}, 0, "outside: $_") for qw(missing order phantom);

	my $wanted = $dbh->selectall_arrayref(
		q{SELECT global_position, stream_id, row_number() OVER (PARTITION BY stream_id ORDER BY version)
		FROM event_store.events WHERE category = 'Order'
		AND event_type IN ('Happened1', 'Happened2') AND global_position > ?
		ORDER BY global_position}, undef, $start);
	my %rank = map { $_->[0] => $_->[2] } @$wanted;
	rank_versions("$dir/filtered", \%rank);
	my $filtered = judge("$dir/filtered", $wanted);
	note 'filtered: ' . join(', ', map { "$_ $filtered->{$_}" } sort keys %$filtered);
	is($filtered->{$_}, 0, "filtered: $_") for qw(missing order phantom);

	my $counts = sub {
		my ($name) = @_;
		return $dbh->selectrow_arrayref(
			q{SELECT count(*), count(DISTINCT global_position),
			(SELECT count(*) FROM event_store.events e WHERE e.global_position > $2)
			FROM done WHERE name = $1}, undef, $name, $start);
	};
	my $inside = $counts->('inside');
	is($inside->[1], $inside->[2], 'inside: every event was handled');
	is($inside->[0], $inside->[1], 'inside: exactly once');
	my $sloppy = $counts->('sloppy');
	is($sloppy->[1], $sloppy->[2], 'acknowledged outside the transaction: every event was handled');
	cmp_ok($sloppy->[0], '>', $sloppy->[1], 'control: ... some of them twice');
	my $naive = $result->{naive}{seen};
	cmp_ok(scalar(grep { !$naive->{ $_->[0] } } @$committed),
		'>=', 1, 'control: a consumer with a cursor of its own on plain SQL misses events');
	return;
}

# Renumber the versions in a log: a filter leaves out some.
sub rank_versions
{
	my ($file, $rank) = @_;
	open my $in, '<', $file or die "$file: $!";
	my @lines = map { [split] } <$in>;
	close $in;
	open my $out, '>', $file or die "$file: $!";
	print $out join(' ', @$_[ 0 .. 2 ], $rank->{ $_->[1] } || -1), "\n" for @lines;
	close $out;
	return;
}

# Has this consumer nothing more to do?
sub finished
{
	my ($conn, $name) = @_;
	return flag_is_set('drain')
	  && sql_value($conn,
		'SELECT lag_events FROM event_store.subscriptions WHERE name = ?', $name) == 0;
}

# Run a consumer's loop on a connection that may be lost at any time.  An
# error that tells that the lease is gone is part of the game.
sub consume
{
	my ($code) = @_;
	my $conn = reconnect($node);
	while (1)
	{
		my $more = eval { $code->($conn) };
		if (!defined $more)
		{
			my ($error, $state) = ($@, $conn->state);
			if ($state =~ /^(?:55000|55006|40001|40P01)$/)
			{
				$conn->rollback unless $conn->{AutoCommit};
				next;
			}
			die $error unless lost($conn);
			eval { $conn->disconnect };
			$conn = reconnect($node);
			next;
		}
		last unless $more;
	}
	$conn->disconnect;
	return;
}

# The results live elsewhere: at least once.
sub outside
{
	my ($name, $number) = @_;
	consume(sub {
		my ($conn) = @_;
		my $events = fetch($conn, $name, random_int(1, 60), '200 ms');
		return !finished($conn, $name) unless @$events;
		foreach my $event (@$events)
		{
			handled("$dir/$name", $number, $event);
			random_pause(1) if rand() < 0.1;
			$conn->do('SELECT es_ack(?, ?)', undef, $name, $event->[0])
			  if rand() < 0.05;
		}
		$conn->do('SELECT es_ack(?, ?)', undef, $name, $events->[-1][0]);
		return 1;
	});
	return;
}

# The results live in the same database: exactly once.
sub inside
{
	my ($name, $number) = @_;
	consume(sub {
		my ($conn) = @_;
		my $early = rand() < 0.5;
		my $events;
		$conn->begin_work if $early;
		$events = fetch($conn, $name, random_int(1, 60), $early ? '0' : '200 ms');
		if (!@$events)
		{
			$conn->rollback if $early;
			return !finished($conn, $name);
		}
		$conn->begin_work unless $early;
		$conn->do('INSERT INTO done SELECT ?, unnest(?::bigint[])',
			undef, $name, [ map { $_->[0] } @$events ]);
		random_pause(20) if rand() < 0.2;
		$conn->do('SELECT es_ack(?, ?)', undef, $name, $events->[-1][0]);
		$conn->commit;
		return 1;
	});
	return;
}

# Control: acknowledges in a transaction of its own, and dies in between.
sub sloppy
{
	my ($name, $number) = @_;
	consume(sub {
		my ($conn) = @_;
		my $events = fetch($conn, $name, random_int(1, 60), '200 ms');
		return !finished($conn, $name) unless @$events;
		$conn->do('INSERT INTO done SELECT ?, unnest(?::bigint[])',
			undef, $name, [ map { $_->[0] } @$events ]);
		kill 'KILL', $$ if rand() < 0.05 && !flag_is_set('drain');
		$conn->do('SELECT es_ack(?, ?)', undef, $name, $events->[-1][0]);
		return 1;
	});
	return;
}

# Control: what people write by hand.
sub naive
{
	my ($last) = @_;
	my %seen;
	consume(sub {
		my ($conn) = @_;
		my $events = $conn->selectall_arrayref(
			q{SELECT global_position FROM event_store.events
			WHERE global_position > ? ORDER BY global_position LIMIT 100}, undef, $last);
		foreach my $event (@$events)
		{
			$seen{ $event->[0] } = 1;
			$last = $event->[0];
		}
		random_pause(3) unless @$events;
		return @$events || !flag_is_set('drain');
	});
	return { seen => \%seen };
}
