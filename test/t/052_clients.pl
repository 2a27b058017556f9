# What drivers make of the store's types, as doc/clients.md tells it: programs
# in the languages themselves check it, and their tests are counted here.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use IPC::Run ();
use Test::More;

my $clients = "$FindBin::Bin/../clients";
my $server = store_cluster('clients');
create_store($server);
@ENV{qw(PGHOST PGPORT PGUSER PGDATABASE)} = ($server->host, $server->port, (getpwuid($<))[0], 'postgres');

relay('node', "$clients/node.mjs");
relay('/usr/bin/python3', "$clients/python.py");
$server->stop;
done_testing();

# ---------------------------------------------------------------------------

sub relay
{
	my (@program) = @_;
	my ($planned, $run) = (0, 0);
	my ($out, $err) = ('', '');

	IPC::Run::run(\@program, '>', \$out, '2>', \$err, IPC::Run::timeout($EventStoreTest::limit));
	for (split /\n/, $out)
	{
		if (/^(not )?ok \d+ - (.*)/)
		{
			ok(!$1, $2);
			$run++;
		}
		diag($1) if /^# (.*)/;
		$planned = $1 if /^1\.\.(\d+)/;
	}
	is($planned, $run, "$program[0]: all tests were run") or diag($err);
	return;
}
