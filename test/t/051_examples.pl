# The programs in examples/ do what they say: on a server, through PgBouncer in
# transaction mode, and while every connection is cut again and again.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Bouncer;
use File::Basename qw(basename);
use IPC::Run ();
use Test::More;

my $examples = "$FindBin::Bin/../../examples";
my $user = (getpwuid($<))[0];

# what Debian's packages are for, not another Python of the machine
my @python = ('/usr/bin/python3', "$examples/python/order.py");
my @node = ('node', "$examples/node/order.mjs");
my $told = <<'EOT';
two events, version 2
read model: placed 1
sent twice: once in the store
too late: VE001
shipped: 4 {"currency": "EUR", "items": 2, "status": "shipped", "total": 13.5}
an old event: {"currency": "EUR", "total": 12.5}
EOT

seed_random();
my $server = store_cluster('examples', preload => 'event_store');
create_store($server);
my $db = connect_store($server);
is(IPC::Run::run([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $server->connstr('postgres'), '-f', "$examples/orders.sql" ],
		'>', \my $out), 1, 'what the examples share is loaded');

for my $program (\@python, \@node)
{
	is(run_example($program, $server->host, $server->port), $told, "$program->[0]: on the server");
}
psql($server->host, $server->port, 'psql: on the server');
my $course = run_example([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$examples/psql/course.sql" ], $server->host, $server->port);
like($course, qr/StudentSubscribed \| \{"course": "c1", "student": "ben"\} +\| \{course:c1,student:ben\}/, 'psql: courses and students');
unlike($course, qr/"carl"|"c9"/, 'psql: and who must not is not subscribed');

my ($dir, $port) = start_bouncer($server);
ok(poll_until(sub { -S "$dir/.s.PGSQL.$port" }, 20), 'pgbouncer is there');
for my $program (\@python, \@node)
{
	is(run_example($program, $dir, $port), $told, "$program->[0]: through PgBouncer");
}
psql($dir, $port, 'psql: through PgBouncer');
stop_bouncer();

for my $program (\@python, \@node)
{
	cut($program);
}
histories();
$db->disconnect;
$server->stop;
done_testing();

# ---------------------------------------------------------------------------

# What a program prints, JSON in one spelling.
sub run_example
{
	my ($program, $host, $to) = @_;
	my $printed = '';

	local @ENV{qw(PGHOST PGPORT PGUSER PGDATABASE)} = ($host, $to, $user, 'postgres');
	IPC::Run::run($program, '>', \$printed, '2>', \my $complaint,
		IPC::Run::timeout($EventStoreTest::limit));
	diag($complaint) if $complaint;
	$printed =~ s/([:,])(?=["\d])(?! )/$1 /g if $program->[0] eq 'node';
	return $printed;
}

sub psql
{
	my ($host, $to, $name) = @_;
	my $printed = run_example([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$examples/psql/order.sql" ], $host, $to);

	like($printed, qr/5 \| \{"items": 3, "total": 33\.5, "status": "shipped", "currency": "EUR"\}/, $name);
	like($printed, qr/OrderPlaced \| +2 \| \{"total": 12\.50*, "currency": "EUR"\}/, "$name: to the end");
	return;
}

# Somebody cuts connections all the time; a program never notices more than
# that, and no event is lost or there twice.  A fetch that waits for a second is
# cut at its beginning, and seldom, or it would never come to its end.
sub cut
{
	my ($program) = @_;
	my $rounds = setting('ES_EXAMPLE_ROUNDS', 3);
	my $done = 'done.' . basename($program->[0]);

	start_client('cutter', sub {
		my $dbh = connect_store($server);
		my $cuts = 0;
		until (flag_is_set($done))
		{
			$cuts += sql_value($dbh, q{
				SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
				 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
				   AND CASE WHEN query NOT LIKE '%es_fetch%' THEN random() < 0.5
							ELSE random() < 0.04 AND clock_timestamp() - query_start < '0.1 s' END});
			random_pause(30);
		}
		return { cuts => $cuts };
	});
	my @wrong = grep { $_ ne $told } map { run_example($program, $server->host, $server->port) } 1 .. $rounds;
	flag_set($done);
	my $cuts = wait_clients(names => ['cutter'])->{cutter}{cuts};
	is_deeply(\@wrong, [], "$program->[0]: while connections are cut");
	cmp_ok($cuts, '>', 0, "... $cuts times");
	$db = connect_store($server);
	return;
}

# Every order has been placed once and shipped once.
sub histories
{
	my $sql = q{
		SELECT stream_id FROM es_read_category('Order', max_count => NULL)
		 GROUP BY stream_id
		HAVING count(*) FILTER (WHERE event_type = 'OrderPlaced') <> 1
			OR count(*) FILTER (WHERE event_type = 'OrderShipped') > 1
			OR count(*) FILTER (WHERE event_type = 'ItemAdded') NOT IN (0, 2, 3)};

	is_deeply($db->selectcol_arrayref($sql), [], 'no order has an event twice');
	return;
}
