# The command handler, in a client's language: load the state, decide, append
# with the version that was loaded; on VE001 load and decide again.
#
# Many processes sell the seats of one flight at once.  Every seat is sold, none
# twice, no sale is lost, and each sale was decided on the state just before it.
# The control appends without a version check and oversells.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use Test::More;

my $clients = setting('ES_HANDLER_CLIENTS', 8);
my $seats = setting('ES_HANDLER_SEATS', 160);

seed_random();
my $node = store_cluster('handler');
create_store($node);
my $dbh = connect_store($node);

run_sql(
	$dbh,
	q{CREATE FUNCTION flight_reduce(state jsonb, event es_event) RETURNS jsonb
	  LANGUAGE sql IMMUTABLE AS $$
		SELECT CASE (event).event_type
			WHEN 'Scheduled' THEN jsonb_build_object('free', (event).data->'seats')
			WHEN 'Sold' THEN jsonb_build_object('free', (state->>'free')::int - 1)
			ELSE state
		END $$},
	q{SELECT es_define_aggregate('Flight', 'flight_reduce(jsonb,es_event)', snapshot_every => 10)});

foreach my $check (1, 0)
{
	my $flight = $check ? 'Flight-checked' : 'Flight-control';
	append($dbh, $flight, 0, 'Scheduled', random_uuid(), qq({"seats": $seats}));
	new_flags();
	start_client("seller_$_", sub { seller($flight, $check) }) foreach 1 .. $clients;
	poll_until(sub { client_count($dbh) >= $clients });
	flag_set('go');
	my $result = wait_clients(test => 'no seller failed');

	my ($sold, $conflicts) = (0, 0);
	my %version;
	foreach my $client (values %$result)
	{
		$sold += @{ $client->{sold} };
		$conflicts += $client->{conflicts};
		$version{$_}++ foreach @{ $client->{sold} };
	}
	my $events = sql_value($dbh,
		q{SELECT count(*) FROM es_read_stream($1) WHERE event_type = 'Sold'}, $flight);
	is($events, $sold, "$flight: every sale is in the stream");
	is(scalar(keys %version), $sold, "$flight: every sale has a version of its own");
	if (!$check)
	{
		cmp_ok($sold, '>', $seats, 'control: without the check seats are sold twice');
		next;
	}
	is($sold, $seats, 'every seat is sold once');
	cmp_ok($conflicts, '>', 0, "the sellers met ($conflicts conflicts)");
	is_deeply([ sort { $a <=> $b } keys %version ],
		[ 2 .. $seats + 1 ], 'their versions have no holes');
	is( sql_value(
			$dbh, q{SELECT count(*) FROM es_read_stream($1) AS e
				WHERE e.event_type = 'Sold' AND (e.data->>'free')::int <> $2 - e.version + 2},
			$flight, $seats),
		0,
		'each was decided on the state just before it');
	is_deeply(
		$dbh->selectrow_arrayref('SELECT version, state FROM es_state($1)', undef, $flight),
		[ $seats + 1, '{"free": 0}' ],
		'the state');
	cmp_ok(
		sql_value($dbh, 'SELECT version FROM es_read_snapshot($1)', $flight),
		'>=', $seats + 1 - 2 * 10,
		'snapshots were saved on the way');
	sql_value($dbh, 'SELECT es_drop_snapshots()');
	is_deeply(
		$dbh->selectrow_arrayref('SELECT version, state FROM es_state($1)', undef, $flight),
		[ $seats + 1, '{"free": 0}' ],
		'and the same without them');
}

$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub seller
{
	my ($flight, $check) = @_;
	my $conn = connect_store($node);
	my %result = (sold => [], conflicts => 0);
	poll_until(sub { flag_is_set('go') });
	while (1)
	{
		my $version = sell_seat($conn, $flight, $check, \%result);
		last unless $version;
		push @{ $result{sold} }, $version;
	}
	$conn->disconnect;
	return \%result;
}

# The command.  Returns the version of the sale, 0 when nothing is left.
sub sell_seat
{
	my ($conn, $flight, $check, $result) = @_;
	while (1)
	{
		my ($version, $free) = $conn->selectrow_array(
			q{SELECT version, state->>'free' FROM es_state($1)}, undef, $flight);
		return 0 if $free <= 0;
		my $sale = eval {
			append($conn, $flight, $check ? $version : ANY, 'Sold', random_uuid(),
				qq({"free": $free}));
		};
		return $sale->{version} if $sale;
		die $@ unless ($conn->state || '') eq 'VE001';
		$result->{conflicts}++;
	}
}
