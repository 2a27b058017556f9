# Consumer groups: members share the slots fairly, come, go and are killed; the
# events of a stream stay in order, none is lost; acknowledged in the member's
# own transaction each is handled exactly once.

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

seed_random();
my $node = store_cluster('group', preload => 'event_store');
create_store($node);
my $dbh = connect_store($node);
sharing();
waiting();
losing();
stress();
$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub fetch
{
	my ($conn, $name, $member, $max, $wait) = @_;
	return $conn->selectall_arrayref(
		'SELECT global_position, stream_id, version FROM es_fetch($1, $2, $3::interval, $4)',
		undef, $name, $max || 1000, $wait || '0', $member);
}

sub ack
{
	my ($conn, $name, $member, $events) = @_;
	$conn->do('SELECT es_ack($1, $2, $3)', undef, $name, $events->[-1][0], $member)
	  if @$events;
	return;
}

sub slots
{
	my ($name) = @_;
	return join(' ',
		map { "$_->[0]=$_->[1]" } @{ $dbh->selectall_arrayref(
				'SELECT member, slots FROM event_store.subscription_members '
				  . 'WHERE subscription = ? ORDER BY member', undef, $name) });
}

sub add
{
	my ($streams) = @_;
	append($dbh, "Thing-$_", ANY, 'Happened') for 1 .. $streams;
	return;
}

sub sharing
{
	add(100);
	$dbh->do(q{SELECT es_create_subscription('share', slots => 16)});
	is(sql_value($dbh, q{SELECT es_join('share', 'a')}), 16, 'one member has all slots');
	my $first = fetch($dbh, 'share', 'a');
	is(scalar(@$first), 100, '... and gets every event');
	is(sql_value($dbh, q{SELECT es_join('share', 'b')}), 0,
		'slots with events in hand stay where they are');
	is(scalar(@{ fetch($dbh, 'share', 'b') }), 0, 'so the second member gets nothing');
	ack($dbh, 'share', 'a', $first);
	fetch($dbh, 'share', $_) for qw(a b);
	is(slots('share'), 'a=8 b=8', 'acknowledged, the slots are shared');
	fetch($dbh, 'share', 'c');
	fetch($dbh, 'share', $_) for qw(a b c);
	is(slots('share'), 'a=6 b=5 c=5', 'among three');

	add(100);
	my (%owner, $sum);
	foreach my $member (qw(a b c))
	{
		my $events = fetch($dbh, 'share', $member);
		$owner{ $_->[1] }{$member} = 1 for @$events;
		$sum += @$events;
		my @positions = map { $_->[0] } @$events;
		is("@positions", join(' ', sort { $a <=> $b } @positions), "$member: in order");
		ack($dbh, 'share', $member, $events);
	}
	is($sum, 100, 'together they get every event');
	is(scalar(grep { keys %$_ > 1 } values %owner), 0, 'each stream is one member\'s');

	is(sql_value($dbh, q{SELECT es_leave('share', 'b')}), 1, 'one leaves');
	is(sql_value($dbh, q{SELECT es_leave('share', 'b')}), 0, '... once');
	fetch($dbh, 'share', $_) for qw(a c);
	is(slots('share'), 'a=8 c=8', 'the others take over its slots');

	# more members than slots
	$dbh->do(q{SELECT es_create_subscription('few', slots => 2)});
	fetch($dbh, 'few', $_) for qw(a b c);
	ack($dbh, 'few', 'a', fetch($dbh, 'few', 'a'));
	fetch($dbh, 'few', $_) for qw(a b c);
	is(slots('few'), 'a=1 b=1 c=0', 'a member may have no slot');
	return;
}

sub waiting
{
	my $conn = connect_store($node);

	# slots that another session takes for a member lie behind what it has seen
	$dbh->do(q{SELECT es_create_subscription('turn', ARRAY['Turn'], slots => 2,
		after_position => es_head())});
	foreach my $round (1, 2)
	{
		fetch($dbh, 'turn', $_) for qw(a b);
	}
	is(slots('turn'), 'a=1 b=1', 'two members');
	my @events = map { append($dbh, 'Turn-1', ANY, 'Happened')->{position} } 1 .. 4;
	my ($owner) = grep { @{ fetch($dbh, 'turn', $_, 2) } } qw(a b);
	my ($idle) = grep { $_ ne $owner } qw(a b);
	$dbh->do("SELECT es_ack('turn', $events[1], '$owner')");
	fetch($dbh, 'turn', $owner);
	is(meanwhile($node, "es_fetch('turn', 100, '1 h', '$idle')", sub {
			$conn->begin_work;
			$conn->do("SELECT es_leave('turn', '$owner')");
			$conn->do("SELECT es_join('turn', '$idle')");
			$conn->commit;
		}), "$events[2] $events[3]", 'a member that waits sees slots that are taken for it');
	$dbh->do(q{SELECT es_drop_subscription('turn')});

	# slots that somebody is about to take are no reason to return
	$dbh->do(q{SELECT es_create_subscription('taken', ARRAY['Turn'], slots => 4)});
	$conn->begin_work;
	is(scalar(@{ fetch($conn, 'taken', 'a') }), 4, 'a member takes all slots and stays open');
	fetch($dbh, 'taken', 'b');
	is(meanwhile($node, q{es_fetch('taken', 100, '1 h', 'b')}, sub { $conn->rollback }), "@events",
		'another one waits until it is gone');
	$dbh->do(q{SELECT es_drop_subscription('taken')});

	# somebody who joins under the same name, and stays open, is not waited for
	$dbh->do(q{SELECT es_create_subscription('twin', slots => 2)});
	$conn->begin_work;
	fetch($conn, 'twin', 'a');
	$dbh->do(q{SET statement_timeout = '30 s'});
	is(sqlstate($dbh, q{SELECT es_fetch('twin', member => 'a')}), '00000',
		'a fetch does not wait for another one that joins under its name');
	$dbh->do('RESET statement_timeout');
	$conn->rollback;
	$dbh->do(q{SELECT es_drop_subscription('twin')});

	# to wait is not to be silent, however short the lease
	$dbh->do(q{SELECT es_create_subscription('short', ARRAY['None'], slots => 2, lease => '900 ms')});
	fetch($dbh, 'short', 'a');
	my $renewed = poll_until(sub {
		my $until = sql_value($dbh, q{SELECT lease_until FROM event_store.subscription_members
			WHERE subscription = 'short'});
		fetch($dbh, 'short', 'a', 1, '1 h');
		sql_value($dbh, q{SELECT updated_at < ?::timestamptz FROM event_store.subscription_member
			WHERE subscription = 'short'}, $until);
	});
	ok($renewed, 'a member that waits renews its lease before that ends');
	$dbh->do(q{SELECT es_drop_subscription('short')});
	$conn->disconnect;
	return;
}

# A member whose lease has ended is out, and its transaction cannot commit.
sub losing
{
	my $late = connect_store($node);
	$dbh->do(q{SELECT es_create_subscription('lose', slots => 4, lease => '300 ms',
		after_position => 0)});
	my $events = fetch($late, 'lose', 'late', 10);
	is(scalar(@$events), 10, 'a member gets events');
	my $seen = [];
	poll_until(sub { $seen = fetch($dbh, 'lose', 'other', 10); return @$seen; });
	is_deeply($seen, $events, 'when it does not come back another one gets them');
	is(sqlstate($late, q{SELECT es_ack('lose', 1, 'late')}), '55000',
		'and it cannot acknowledge them');

	# at work in a transaction it stays, however long that takes
	ack($dbh, 'lose', 'other', $seen);
	$late->begin_work;
	ack($late, 'lose', 'other', fetch($late, 'lose', 'other', 10));
	my $until = sql_value($dbh, q{SELECT lease_until FROM event_store.subscription_members
		WHERE subscription = 'lose' AND member = 'other'});
	poll_until(sub {
		sql_value($dbh, q{SELECT clock_timestamp() > ?::timestamptz + interval '300 ms'},
			$until);
	});
	is(scalar(@{ fetch($dbh, 'lose', 'third', 10) }), 0,
		'a member at work in a transaction keeps its slots');
	$late->commit;
	$late->disconnect;
	return;
}

sub stress
{
	my $start = sql_value($dbh, 'SELECT es_head()');
	run_sql($dbh,
		"SELECT es_create_subscription('outside', after_position => $start, slots => 64, lease => '1 s')",
		"SELECT es_create_subscription('inside', after_position => $start, slots => 7, lease => '1 s')",
		'CREATE TABLE done (global_position bigint, stream_id text, version bigint, nr bigserial)');
	new_flags();
	my $deadline = time() + $seconds;
	start_client("writer_$_", sub { write_load($node, $deadline) }) for 1 .. 3;
	start_client('outside', sub {
		crowd(4, sub { member('outside', 0, @_) }, kill_every => 0.4);
	});
	start_client('inside', sub {
		crowd(3, sub { member('inside', 1, @_) }, kill_every => 0.4);
	});
	my $at = time() + $seconds / 2;
	poll_until(sub { time() > $at }, $seconds);
	$dbh->disconnect;
	$node->stop('immediate');
	$node->start;
	my @writers = map { "writer_$_" } 1 .. 3;
	wait_clients(names => \@writers, limit => $seconds + 90, test => 'no writer failed');
	flag_set('drain');
	my $result = wait_clients(limit => 120, test => 'no member failed');
	cmp_ok($result->{$_}{kills}, '>=', 3, "$_: members were killed") for qw(outside inside);
	is($result->{$_}{failures}, 0, "$_: no member met an error") for qw(outside inside);

	$dbh = reconnect($node);
	my $committed = [ grep { $_->[0] > $start } @{ store_rows($dbh) } ];
	my $outside = judge("$dir/outside", $committed);
	note 'outside: ' . join(', ', map { "$_ $outside->{$_}" } sort keys %$outside);
	is($outside->{$_}, 0, "outside: $_") for qw(missing order phantom);

	handled("$dir/inside", 0, @{ $dbh->selectall_arrayref(
		'SELECT global_position, stream_id, version FROM done ORDER BY nr') });
	my $inside = judge("$dir/inside", $committed);
	note 'inside: ' . join(', ', map { "$_ $inside->{$_}" } sort keys %$inside);
	is($inside->{$_}, 0, "inside: $_") for qw(missing phantom duplicate);
	is($inside->{order}, 0, 'inside: order');
	return;
}

# One process; every life of it is a new member, which may leave in an orderly
# manner or be killed.
sub member
{
	my ($name, $inside, $number) = @_;
	my $member = "member $number " . random_uuid();
	my $conn = reconnect($node);
	while (1)
	{
		my $more = eval {
			my $events = fetch($conn, $name, $member, random_int(1, 60), '200 ms');
			if (!@$events)
			{
				return !(flag_is_set('drain')
					&& sql_value($conn,
						'SELECT lag_events FROM event_store.subscriptions WHERE name = ?',
						$name) == 0);
			}
			if ($inside)
			{
				$conn->begin_work;
				$conn->do('INSERT INTO done SELECT * FROM unnest(?::bigint[], ?::text[], ?::bigint[])',
					undef, [ map { $_->[0] } @$events ], [ map { $_->[1] } @$events ],
					[ map { $_->[2] } @$events ]);
				ack($conn, $name, $member, $events);
				$conn->commit;
			}
			else
			{
				foreach my $event (@$events)
				{
					handled("$dir/$name", $number, $event);
					ack($conn, $name, $member, [$event]) if rand() < 0.05;
				}
				ack($conn, $name, $member, $events);
			}
			if (rand() < 0.02)
			{
				$conn->do('SELECT es_leave(?, ?)', undef, $name, $member);
				$member = "member $number " . random_uuid();
			}
			1;
		};
		if (!defined $more)
		{
			my ($error, $state) = ($@, $conn->state);
			if ($state =~ /^(?:55000|40001|40P01)$/)
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
	eval { $conn->do('SELECT es_leave(?, ?)', undef, $name, $member) };
	$conn->disconnect;
	return;
}
