# Projections against a model: random appends, random operations by several
# sessions, workers and the server killed, and in the end every read model has
# every event that its projection's rules want, once, in the order of its
# stream, and no side effect was done twice.
#
# The checker is tested first: a row removed, doubled or put out of order, and
# an event passed without cause, must be noticed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::ProjectionModel
  qw(model_schema model_write model_operate model_settle model_faults);
use Test::More;
use Time::HiRes qw(time);

my $seconds = setting('ES_MODEL_SECONDS', setting('ES_STRESS_SECONDS', 8));

seed_random();
my $workers = random_int(1, 2);
my $node = store_cluster('model', preload => 'event_store',
	conf => "event_store.projection_retry_delay = 5ms\nevent_store.max_projection_workers = $workers\n");
create_store($node);
my $dbh = connect_store($node);
model_schema($dbh);

new_flags();
start_client("writer_$_", sub { model_write($node, 12) }) for 1 .. 3;
start_client("operator_$_", sub { model_operate($node) }) for 1 .. 2;
my %killed = (KILL => 0, TERM => 0, server => 0);
my $end = time() + $seconds;
while (time() < $end)
{
	random_pause(3000);
	my $way = (qw(KILL TERM TERM server))[ random_int(0, 3) ];
	if ($way eq 'server')
	{
		$node->stop('immediate');
		$node->start;
		$killed{$way}++;
		next;
	}
	$dbh = connect_store($node, fail_ok => 1, plain => 1) if connection_lost($dbh);
	next unless $dbh;
	my $pid = eval {
		sql_value($dbh,
			q{SELECT pid FROM pg_catalog.pg_stat_activity
			  WHERE backend_type LIKE 'event_store %' AND datname IS NOT NULL ORDER BY random() LIMIT 1});
	};
	$killed{$way} += kill $way, $pid if $pid;
}
flag_set('stop');
my $result = wait_clients(limit => 60);
$dbh = undef;
poll_until(sub { $dbh = connect_store($node, fail_ok => 1) });
note "$workers workers at the most; killed: ", join(', ', map { "$_ $killed{$_}" } sort keys %killed);
foreach my $n (1 .. 2)
{
	my $operator = $result->{"operator_$n"};
	my %refused = %{ $operator->{refused} || {} };
	note "operator $n: ", $operator->{count} || 0, ' operations; refused: ',
	  join(', ', map { "$_ $refused{$_}" } sort keys %refused);
	cmp_ok($operator->{count} || 0, '>', 50, "operator $n was at work");
	is(join('; ', @{ $operator->{strange} || [] }), '', "operator $n: nothing strange was refused");
}
is(model_settle($dbh), '', 'everything catches up after the repair')
  or diag explain $dbh->selectall_arrayref('SELECT * FROM event_store.projections', { Slice => {} });
is(model_faults($dbh), '', 'the read models are what the events say');
cmp_ok(sql_value($dbh, 'SELECT count(*) FROM applied'), '>', 1000, 'there was something to do');
checker_notices();
$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub checker_notices
{
	my $row = q{(SELECT max(seq) FROM applied JOIN model USING (target))};
	my %damage = (
		'wanted, but not applied' => "DELETE FROM applied WHERE seq = $row",
		'applied twice' => 'INSERT INTO applied (target, position, stream) '
		  . "SELECT target, position, stream FROM applied WHERE seq = $row",
		'applied, but not wanted' => 'INSERT INTO applied (target, position, stream) '
		  . "SELECT target, 0, 'A-0' FROM applied WHERE seq = $row",
		'out of order' => "UPDATE applied SET seq = -seq WHERE seq = $row",
		'side effect twice' => 'INSERT INTO outbox SELECT * FROM outbox LIMIT 1',
		'given up without cause' => q{INSERT INTO given_up SELECT 't', global_position, 'skipped'
			FROM event_store.events WHERE NOT jsonb_exists(data, 'bad') LIMIT 1});
	foreach my $title (sort keys %damage)
	{
		$dbh->begin_work;
		$dbh->do($damage{$title});
		$dbh->do('DROP VIEW wanted, served');
		like(model_faults($dbh), qr/$title/, "checker: $title");
		$dbh->rollback;
	}
	return;
}
