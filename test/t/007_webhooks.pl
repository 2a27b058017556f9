# Real payloads through a real driver, and results of any size in bounded
# memory.
#
# The memory of the server process is what the kernel says of it.  A stream of
# 200 000 events may not need noticeably more than one of 20 000; an aggregate
# that collects the same events in memory must, or the measurement is worthless.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use Test::More;

my $large = setting('ES_LARGE_EVENTS', 200_000);
my $small = $large / 10;
my $bound_kb = 12 * 1024;

seed_random();
my $node = store_cluster('webhooks', conf => "shared_buffers = 16MB\nwork_mem = 1MB\n");

load_webhooks();
bounded_memory();

$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub load_webhooks
{
	create_store($node, 'webhooks');
	my $dsn = sprintf 'dbname=webhooks;host=%s;port=%d', $node->host, $node->port;
	is(run_program($^X, "$FindBin::Bin/../load_webhooks.pl", $dsn),
		0, 'the webhook payloads are loaded, repeated and read back equal');
	my $dbh = connect_store($node, db => 'webhooks');
	cmp_ok(sql_value($dbh, 'SELECT count(*) FROM event_store.events'),
		'>=', 300, 'there are hundreds of them');

	# Control: one payload differs, and the loader must say so.
	$dbh->do('ALTER TABLE event_store.event DISABLE TRIGGER USER');
	$dbh->do(q{UPDATE event_store.event SET data = data || '{"forged": true}'
			   WHERE global_position = (SELECT max(global_position) FROM event_store.event)});
	isnt(run_program($^X, "$FindBin::Bin/../load_webhooks.pl", '--quiet', $dsn),
		0, 'control: the loader notices a payload that differs');
	$dbh->disconnect;
	return;
}

# ---------------------------------------------------------------------------

sub bounded_memory
{
	create_store($node, 'large');
	my $dbh = connect_store($node, db => 'large');
	my $payload = '{"text": "' . 'x' x 300 . '"}';
	foreach my $size ($small, $large)
	{
		foreach (1 .. $size / 1000)
		{
			append_batch($dbh, "Size$size-1", ANY, 'Filled', [ (undef) x 1000 ], $payload);
		}
		is(sql_value($dbh, 'SELECT es_stream_version($1)', "Size$size-1"),
			$size, "$size events are stored");
	}
	my $after = sql_value($dbh,
		'SELECT max(global_position) FROM event_store.events WHERE stream_id = $1',
		"Size$small-1");
	$dbh->do('CHECKPOINT');
	$dbh->disconnect;

	my %read = (
		'es_read_stream in FROM' => sub {
			"SELECT count(*), sum(length(data::text)) FROM es_read_stream('Size$_[0]-1')";
		},
		'es_read_stream in the select list' => sub {
			"SELECT count(*), sum(length((q.e).data::text)) "
			  . "FROM (SELECT es_read_stream('Size$_[0]-1') e OFFSET 0) q";
		},
		'es_read_stream backward' => sub {
			"SELECT count(*), sum(length(data::text)) "
			  . "FROM es_read_stream('Size$_[0]-1', backward => true)";
		},
		'es_read_category' => sub {
			"SELECT count(*), sum(length(data::text)) "
			  . "FROM es_read_category('Size$_[0]', NULL, NULL)";
		},
		'es_read_all' => sub {
			my $from = $_[0] == $small ? 0 : $after;
			"SELECT count(*), sum(length(data::text)) FROM es_read_all($from, $_[0])";
		},
		'es_read_all, whole events' => sub {
			my $from = $_[0] == $small ? 0 : $after;
			"SELECT count(e), sum(length(e::text)) FROM es_read_all($from, $_[0]) AS e";
		},
		'es_read_all, collected' => sub {
			my $from = $_[0] == $small ? 0 : $after;
			"SELECT count(*), sum(length(data::text)) "
			  . "FROM es_read_all($from, $_[0]) WITH ORDINALITY";
		});
	foreach my $name (sort keys %read)
	{
		my $growth = growth($read{$name}, $name);
		cmp_ok($growth, '<=', $bound_kb, "$name: memory does not grow with the result");
	}
	my $growth = growth(
		sub { "SELECT cardinality(array_agg(data)), 0 FROM es_read_stream('Size$_[0]-1')" },
		'array_agg');
	cmp_ok($growth, '>', $bound_kb, 'control: collecting the events in memory is noticed');
	no_temporary_files();
	return;
}

# A scan writes no temporary file, in any form of a query that PostgreSQL has no
# reason of its own to sort or keep; nor does a cursor, in either direction.
sub no_temporary_files
{
	my %query = (
		'es_read_stream' => "SELECT max(data::text) FROM es_read_stream('Size$large-1')",
		'es_read_category, in order' =>
		  "SELECT data FROM es_read_category('Size$large', NULL, NULL) ORDER BY global_position",
		'es_read_all, backward, in order' =>
		  'SELECT e FROM es_read_all(NULL, NULL, backward => true) AS e ORDER BY global_position DESC',
		'es_read_all, first rows' => 'SELECT data FROM es_read_all(NULL, NULL) LIMIT 10');
	foreach my $name (sort keys %query)
	{
		is(temporary_bytes($query{$name}), 0, "$name: no temporary file");
	}
	is(temporary_bytes("DECLARE c SCROLL CURSOR FOR $query{es_read_stream}; FETCH ALL FROM c;"
			  . ' MOVE BACKWARD ALL IN c'),
		0, 'a scroll cursor: no temporary file');
	foreach my $name (sort keys %query)
	{
		cmp_ok(temporary_bytes($query{$name}, 'off'),
			'>', 1_000_000, "control: $name, collected: temporary files");
	}
	return;
}

# How many bytes of temporary files a query writes, in a session of its own.
sub temporary_bytes
{
	my ($query, $scan) = @_;
	my $log = $node->logfile;
	my $offset = -s $log;
	my $dbh = connect_store($node, db => 'large');
	$dbh->do('SET log_temp_files = 0');
	$dbh->do('SET event_store.enable_eventscan = ' . ($scan // 'on'));
	$dbh->begin_work;
	$dbh->do($query);
	$dbh->commit;
	$dbh->disconnect;
	my $bytes = 0;
	my $text = PostgreSQL::Test::Utils::slurp_file($log, $offset);
	$bytes += $1 while $text =~ /temporary file: path .*?, size (\d+)/g;
	note "$bytes bytes of temporary files: $query";
	return $bytes;
}

# How many kB more the large read needs than the small one, at their peaks, each
# in a process of its own.
sub growth
{
	my ($read, $name) = @_;
	my %peak;
	foreach my $size ($small, $large)
	{
		my $dbh = connect_store($node, db => 'large');
		my $pid = sql_value($dbh, 'SELECT pg_catalog.pg_backend_pid()');
		my $row = $dbh->selectrow_arrayref($read->($size));
		is($row->[0], $size, "$name: $size events are read");
		$peak{$size} = peak_memory($pid);
		$dbh->disconnect;
	}
	note "$name: peak $peak{$small} kB for $small events, $peak{$large} kB for $large";
	return $peak{$large} - $peak{$small};
}

# Highest resident size so far.  It contains the shared buffers that the process
# has touched; these are few, so that both sizes fill them.
sub peak_memory
{
	my ($pid) = @_;
	my $status = PostgreSQL::Test::Utils::slurp_file("/proc/$pid/status");
	my ($peak) = $status =~ /^VmHWM:\s+(\d+) kB/m or die "no VmHWM of $pid\n";
	return $peak;
}
