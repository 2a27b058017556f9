# Streams are lists: random transactions of many sessions, in every isolation
# level, append with exact expected versions and read, while others follow the
# global order; then their histories are checked, without looking at how the
# store works.  What is checked stands in EventStoreTest::ListAppend.
#
# The checker is tried first, on small histories with one fault each.  "make
# soak" does a million operations.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::History qw(faultless_delivery verdict);
use EventStoreTest::ListAppend qw(check_lists);
use Test::More;
use Time::HiRes qw(time);

my $operations = setting('ES_LIST_OPERATIONS', 20000);
my $clients = setting('ES_LIST_CLIENTS', 8);
my $streams = 300;
my @kinds = qw(lost phantom doubled refused partial divergent stale own realtime order cycle cycle2);

seed_random();
checker_finds_faults();

my $node = store_cluster('lists', preload => 'event_store');
create_store($node);
my $patience = 180 + $operations / 100;
new_flags();
my @clients = map { "client_$_" } 1 .. $clients;
foreach my $number (1 .. $clients)
{
	start_client("client_$number", sub { transactions($number, $operations / $clients) });
}
start_client("follower_$_", sub { follow() }) for 1 .. 2;
my $done = wait_clients(names => \@clients, limit => $patience, test => 'no client failed');
flag_set('drain');
my $followed = wait_clients(limit => $patience, test => 'no follower failed');

my $dbh = connect_store($node);
my (%final, %count);
my $rows = store_rows($dbh);
my $elements = $dbh->selectcol_arrayref(q{SELECT (data->>'n')::bigint FROM event_store.events ORDER BY global_position});
push @{ $final{ $rows->[$_][1] } }, [ $elements->[$_], $rows->[$_][0] ] for 0 .. $#$rows;
my @history = map { @{ $done->{$_}{history} } } @clients;
foreach my $client (@clients)
{
	my $states = $done->{$client}{count};
	$count{$_} += $states->{$_} for keys %$states;
}
note 'how transactions ended: ' . verdict(\%count);
my $found = check_lists(\@history, \%final);
note verdict($found);
is($found->{$_}, 0, "0 $_") for @kinds;
cmp_ok($found->{appends} + $found->{reads}, '>=', $operations, 'all operations are in the history');
cmp_ok($count{$_} || 0, '>', 0, "there was: $_") for 'committed', 'rolled back', 'VE001';
foreach my $follower (1 .. 2)
{
	faultless_delivery("follower $follower", $rows, $followed->{"follower_$follower"}{events});
}
$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub append_of
{
	my ($stream, $element, $version, $position, $begun) = @_;
	return [ 'append', $stream, $element, $version, $position, $begun, $begun + 1 ];
}

sub read_of
{
	my ($stream, $from, $elements, $begun) = @_;
	return [ 'read', $stream, $from, $elements, $begun, $begun + 1 ];
}

# Three transactions on two streams, and one that was rolled back.
sub right_history
{
	my %transaction = (
		a => { operations => [ append_of('A', 1, 1, 1, 0), append_of('A', 2, 2, 2, 2) ] },
		b => { operations => [ read_of('A', 1, [ 1, 2 ], 10), append_of('B', 3, 1, 3, 12), read_of('B', 1, [3], 14) ] },
		c => { operations => [ append_of('A', 4, 3, 4, 20), read_of('B', 1, [3], 22) ] },
		d => { operations => [ append_of('B', 5, 2, 5, 30) ], state => 'aborted' });
	foreach my $id (keys %transaction)
	{
		my $t = $transaction{$id};
		%$t = (id => $id, state => 'committed', level => 'SERIALIZABLE', %$t);
		$t->{committed} = $t->{operations}[-1][-1] + 1;
	}
	return (\%transaction, { A => [ [ 1, 1 ], [ 2, 2 ], [ 4, 4 ] ], B => [ [ 3, 3 ] ] });
}

sub checker_finds_faults
{
	my %damage = (
		lost => sub { pop @{ $_[1]{A} } },
		phantom => sub { push @{ $_[1]{B} }, [ 5, 5 ] },
		doubled => sub { push @{ $_[1]{B} }, [ 3, 6 ] },
		order => sub { $_[1]{A} = [ [ 2, 2 ], [ 1, 1 ], [ 4, 4 ] ] },
		refused => sub { $_[0]{c}{operations}[1][3] = [ 3, 5 ] },
		partial => sub { $_[0]{b}{operations}[0][3] = [1] },
		divergent => sub { $_[0]{b}{operations}[0][3] = [2] },
		stale => sub { $_[0]{c}{operations}[1][3] = [] },
		own => sub { $_[0]{b}{operations}[2][3] = [] },
		realtime => sub { $_[0]{b}{operations}[1][4] = 4; $_[0]{c}{operations}[0][4] = 3; @{ $_[1]{A}[2] } = (4, 3); @{ $_[1]{B}[0] } = (3, 4) },
		# b reads what c appends, and c what b does
		cycle => sub { $_[0]{b}{operations}[0][3] = [ 1, 2, 4 ] },
		# neither sees the other's append
		cycle2 => sub { $_[0]{c}{operations}[1] = read_of('B', 1, [], 8); });
	my $found = check_lists(lists(right_history()));
	is(join(' ', grep { $found->{$_} } @kinds), '', 'checker: a right history has no fault');
	foreach my $kind (@kinds)
	{
		my @history = right_history();
		$damage{$kind}->(@history);
		$found = check_lists(lists(@history));
		cmp_ok($found->{$kind}, '>', 0, "checker: finds $kind");
	}
	return;
}

sub lists
{
	my ($transactions, $final) = @_;
	return ([ map { $transactions->{$_} } sort keys %$transactions ], $final);
}

# A session's transactions, and what became of them.
sub transactions
{
	my ($number, $limit) = @_;
	my $conn = connect_store($node);
	my (@history, %known, %length, %ended);
	my $element = $number * 100_000_000;
	my $made = 0;

	$conn->{pg_server_prepare} = 1;
	while ($made < $limit)
	{
		my $level = rand() < 0.6 ? 'READ COMMITTED' : rand() < 0.5 ? 'REPEATABLE READ' : 'SERIALIZABLE';
		my $single = rand() < 0.3;
		my %t = (level => $single ? 'READ COMMITTED' : $level, state => 'aborted', begun => time(), operations => []);
		my $fate = 'committed';
		my $ok = eval {
			$conn->do("BEGIN ISOLATION LEVEL $level") unless $single;
			foreach (1 .. ($single ? 1 : random_int(1, 4)))
			{
				my $stream = 'List-' . random_int(1, rand() < 0.3 ? 10 : $streams);
				if (rand() < 0.55)
				{
					# mostly what the session has seen; others may have been there
					my $expected = $known{$stream};
					$expected = sql_value($conn, 'SELECT es_stream_version($1)', $stream)
					  if !defined $expected || rand() < 0.8;
					# until the answer says otherwise
					my @operation = ('append', $stream, ++$element, undef, undef, time(), undef);
					push @{ $t{operations} }, \@operation;
					$made++;
					my $event = append($conn, $stream, $expected, 'Added', undef, qq({"n": $element}));
					@operation[ 3, 4, 6 ] = ($event->{version}, $event->{position}, time());
					die "expected $expected, got $event->{version}\n" if $event->{version} != $expected + 1;
					$known{$stream} = $length{$stream} = $event->{version};
				}
				else
				{
					# the longer a stream is, the fewer reads begin at its first version
					my $length = $length{$stream} || 0;
					my $from = rand() * $length > 30 ? $length - 10 : 1;
					my $begun = time();
					my $sth = $conn->prepare_cached(
						q{SELECT version, data->>'n' FROM es_read_stream($1, $2)}, {}, 3);
					$sth->execute($stream, $from);
					my $read = $sth->fetchall_arrayref;
					my $holes = grep { $read->[$_][0] != $from + $_ } 0 .. $#$read;
					die "holes in $stream from $from\n" if $holes;
					push @{ $t{operations} }, [ 'read', $stream, $from, [ map { 0 + $_->[1] } @$read ], $begun, time() ];
					$made++;
					$known{$stream} = $length{$stream} = $from + @$read - 1 if @$read;
				}
			}
			if (!$single)
			{
				$fate = 'rolled back' if rand() < 0.05;
				$conn->do($fate eq 'committed' ? 'COMMIT' : 'ROLLBACK');
			}
			1;
		};
		if (!$ok)
		{
			my ($error, $state) = ($@, $conn->state);
			die $error unless $state =~ /^(?:VE001|40001|40P01)$/;
			$conn->do('ROLLBACK') unless $single;
			$fate = $state;
		}
		%known = () if $fate ne 'committed';
		$t{state} = 'committed' if $fate eq 'committed';
		$t{committed} = time();
		$ended{$fate}++;
		push @history, \%t;
	}
	$conn->disconnect;
	return { history => \@history, count => \%ended };
}

sub follow
{
	my $conn = connect_store($node);
	my ($cursor, @events) = (0);
	my $last = 0;

	while (1)
	{
		my $drain = flag_is_set('drain');
		my $page = $conn->selectall_arrayref(
			'SELECT global_position, stream_id, version, event_id FROM es_read_all($1, $2)',
			undef, $cursor, random_int(1, 1000));
		push @events, @$page;
		$cursor = $page->[-1][0] if @$page;
		last if $drain && !@$page;
		sql_value($conn, q{SELECT es_wait($1, '1 s')}, $cursor) unless @$page;
	}
	$conn->disconnect;
	return { events => \@events };
}
