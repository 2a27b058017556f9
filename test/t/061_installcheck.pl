# "make installcheck" as somebody runs it on a server of their own, with the
# settings that initdb writes: it passes, and says which specs it leaves out
# because the server allows no prepared transactions.  Who is no superuser is told
# so before anything runs.
#
# That each test passes is shown by the check itself; here it is a few of them.

use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use File::Temp ();
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use Test::More;

my $sources = abs_path("$FindBin::Bin/../..");
my $tester = `"$ENV{PG_CONFIG}" --pgxs` =~ s{makefiles/pgxs\.mk\s*$}{test/isolation/pg_isolation_regress}r;

my $node = PostgreSQL::Test::Cluster->new('installcheck');
$node->init(extra => [ '--encoding=UTF8', '--locale=C' ]);
$node->start;
is($node->safe_psql('postgres', 'SHOW max_prepared_transactions'), 0, 'no prepared transactions here, as by default');
$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN');

my ($status, $output) = installcheck();
is($status, 0, 'it passes') or diag($output);
like($output, qr/ append .*\bok\b|\bok\b.* append /, 'tests have run');
SKIP:
{
	# setup.sh lets it be missing for 13 alone
	skip 'these packages have no isolation tester', 2 unless -x $tester;
	like($output, qr/^left out because max_prepared_transactions is 0: order-prepared$/m, 'what needs them is left out, and named');
	like($output, qr/new-type .*\bok\b|\bok\b.* new-type /, 'other specs have run');
}

($status, $output) = installcheck('PGUSER=nobody');
isnt($status, 0, 'who is no superuser cannot');
like($output, qr/needs a superuser of the server/, 'and is told so');
unlike($output, qr/\bok\b.* append | append .*\bok\b/, 'nothing has run');
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# Returns the exit status and what it has printed.
sub installcheck
{
	my @variables = @_;
	my $folder = File::Temp::tempdir('es_installcheck_XXXXXX', TMPDIR => 1, CLEANUP => 1);
	my $output = '';
	IPC::Run::run(
		[   'env', '-u', 'PGUSER', 'PGHOST=' . $node->host, 'PGPORT=' . $node->port, @variables,
			'make', '-C', $sources, '--no-print-directory', "PG_CONFIG=$ENV{PG_CONFIG}",
			'REGRESS=append', 'specs=new-type order-prepared', "EXTRA_REGRESS_OPTS=--outputdir=$folder",
			'installcheck' ],
		'<', \'', '>&', \$output);
	return ($? >> 8, $output);
}
