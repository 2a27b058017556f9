# Events that cannot be handled hold up their stream and nothing else: retried,
# parked in sequence, delivered in order in the end.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Consumers qw(crowd reconnect handled judge write_load lost);
use Test::More;
use Time::HiRes qw(time);

my $seconds = setting('ES_STRESS_SECONDS', 12);
my $dir = PostgreSQL::Test::Utils::tempdir();

seed_random();
my $node = store_cluster('parked', preload => 'event_store');
create_store($node);
my $dbh = connect_store($node);
$dbh->do(q{SELECT es_create_subscription('plain', max_retries => 3, retry_delay => '20 ms', lease => '2 s'),
	es_create_subscription('group', slots => 16, max_retries => 3, retry_delay => '20 ms', lease => '1 s')});
stress();
$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# Events whose position ends on 7 fail twice, those on 3 until somebody looks
# after them.
sub stress
{
	new_flags();
	my $deadline = time() + $seconds;
	start_client("writer_$_", sub { write_load($node, $deadline, streams => 60) }) for 1 .. 3;
	start_client('plain', sub {
		crowd(2, sub { consumer('plain', undef, @_) }, kill_every => 0.5);
	});
	start_client('group', sub {
		crowd(3, sub { consumer('group', 'member', @_) }, kill_every => 0.5);
	});
	my @writers = map { "writer_$_" } 1 .. 3;
	wait_clients(names => \@writers, limit => $seconds + 90, test => 'no writer failed');

	# everything that can be handled has been, the rest is parked
	my $quiet = poll_until(sub {
		sql_value($dbh, q{SELECT count(*) FROM event_store.subscriptions
			WHERE lag_events = 0
			  AND NOT EXISTS (SELECT 1 FROM event_store.parked_stream
				WHERE state = 'retry' AND subscription = name)}) == 2;
	});
	ok($quiet, 'in the end only parked streams are left');
	my $committed = store_rows($dbh);
	my %bad;    # stream => first version that is parked
	foreach my $event (@$committed)
	{
		$bad{ $event->[1] } = $event->[2] if $event->[0] % 10 == 3 && !$bad{ $event->[1] };
	}
	cmp_ok(scalar(keys %bad), '>=', 3, 'some streams hold a bad event');
	foreach my $name (qw(plain group))
	{
		my $expected = join ',', map { $_->[0] }
		  grep { $bad{ $_->[1] } && $_->[2] >= $bad{ $_->[1] } } @$committed;
		my $parked = $dbh->selectall_arrayref(
			q{SELECT global_position, stream_id, version, state, attempts, reason
			FROM event_store.parked_events WHERE subscription = ? ORDER BY 1}, undef, $name);
		ok(join(',', map { $_->[0] } @$parked) eq $expected,
			"$name: parked are the bad events and all that follows in their streams, each once");
		my @heads = grep { $_->[3] eq 'parked' } @$parked;
		is(join(',', sort map { "$_->[1]:$_->[2]" } @heads),
			join(',', sort map { "$_:$bad{$_}" } keys %bad), "$name: the bad events are the heads");
		is(scalar(grep { $_->[4] < 4 || $_->[5] ne "no $_->[0]" } @heads),
			0, "$name: after three retries, with the reason");
		is(scalar(grep { $_->[3] ne 'queued' && $_->[3] ne 'parked' } @$parked),
			0, "$name: the others are queued");
	}

	# the administrator is told
	my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
	my @untold = grep {
		my ($name, $position) = split / /;
		$log !~ /LOG:  [^\n]*subscription "$name" has parked the event at position $position after 4 attempts\n[^\n]*HINT:  Later events of its stream wait behind it/;
	} @{ $dbh->selectcol_arrayref(q{SELECT subscription || ' ' || global_position FROM event_store.parked_events WHERE state = 'parked'}) };
	is("@untold", '', 'the server log has a line about each of them');

	# discard one event and one stream, repair the rest
	my ($first, $second) = sort keys %bad;
	my ($position) = map { $_->[0] }
	  grep { $_->[1] eq $first && $_->[2] == $bad{$first} } @$committed;
	foreach my $name (qw(plain group))
	{
		is(sql_value($dbh, 'SELECT es_discard_parked(?, ?)', $name, $position), 1,
			"$name: an event is discarded");
		is(sql_value($dbh, 'SELECT es_discard_parked(?, ?)', $name, $position), 0,
			"$name: ... once");
		is(sql_value($dbh, 'SELECT es_discard_parked_stream(?, ?)', $name, $second), 1,
			"$name: a stream is discarded");
	}
	flag_set('repaired');
	cmp_ok(sql_value($dbh, 'SELECT es_retry_parked(?)', $_), '>=', keys(%bad) - 2,
		"$_: the rest is retried")
	  for qw(plain group);
	# another bad event behind the discarded one may have been parked meanwhile
	poll_until(sub {
		$dbh->do('SELECT es_retry_parked(name) FROM event_store.subscription');
		sql_value($dbh, 'SELECT count(*) FROM event_store.parked_events') == 0;
	});
	is(sql_value($dbh, 'SELECT count(*) FROM event_store.parked_events'), 0, 'nothing stays parked');
	flag_set('drain');
	my $result = wait_clients(limit => 120, test => 'no consumer failed');
	is($result->{$_}{failures}, 0, "$_: no consumer met an error") for qw(plain group);

	foreach my $name (qw(plain group))
	{
		# the discarded ones count as handled in their place
		my @left = grep {
			$_->[0] != $position
			  && !($_->[1] eq $second && $_->[2] >= $bad{$second})
		} @$committed;
		my $count = judge("$dir/$name", \@left, gap => { $first => $bad{$first} });
		note "$name: " . join(', ', map { "$_ $count->{$_}" } sort keys %$count);
		is($count->{$_}, 0, "$name: $_") for qw(missing order phantom);
	}
	return;
}

sub consumer
{
	my ($name, $prefix, $number) = @_;
	my $member = $prefix ? "$prefix $number " . random_uuid() : undef;
	my $conn = reconnect($node);
	while (1)
	{
		my $more = eval {
			my $events = $conn->selectall_arrayref(
				'SELECT global_position, stream_id, version FROM es_fetch($1, $2, $3::interval, $4)',
				undef, $name, random_int(1, 60), '100 ms', $member);
			my %failed;
			if (!@$events)
			{
				return !(flag_is_set('drain')
					&& sql_value($conn,
						q{SELECT lag_events + (SELECT count(*) FROM event_store.parked_events p
							WHERE p.subscription = s.name)
						FROM event_store.subscriptions s WHERE name = ?}, $name) == 0);
			}
			foreach my $event (@$events)
			{
				my ($position, $stream) = @$event;
				next if $failed{$stream};
				if (fails($name, $position))
				{
					$conn->do('SELECT es_nack($1, $2, $3, member => $4)',
						undef, $name, $position, "no $position", $member);
					$failed{$stream} = 1;
					next;
				}
				handled("$dir/$name", $number, $event);
			}
			$conn->do('SELECT es_ack($1, $2, $3)', undef, $name, $events->[-1][0], $member);
			1;
		};
		if (!defined $more)
		{
			my $error = $@;
			next if $conn->state =~ /^(?:55000|55006|40001|40P01)$/;
			die $error;
		}
		last unless $more;
	}
	eval { $conn->do('SELECT es_leave(?, ?)', undef, $name, $member) } if $member;
	$conn->disconnect;
	return;
}

sub fails
{
	my ($name, $position) = @_;
	return !flag_is_set('repaired') if $position % 10 == 3;
	return 0 if $position % 10 != 7;
	foreach my $time (1, 2)
	{
		my $flag = "$name.$position.$time";
		next if flag_is_set($flag);
		flag_set($flag);
		return 1;
	}
	return 0;
}
