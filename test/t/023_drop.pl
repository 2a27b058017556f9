# Whoever drops the store is told how many events go with it, in a session that
# has never called it, without anything being preloaded; or is refused.  What
# drops no events says nothing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use File::Temp ();
use IPC::Run;
use Test::More;

my $node = store_cluster('drop');
my @server = ('-h', $node->host, '-p', $node->port);
my $admin = connect_store($node, plain => 1);
$admin->do('CREATE ROLE es_owner SUPERUSER LOGIN');

my %drop = (
	extension => 'DROP EXTENSION event_store CASCADE',
	'one of several' => 'DROP EXTENSION IF EXISTS nowhere, event_store CASCADE',
	'schema of the functions' => 'DROP SCHEMA es CASCADE',	# that of the tables cannot be dropped
	owned => 'DROP OWNED BY es_owner CASCADE',
	'by the language' => 'DROP EXTENSION plpgsql CASCADE');

foreach my $how (sort keys %drop)
{
	my $sql = $drop{$how};
	(my $db = "d_$how") =~ s/ /_/g;
	store($db, 3);

	like(answer($db, "BEGIN; $sql; ROLLBACK"), qr/WARNING:  .*the event store is dropped, and 3 events with it/,
		"$how: the events are counted");
	like(answer($db, 'SELECT count(*) FROM event_store.events'), qr/^3$/m, "$how: rolled back, they are there");
	$admin->do("ALTER DATABASE $db SET event_store.protect_drop = on");
	like(answer($db, $sql), qr/ERROR:  55000: cannot drop the event store, it has 3 events/, "$how: refused");
	like(answer($db, 'SELECT count(*) FROM event_store.events'), qr/^3$/m, "$how: they are there");
	like(answer($db, "SET event_store.protect_drop = off; $sql"), qr/3 events with it/, "$how: unless it is switched off");
	like(answer($db, q{SELECT count(*) FROM pg_extension WHERE extname = 'event_store'}), qr/^0$/m, "$how: gone");
}

# not everybody may switch it off, not even before the library is there
store('guarded', 1);
$admin->do('ALTER DATABASE guarded SET event_store.protect_drop = on');
$admin->do('CREATE ROLE es_nobody LOGIN');
like(answer('guarded', 'SET ROLE es_nobody; SELECT 1; SET event_store.protect_drop = off; RESET ROLE; DROP EXTENSION event_store CASCADE'),
	qr/ERROR:  55000: cannot drop/, 'a role without rights does not switch the protection off');

# nothing to say
store('empty', 0);
unlike(answer('empty', 'DROP EXTENSION event_store CASCADE'), qr/WARNING/, 'an empty store goes in silence');
store('others', 2);
unlike(answer('others', 'CREATE SCHEMA s; CREATE TABLE s.event AS SELECT 1; DROP SCHEMA s CASCADE; '
	  . 'CREATE TABLE t (); DROP OWNED BY es_nobody; CREATE EXTENSION pg_repack; DROP EXTENSION pg_repack'),
	qr/event store/, 'other things are none of its business');

# large ones are not counted to the end
store('large', 0);
my $dbh = connect_store($node, db => 'large');
append_batch($dbh, 'Large-1', ANY, 'T', [ (undef) x 10000 ]) for 1 .. 11;
$dbh->do('ANALYZE event_store.event');
$dbh->disconnect;
like(answer('large', 'DROP EXTENSION event_store CASCADE'), qr/dropped, and about 110000 events with it/,
	'of many the planner\'s number is told');

# without its library PostgreSQL cannot open a table with an index of its access
# method; with nbtree's handler in that place it can be dropped all the same
store('orphan', 2);
answer('orphan', q{UPDATE pg_proc SET probin = '$libdir/gone' WHERE probin = '$libdir/event_store'});
like(answer('orphan', 'DROP EXTENSION event_store CASCADE'), qr/ERROR:  58P01/, 'without the library the error says so');
answer('orphan', q{UPDATE pg_am SET amhandler = 'bthandler' WHERE amname = 'event_store_tags'});
unlike(answer('orphan', 'DROP EXTENSION event_store CASCADE'), qr/ERROR/, 'without the library there is no error');
like(answer('orphan', q{SELECT count(*) FROM pg_extension WHERE extname = 'event_store'}), qr/^0$/m, 'and it is gone');

# pg_restore --clean puts another store in its place; it shows warnings when it is
# verbose
store('cleaned', 4);
my $folder = File::Temp::tempdir('es_drop_XXXXXX', TMPDIR => 1, CLEANUP => 1);
is(run_program('pg_dump', @server, '-Fc', '-f', "$folder/dump", 'cleaned'), 0, 'pg_dump');
IPC::Run::run([ 'pg_restore', @server, '-v', '--clean', '--exit-on-error', '-d', 'cleaned', "$folder/dump" ],
	'>', \my $out, '2>', \my $err);
is($?, 0, 'pg_restore --clean works') or diag($err);
like($err, qr/the event store is dropped, and 4 events with it/, 'and says what it drops');
like(answer('cleaned', 'SELECT count(*) FROM event_store.events'), qr/^4$/m, 'the restored events are there');

$admin->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# A database with so many events, owned by es_owner, functions in schema es.
sub store
{
	my ($db, $events) = @_;
	$admin->do("CREATE DATABASE $db");
	my $schema = $db =~ /large/ ? 'public' : 'es';
	answer($db, 'SET ROLE es_owner; CREATE SCHEMA IF NOT EXISTS es; '
		  . "CREATE EXTENSION event_store SCHEMA $schema; "
		  . "SELECT count($schema.es_append('Order-' || n, 0, 'Placed', '{}')) FROM generate_series(1, $events) AS n");
	return;
}

# Everything that psql prints, in a session of its own.
sub answer
{
	my ($db, $sql) = @_;
	my $all = '';
	IPC::Run::run([ 'psql', '-XAt', '-v', 'VERBOSITY=verbose', @server, '-d', $db ], '<', \$sql, '>&', \$all);
	return $all;
}
