# Projections and standbys: no worker runs in recovery, nothing can be run
# there, and after promotion the worker goes on where the primary stopped.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Projection qw(create_model differences caught_up worker_pid projection);
use Test::More;

seed_random();
my $primary = store_cluster('primary', preload => 'event_store', streaming => 1);
create_store($primary);
my $dbh = connect_store($primary);
$dbh->do('SELECT es_create_projection(?, ?::regprocedure)',
	undef, 'p', create_model($dbh, 'model'));
append_batch($dbh, 'Acc-1', 0, 'Added', [ map { undef } 1 .. 500 ]);
caught_up($dbh, 'p');
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# the primary leaves something to do behind
$dbh->do(q{SELECT es_pause_projection('p')});
append_batch($dbh, 'Acc-1', ANY, 'Added', [ map { undef } 1 .. 500 ]);
$dbh->do(q{SELECT es_resume_projection('p')});
append_batch($dbh, "Acc-$_", 0, 'Added', [ map { undef } 1 .. 200 ]) for 2 .. 20;
my $reader = connect_store($standby);
my $head = sql_value($dbh, 'SELECT es_head()');
ok(poll_until(sub { sql_value($reader, 'SELECT es_head()') >= $head }),
	'the standby has all events');
is(worker_pid($reader), undef, 'no worker on the standby');
is(sqlstate($reader, q{SELECT es_run_projection('p')}), '25006', 'it cannot be run there');
is(sqlstate($reader, q{SELECT es_wait_projection('p', 1, '10 ms')}),
	'00000', 'but waited for');
ok(projection($reader, 'p'), 'and seen');

$dbh->disconnect;
$primary->stop('immediate');
$standby->promote;
ok(poll_until(sub { !sql_value($reader, 'SELECT pg_is_in_recovery()::int') }), 'promoted');
$reader->disconnect;
$reader = connect_store($standby, plain => 1);
ok(poll_until(sub { differences($reader, 'model') eq '' }, 30),
	'the worker starts and goes on: read model = recomputation');
$reader->disconnect;
$standby->stop;
done_testing();
