# Backup and point-in-time recovery with pgBackRest, under load: what comes back
# is the store as it was at that point, no event more and none less.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

seed_random();
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $node = store_cluster('backed_up', preload => 'event_store', streaming => 1, no_start => 1);
my $config = "$dir/pgbackrest.conf";

open my $file, '>', $config or die "$config: $!";
printf $file <<'END', ($dir) x 4, $node->data_dir, $node->host, $node->port, (getpwuid($<))[0];
[global]
repo1-path=%s/repo
log-path=%s
lock-path=%s
spool-path=%s
log-level-console=warn
log-level-file=off
start-fast=y
[store]
pg1-path=%s
pg1-socket-path=%s
pg1-port=%s
pg1-user=%s
END
close $file;
my @backrest = ('pgbackrest', "--config=$config", '--stanza=store');

$node->append_conf('postgresql.conf', "archive_mode = on\narchive_command = '@backrest archive-push %p'\n");
$node->start;
create_store($node);
is(run_program(@backrest, 'stanza-create'), 0, 'stanza-create');
is(run_program(@backrest, 'check'), 0, 'check');

new_flags();
my @writers = map { my $writer = $_; start_client("writer$writer", sub { write_until_stopped($writer) }); "writer$writer" } 1 .. 3;
my $dbh = connect_store($node);
ok(poll_until(sub { sql_value($dbh, 'SELECT es_head()') > 200 }, 180), 'events come');
is(run_program(@backrest, 'backup', '--type=full'), 0, 'a full backup while they do');
my $before = sql_value($dbh, 'SELECT es_head()');
ok(poll_until(sub { sql_value($dbh, 'SELECT es_head()') > $before + 200 }, 180), 'more come');
is(run_program(@backrest, 'backup', '--type=incr'), 0, 'an incremental backup');
flag_set('stop');
wait_clients();

my $want = fingerprint($dbh);
my $head = sql_value($dbh, 'SELECT es_head()');
$dbh->do(q{SELECT pg_create_restore_point('good')});
append($dbh, 'Mistake-1', 0, 'Made');
$dbh->do(q{SELECT es_append('Mistake-' || n, es_any(), 'Made', '1') FROM generate_series(2, 200) n});
my $ahead = sql_value($dbh, 'SELECT es_head()');
$dbh->do('SELECT pg_switch_wal()');
$dbh->disconnect;
$node->stop;

is(run_program(@backrest, 'restore', '--delta', '--type=name', '--target=good', '--target-action=promote'), 0, 'restored to the point');
$node->start;
$dbh = connect_store($node);
ok(poll_until(sub { sql_value($dbh, 'SELECT NOT pg_is_in_recovery()') }, 180), 'recovered');
is(fingerprint($dbh), $want, 'the store is as it was: every event, mark and snapshot');
is(sql_value($dbh, 'SELECT es_head()'), $head, 'its head, too');
is(sql_value($dbh, 'SELECT count(*) FROM es_verify()'), 0, 'it is sound');
is(sqlstate($dbh, "SELECT * FROM es_read_all($ahead)"), 'VE004', 'a consumer that had come further is told');
is(append($dbh, 'Found-1', 0, 'Made')->{version}, 1, 'appends go on');
is(sql_value($dbh, 'SELECT string_agg(stream_id, $$,$$) FROM es_read_all(?)', $head), 'Found-1', 'and follow what was there');
$dbh->disconnect;
$node->stop;
done_testing();

sub write_until_stopped
{
	my ($writer) = @_;
	my $own = connect_store($node);
	my %version;

	while (!flag_is_set('stop'))
	{
		my $stream = sprintf('Load-%d-%d', $writer, random_int(0, 9));
		append_batch($own, $stream, $version{$stream} || 0, 'Loaded', [ undef, undef ]);
		$version{$stream} += 2;
		random_pause(5);
	}
	return {};
}
