# Whoever drops the store is told how many events go with it, in a session that
# has never called it, without anything being preloaded; or is refused.  What
# drops no events says nothing.
#
# And what is done to databases while the store's workers are there: they leave,
# the command goes through, and where the store still is they come back.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Projection qw(create_model write_amounts differences caught_up);
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

foreach my $preload ('', 'event_store')
{
	workers_at_work($preload ? 'preloaded' : 'not preloaded', preload => $preload);
}
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

# ---------------------------------------------------------------------------

# Processes of ours in a database, by its OID: when it is gone it has no name.
sub workers
{
	my ($admin, $oid) = @_;
	return sql_value($admin,
		q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'event_store%' AND datid = ?}, $oid);
}

sub database_oid
{
	my ($admin, $db) = @_;
	return sql_value($admin, 'SELECT oid FROM pg_database WHERE datname = ?', $db);
}

# Append, which starts workers where there are none, until both are there.
sub brings_workers
{
	my ($node, $admin, $db) = @_;
	my $dbh = connect_store($node, db => $db);
	my $here = poll_until(
		sub {
			append($dbh, 'Acc-1', ANY, 'Added');
			return workers($admin, database_oid($admin, $db)) >= 2;
		});
	$dbh->disconnect;
	return $here;
}

# What is in it is as it was, and goes on.
sub is_sound
{
	my ($node, $admin, $title, $db, $events) = @_;
	ok(brings_workers($node, $admin, $db), "$title: its workers are there");
	my $dbh = connect_store($node, db => $db);
	caught_up($dbh, 'm');
	is(differences($dbh, 'm'), '', "$title: the read model has every event once");
	cmp_ok(sql_value($dbh, 'SELECT count(*) FROM event_store.events'), '>', $events, "$title: no event is missing");
	is(sql_value($dbh, 'SELECT count(*) FROM es_verify()'), 0, "$title: es_verify finds nothing");
	my $head = sql_value($dbh, 'SELECT es_head()');
	my $next = append($dbh, 'Acc-2', ANY, 'Added');
	is(sql_value($dbh, q{SELECT es_wait(?, '60 s')}, $head), $next->{position}, "$title: who waits is woken");
	$dbh->disconnect;
	return;
}

sub workers_at_work
{
	my ($title, %opt) = @_;
	my $node = store_cluster('databases_' . ($opt{preload} || 'plain'), preload => $opt{preload},
		conf => "event_store.projection_retry_delay = 10ms\nmax_worker_processes = 16\n");
	my $admin = connect_store($node, plain => 1);
	my $folder = File::Temp::tempdir('es_space_XXXXXX', TMPDIR => 1, CLEANUP => 1);

	$admin->do("CREATE TABLESPACE elsewhere LOCATION '$folder'");
	create_store($node, 'empty');
	create_store($node, 'busy');
	my $dbh = connect_store($node, db => 'busy');
	my $handler = create_model($dbh, 'm');
	run_sql($dbh, "SELECT es_create_projection('m', '$handler')", q{SELECT es_create_subscription('s')});
	append_batch($dbh, "Acc-$_", 0, 'Added', [ map { undef } 1 .. 20 ]) for 1 .. 5;
	$dbh->disconnect;

	# nobody else is there: they make way within the time that PostgreSQL waits
	my %command = (
		'1 rename' => [ 'ALTER DATABASE busy RENAME TO renamed', 'renamed' ],
		'2 rename back' => [ 'ALTER DATABASE renamed RENAME TO busy', 'busy' ],
		'3 tablespace' => [ 'ALTER DATABASE busy SET TABLESPACE elsewhere', 'busy' ],
		'4 and back' => [ 'ALTER DATABASE busy SET TABLESPACE pg_default', 'busy' ],
		'5 copy' => [ 'CREATE DATABASE copied TEMPLATE busy', 'busy', 'copied' ],
		'6 copy of the copy' => [ 'CREATE DATABASE again TEMPLATE copied', 'copied', 'again' ]);
	my $db = 'busy';
	foreach my $what (sort keys %command)
	{
		my ($sql, @after) = @{ $command{$what} };
		($db) = $sql =~ /(?:TEMPLATE|DATABASE) (busy|renamed|copied)$/ ? $1 : $sql =~ /DATABASE (\w+)/;
		ok(brings_workers($node, $admin, $db), "$title, $what: workers are at work in $db");
		my $guest = connect_store($node, db => $db, plain => 1);
		my $events = sql_value($guest, 'SELECT count(*) FROM event_store.events');
		if ($what =~ /^[135]/)
		{
			is(sqlstate($admin, $sql), '55006', "$title, $what, control: somebody else is in the way");
			$guest->disconnect;
			ok(brings_workers($node, $admin, $db), "$title, $what: workers are back");
		}
		$guest->disconnect;
		is(goes_through($admin, $sql), '00000', "$title, $what: it goes through");
		is_sound($node, $admin, "$title, $what", $_, $events) for @after;
	}
	my $oid = database_oid($admin, 'again');
	is(goes_through($admin, 'DROP DATABASE again'), '00000', "$title: it is dropped");
	is(workers($admin, $oid), 0, "$title: and nobody is there");

	forced($title, $node, $admin) for 1 .. setting('ES_DROP_ROUNDS', 3);
	same_oid($title, $node, $admin) if pg_major($node) >= 15;
	is(lock_leftovers($admin), '', "$title: no locks are left");
	$admin->disconnect;
	$node->stop;
	unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/PANIC|was terminated by signal|terminating any other active/,
		"$title: nothing has crashed");
	return;
}

# PostgreSQL waits five seconds for others to go; on a machine that is busy with
# other things that may be too short, but not again and again.
sub goes_through
{
	my ($admin, $sql) = @_;
	my $state;
	foreach my $attempt (1 .. 3)
	{
		$state = sqlstate($admin, $sql);
		last if $state ne '55006';
	}
	return $state;
}

# Dropped with everybody in it: writers, one who waits, a consumer, the workers.
sub forced
{
	my ($title, $node, $admin) = @_;
	my $oid = database_oid($admin, 'copied');
	new_flags();
	start_client("writer_$_", sub { write_amounts($node, 5, db => 'copied', pause => 5) }) for 1 .. 3;
	my %call = (waiter => q{SELECT es_wait(es_head(), '5 s')}, consumer => q{SELECT count(*) FROM es_fetch('s', wait => '5 s')});
	foreach my $name (sort keys %call)
	{
		start_client($name, sub {
			my ($conn, %state);
			until (flag_is_set('stop'))
			{
				$conn = connect_store($node, db => 'copied', fail_ok => 1) unless connection_lost($conn);
				$state{ $conn ? sqlstate($conn, $call{$name}) : 'none' }++;
				random_pause(5);
			}
			return { state => \%state };
		});
	}
	my $dbh = connect_store($node, db => 'copied');
	my $head = sql_value($dbh, 'SELECT es_head()');
	ok(poll_until(sub { sql_value($dbh, 'SELECT es_head()') > $head + 50 && workers($admin, $oid) >= 2 }), "$title, forced: there is load");
	$dbh->disconnect;
	is(sqlstate($admin, q{SET statement_timeout = '60 s'; DROP DATABASE copied WITH (FORCE)}), '25001',
		"$title, forced: not in a transaction");
	is(sqlstate($admin, 'DROP DATABASE copied WITH (FORCE)'), '00000', "$title, forced: it is dropped");
	flag_set('stop');
	wait_clients(test => "$title, forced: nobody hangs");
	ok(poll_until(sub { workers($admin, $oid) == 0 }, 20), "$title, forced: no worker is left");
	is(sql_value($admin, 'SELECT count(*) FROM pg_locks WHERE database = ?', $oid), 0, "$title, forced: no lock either");

	is(goes_through($admin, 'CREATE DATABASE copied TEMPLATE busy'), '00000', "$title, forced: another one of that name");
	is_sound($node, $admin, "$title, forced", 'copied', 100);
	return;
}

# A database that gets the OID of one that was dropped: nothing that is remembered
# of the old one in shared memory is taken for its own.
sub same_oid
{
	my ($title, $node, $admin) = @_;
	$admin->do('CREATE DATABASE first OID 98765 TEMPLATE empty');
	my $dbh = connect_store($node, db => 'first');
	append_batch($dbh, 'Order-1', 0, 'Placed', [ (undef) x 500 ]);
	ok(poll_until(sub { sql_value($dbh, q{SELECT es_wait(499, '1 s')}) == 500 && workers($admin, 98765) }),
		"$title, same OID: the first one has a worker, which has told its head");
	$dbh->disconnect;
	is(goes_through($admin, 'DROP DATABASE first'), '00000', "$title, same OID: the first one is dropped");

	$admin->do('CREATE DATABASE second OID 98765 TEMPLATE empty');
	$dbh = connect_store($node, db => 'second');
	my $event = append($dbh, 'Order-1', 0, 'Placed');
	is("$event->{version} $event->{position}", '1 1', "$title, same OID: the second one begins anew");
	ok(poll_until(sub { append($dbh, 'Other-1', ANY, 'Placed'); workers($admin, 98765) }), "$title, same OID: it has a worker");
	my $head = sql_value($dbh, 'SELECT es_head()');
	is(sql_value($dbh, q{SELECT es_wait(?, '300 ms')}, $head), $head, "$title, same OID: es_wait does not return the head of the first one");
	is(sql_value($dbh, q{SELECT es_wait(0, '20 s')}), $head, "$title, same OID: but its own");
	$dbh->disconnect;
	$admin->do('DROP DATABASE second WITH (FORCE)');
	return;
}
