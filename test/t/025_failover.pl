# Failover by hand: the primary is killed under load and its standby promoted; the
# old primary becomes the standby by pg_rewind, and the same again.  Synchronous:
# nothing that was acknowledged is lost, and all clients go on by themselves.
# Asynchronous: events are lost, and who has seen them is told.  With Patroni and
# many times: make check-ha.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use DBI;
use EventStoreTest;
use EventStoreTest::Failover;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

seed_random();
my $writers = 3;
my $user = (getpwuid($<))[0];
my $conf = "wal_log_hints = on\nwal_keep_size = 1GB\n";
my $primary = store_cluster('failover_a', preload => 'event_store', streaming => 1, conf => $conf);
create_store($primary);
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('failover_b');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
my @servers = map { [ $_->host, $_->port ] } $primary, $standby;
my $connect = sub { connect_primary('postgres', $user, @servers) };

synchronous();
asynchronous();
$primary->stop;
$standby->stop;
done_testing();

# ---------------------------------------------------------------------------

sub make_synchronous
{
	my ($name) = @_;
	my $dbh = connect_store($primary);

	$dbh->do('ALTER SYSTEM SET synchronous_standby_names = ' . $dbh->quote($name));
	$dbh->do('SELECT pg_reload_conf()');
	ok(poll_until(sub { sql_value($dbh, q{SELECT coalesce(string_agg(sync_state, ','), '') FROM pg_stat_replication}) eq ($name ? 'sync' : 'async') }, 180),
		$name ? 'the standby is synchronous' : 'the standby is asynchronous');
	$dbh->disconnect;
	return;
}

# kill -9 the primary, promote the standby, and make the one the standby of the
# other by pg_rewind.
sub fail_over
{
	my ($old, $new) = ($primary, $standby);

	kill_server($old);
	$new->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
	run_program('rm', '-f', $new->data_dir . '/postgresql.auto.conf');
	run_program('touch', $new->data_dir . '/postgresql.auto.conf');
	$new->promote;
	($primary, $standby) = ($new, $old);
	my $dbh = connect_store($new);
	ok(poll_until(sub { sql_value($dbh, 'SELECT NOT pg_is_in_recovery()') }, 180), 'the standby is promoted');
	$dbh->do('CHECKPOINT');
	$dbh->disconnect;

	my $done = poll_until(sub {
			return 1 if run_program('pg_rewind', '--source-server', $new->connstr('postgres'), '--target-pgdata', $old->data_dir) == 0;
			random_pause(500);
			return 0;
	}, 180);
	ok($done, 'pg_rewind of the old primary');
	run_program('cp', $new->data_dir . '/postgresql.auto.conf', $old->data_dir . '/postgresql.auto.conf');
	$old->append_conf('postgresql.conf', 'port = ' . $old->port . "\n");
	$old->append_conf('postgresql.conf', "unix_socket_directories = '" . $old->host . "'\n");
	$old->enable_streaming($new);
	$old->append_conf('postgresql.conf', sprintf("primary_conninfo = '%s application_name=%s'\n", $new->connstr(), $old->name));
	$old->set_standby_mode;
	$old->start;
	return;
}

sub synchronous
{
	$primary->append_conf('postgresql.conf', "synchronous_commit = on\n");
	make_synchronous($standby->name);
	start_failover_clients($connect, $writers);
	foreach my $round (1 .. setting('ES_FAILOVERS', 2))
	{
		my $dbh = connect_store($primary);
		my $before = sql_value($dbh, 'SELECT es_head()');
		ok(poll_until(sub { sql_value($dbh, 'SELECT es_head()') > $before + 20 }, 180), "round $round: events come");
		$dbh->disconnect;
		fail_over();
		make_synchronous($standby->name);
	}
	my $dbh = connect_store($primary);
	my $before = sql_value($dbh, 'SELECT es_head()');
	ok(poll_until(sub { sql_value($dbh, 'SELECT es_head()') > $before + 20 }, 180), 'events come after the last one');
	$dbh->disconnect;
	judge_failover_clients($connect, $writers, 'synchronous');
	return;
}

# The standby gets no more WAL, the primary goes on; then it is gone.
sub asynchronous
{
	make_synchronous('');
	my $dbh = connect_store($primary);
	$primary->wait_for_catchup($standby, 'replay');
	my $standby_dbh = connect_store($standby);
	$standby->append_conf('postgresql.conf', "primary_conninfo = ''\n");
	$standby->reload;
	ok(poll_until(sub { sql_value($dbh, 'SELECT count(*) FROM pg_stat_replication') == 0 }, 180), 'the standby gets nothing more');
	my $kept = sql_value($standby_dbh, 'SELECT es_head()');
	my $lost = append($dbh, 'Lost-1', 0, 'Made')->{position};
	$dbh->do(q{SELECT es_append('Lost-' || n, es_any(), 'Made', '1') FROM generate_series(2, 200) n});
	my $ahead = sql_value($dbh, 'SELECT es_head()');
	$standby_dbh->disconnect;
	$dbh->disconnect;
	fail_over();

	$dbh = connect_store($primary);
	is(sql_value($dbh, 'SELECT es_head()'), $kept, 'events are lost');
	foreach my $call ('es_read_all(%s)', q{es_read_category('Lost', %s)}, q{es_read_query('{}', %s)}, q{es_wait(%s, '1 s')}, q{es_wait_projection('counted', %s)},
		q{es_create_subscription('late', after_position => %s)}, q{es_reset_subscription('load', %s)})
	{
		is(sqlstate($dbh, 'SELECT * FROM ' . sprintf($call, $ahead)), 'VE004', "who has seen them is told: $call");
	}
	is(sqlstate($dbh, 'SELECT * FROM ' . sprintf(q{es_ack('load', %s)}, $ahead)) =~ /^(00000)$/ ? 1 : 0, 0, 'they cannot be acknowledged');

	# set back to what the new primary had, before it is appended to
	$dbh->do(q{SELECT es_append('Found-1', 0, 'Made', '1')});
	is(sql_value($dbh, 'SELECT string_agg(stream_id, $$,$$) FROM es_read_all(?)', $kept), 'Found-1', 'set back, a consumer goes on and misses nothing');
	$dbh->disconnect;
	return;
}
