# Connections that are cut after a random number of bytes, in the middle of a
# statement or of an answer: whoever repeats a call, with the ids and the
# expected version that it had, gets the answer that was lost, or is the first
# to be heard.  In the end every call has been done exactly once, whichever form
# of append it was, and every event has been handled exactly once by consumers
# that acknowledge, and refuse, through such connections.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Cutter;
use EventStoreTest::History qw(verdict);
use EventStoreTest::Soak qw(soak_schema soak_writer soak_follower soak_consumer);
use EventStoreTest::SoakCheck qw(soak_caught_up soak_load soak_faults);
use Test::More;

my $calls = setting('ES_CUT_CALLS', 1500);
my $writers = 4;
my $patience = 180 + $calls / 10;
my $folder = PostgreSQL::Test::Utils::tempdir();

seed_random();
my $node = store_cluster('cut', preload => 'event_store');
create_store($node);
my $dbh = connect_store($node);
soak_schema($dbh);

my $proxy = EventStoreTest::Cutter->new($node, random_int(1, 2_000_000_000), 5000);
new_flags();
my @writers = map { "writer-$_" } 1 .. $writers;
foreach my $name (@writers)
{
	start_client($name, sub { soak_writer($proxy, $name, "$folder/$name", 2, $calls / $writers) });
}
start_client('follower', sub { soak_follower($proxy, 'follower', "$folder/follower") });
start_client("$_-1", do { my $of = $_; sub { soak_consumer($proxy, "$of-1", $of) } }) for qw(alone filter group);
start_client('group-2', sub { soak_consumer($proxy, 'group-2', 'group') });

my $written = wait_clients(names => \@writers, limit => $patience, test => 'no writer failed');
flag_set('stop');
is(soak_caught_up($dbh, $patience), '', 'every subscription and projection is at the head');
flag_set('end');
my $read = wait_clients(limit => $patience, test => 'no consumer failed');
my $cuts = $proxy->cuts;
$proxy->stop;

note "cut on the way to the server: $cuts->[0], on the way back: $cuts->[1]";
my %total;
foreach my $result (values %$written, values %$read)
{
	my $count = $result->{count} || {};
	$total{$_} += $count->{$_} for keys %$count;
}
note verdict(\%total);
cmp_ok($cuts->[$_], '>', 0, 'cut on the way ' . (qw(there back))[$_]) for 0, 1;
cmp_ok($total{$_} || 0, '>', 0, "there was: $_")
  for 'es_append', 'es_append_batch', 'es_append of JSON', 'es_append_streams', 'es_append_if', 'es_import',
  'repeated', 'was done', 'nack', 'batch';

soak_load($dbh, [ map { "$folder/$_" } @writers ], ["$folder/follower"]);
my $fault = soak_faults($dbh);
is(sql_value($dbh, "SELECT count(*) FROM ($fault->{$_}) q"), 0, "0: $_") for sort keys %$fault;
control();
$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# Without ids of its own a client that repeats a call appends twice.
sub control
{
	my $cutter = EventStoreTest::Cutter->new($node, random_int(1, 2_000_000_000), 2000);
	my ($conn, $acknowledged) = (undef, 0);
	my $version = q{SELECT es_stream_version('Control-1')};
	my $twice = poll_until(
		sub {
			my $done = eval {
				$conn ||= connect_store($cutter);
				append($conn, 'Control-1', ANY, 'Made');
				1;
			};
			$acknowledged++ if $done;
			# some connections are not cut, but none is kept for long
			return 0 if $done && $acknowledged % 20;
			$conn = undef;
			return sql_value($dbh, $version) > $acknowledged;
		},
		$patience);
	$cutter->stop;
	ok($twice, 'control: without ids what is repeated is there twice')
	  or diag sql_value($dbh, $version) . " versions, $acknowledged acknowledged";
	return;
}
