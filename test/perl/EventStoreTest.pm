# Helpers for the TAP tests of event_store: clusters, connections, concurrent
# client processes.  The checker for recorded histories is
# EventStoreTest::History.
#
# Every client of a concurrent test is a process of its own with a connection
# of its own; what it did and saw comes back to the test as a data structure.

package EventStoreTest;

use strict;
use warnings;

use Cwd ();
use File::Basename qw(dirname);

my $seed;

BEGIN
{
	# The makefile of the server's regression tests sets these; the defaults
	# allow a plain "prove test/t".
	my $pg_config = $ENV{PG_CONFIG} || 'pg_config';
	chomp(my $pgxs = `$pg_config --pgxs`);
	chomp(my $bindir = `$pg_config --bindir`);
	my $src = dirname(dirname($pgxs));

	$ENV{PG_REGRESS} ||= "$src/test/regress/pg_regress";
	$ENV{PATH} = "$bindir:$ENV{PATH}";
	push @INC, "$src/test/perl" unless grep { $_ eq "$src/test/perl" } @INC;

	# Before 15 the test modules have other names.
	my $own = dirname(Cwd::abs_path(__FILE__));
	push @INC, $own unless grep { $_ eq $own } @INC;
}

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use DBI;
use Exporter 'import';
use File::Temp ();
use IO::Handle;
use POSIX ();
use Storable ();
use Test::More;
use Time::HiRes qw(time);

our @EXPORT = qw(
  store_cluster create_store connect_store append append_batch sql_value
  sqlstate run_sql start_client wait_clients flag_set flag_is_set new_flags
  random_uuid random_int random_pause seed_random poll_until setting
  client_count store_rows fingerprint lock_leftovers use_fault_build
  connection_lost child_processes kill_clients kill_server pg_major run_program
  ANY MUST_EXIST
);

# What es_any() and es_exists() return, for parameters.
use constant { ANY => -100, MUST_EXIST => -101 };

# How long anything may take before it counts as hanging.
our $limit = $ENV{ES_TEST_LIMIT} || 120;

my %running;
my $flag_dir;

# ---------------------------------------------------------------------------
# Settings and chance

sub setting
{
	my ($name, $default) = @_;
	return defined $ENV{$name} && $ENV{$name} ne '' ? $ENV{$name} : $default;
}

# One seed per test run, printed, so that a failing run can be repeated.
sub seed_random
{
	$seed = setting('ES_SEED', int(time() * 1000) % 1_000_000_007);
	note "ES_SEED=$seed";
	srand($seed);
	return $seed;
}

sub random_int
{
	my ($low, $high) = @_;
	return $low + int(rand($high - $low + 1));
}

sub random_uuid
{
	return sprintf('%04x%04x-%04x-4%03x-%04x-%04x%04x%04x',
		(map { int(rand(65536)) } 1 .. 3),
		int(rand(4096)), 0x8000 + int(rand(0x4000)),
		(map { int(rand(65536)) } 1 .. 3));
}

# Part of a workload (a transaction held open, a reader that idles), never a
# way to wait for something.
sub random_pause
{
	my ($max_ms) = @_;
	select(undef, undef, undef, rand($max_ms) / 1000);
	return;
}

# Look every few milliseconds until the condition holds or the limit passes.
sub poll_until
{
	my ($condition, $seconds) = @_;
	my $end = time() + (defined $seconds ? $seconds : $limit);
	while (1)
	{
		my $answer = $condition->();
		return $answer if $answer;
		return 0 if time() > $end;
		select(undef, undef, undef, 0.005);
	}
}

# ---------------------------------------------------------------------------
# Clusters and connections

# Options: preload (value of shared_preload_libraries), streaming (1 or
# 'logical'), conf (more lines), no_start.
sub store_cluster
{
	my ($name, %opt) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(allows_streaming => $opt{streaming} || 0,
		extra => [ '--encoding=UTF8', '--locale=C' ]);
	$node->append_conf(
		'postgresql.conf', qq{
max_connections = 100
max_prepared_transactions = 50
shared_buffers = 64MB
max_wal_size = 1GB
log_statement = none
log_min_messages = warning
log_error_verbosity = verbose
restart_after_crash = on
deadlock_timeout = 200ms
synchronous_commit = on
hot_standby_feedback = on
max_standby_streaming_delay = 120s
});
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = '$opt{preload}'\n")
	  if $opt{preload};
	$node->append_conf('postgresql.conf', $opt{conf}) if $opt{conf};
	$node->start unless $opt{no_start};
	return $node;
}

sub create_store
{
	my ($node, $db) = @_;
	$db ||= 'postgres';
	$node->safe_psql('postgres', "CREATE DATABASE $db")
	  unless $db eq 'postgres';
	$node->safe_psql($db, 'CREATE EXTENSION event_store');
	return;
}

# Let a database use the library built with fault points.  In the normal build
# the setting does not exist, so its presence proves which one is loaded.
sub use_fault_build
{
	my ($node, $db) = @_;
	my $dir = $ENV{ES_FAULTS_LIBDIR};
	die "ES_FAULTS_LIBDIR must name the folder of event_store.so built with FAULTS=1\n"
	  unless $dir && -e "$dir/event_store.so";
	$db ||= 'postgres';
	$node->safe_psql($db,
		"UPDATE pg_catalog.pg_proc SET probin = '$dir/event_store' "
		  . "WHERE probin = '\$libdir/event_store'");
	my $dbh = connect_store($node, db => $db);
	my $found = sql_value($dbh,
		q{SELECT count(*) FROM pg_catalog.pg_settings
		  WHERE name IN ('event_store.fault', 'event_store.fault_no_barrier',
						 'event_store.fault_no_stop')});
	$dbh->disconnect;
	die "the fault build is not the one in use (found $found of its 3 settings)\n"
	  unless $found == 3;
	return;
}

# Options: db, user, fail_ok, app, isolation, options (for the server).
sub connect_store
{
	my ($node, %opt) = @_;
	my $dsn = 'dbi:Pg:dbname=' . ($opt{db} || 'postgres');
	$dsn .= ';host=' . $node->host . ';port=' . $node->port;
	$dsn .= ";application_name=$opt{app}" if $opt{app};
	$dsn .= ";options=$opt{options}" if $opt{options};
	my $dbh = eval {
		DBI->connect($dsn, $opt{user} || (getpwuid($<))[0],
			'', {
				AutoCommit => 1,
				RaiseError => 1,
				PrintError => 0,
				PrintWarn => 0,
				AutoInactiveDestroy => 1
			});
	};
	my $error = $@;
	if (!$dbh)
	{
		return undef if $opt{fail_ok};
		die "cannot connect: $error";
	}
	# Loads the library, so that its settings exist and are checked; a call
	# that is not allowed loads it too.
	eval { $dbh->do('SELECT es_head()') } unless $opt{plain};
	if (!$opt{plain} && !eval { $dbh->do('SET lock_timeout = 60000') })
	{
		die $@ unless $opt{fail_ok};
		return undef;
	}
	return $dbh;
}

sub sql_value
{
	my ($dbh, $sql, @args) = @_;
	my $row = $dbh->selectrow_arrayref($sql, undef, @args);
	return defined $row ? $row->[0] : undef;
}

# Run a statement and return its SQLSTATE, '00000' when it worked.
sub sqlstate
{
	my ($dbh, $sql, @args) = @_;
	my $done = eval {
		my $sth = $dbh->prepare($sql, { pg_server_prepare => 0 });
		$sth->execute(@args);
		if ($sth->{NUM_OF_FIELDS})
		{
			1 while $sth->fetchrow_arrayref;
		}
		1;
	};
	return $done ? '00000' : ($dbh->state || 'XXXXX');
}

sub run_sql
{
	my ($dbh, @statements) = @_;
	$dbh->do($_) for @statements;
	return;
}

sub connection_lost
{
	my ($dbh) = @_;
	return 1 unless $dbh;
	return !eval { $dbh->ping && $dbh->do('/* alive? */ SELECT 1') };
}

# State and parent of a process; nothing if there is none.
sub process
{
	my ($pid) = @_;

	open my $stat, '<', "/proc/$pid/stat" or return;
	my $line = <$stat> // '';
	# the name in parentheses may have any character
	return $line =~ /^.*\) (\S) (\d+)/s ? ($1, $2) : ();
}

# Processes whose parent is this one.
sub child_processes
{
	my ($parent) = @_;
	return grep { ((process($_))[1] // 0) == $parent } map { m{(\d+)$} } glob '/proc/[0-9]*';
}

# Kill the postmaster and everything below it, as a power cut would.
sub kill_server
{
	my ($node) = @_;
	my $postmaster =
	  (split /\n/, PostgreSQL::Test::Utils::slurp_file($node->data_dir . '/postmaster.pid'))[0];

	# stopped it cannot have another child behind our back
	kill 'STOP', $postmaster;
	poll_until(sub { ((process($postmaster))[0] // '') eq 'T' }) or die "the postmaster does not stop\n";
	my @children = child_processes($postmaster);

	# them first: who waits for a synchronous standby and sees that the
	# postmaster is gone makes his commit visible
	kill 'KILL', @children;
	$node->kill9;
	poll_until(sub { !grep { kill 0, $_ } $postmaster, @children })
	  or die "killed processes are still there\n";
	return;
}

# One event; returns { id, version, position, duplicate }.
sub append
{
	my ($dbh, $stream, $expected, $type, $id, $data) = @_;
	my $sth = $dbh->prepare_cached(
		'SELECT event_id, version, global_position, is_duplicate '
		  . 'FROM es_append($1, $2, $3, $4::jsonb, event_id => $5::uuid)',
		{}, 3);
	$sth->execute($stream, $expected, $type, defined $data ? $data : '{"n": 1}', $id);
	my $row = $sth->fetchrow_arrayref;
	my %event;
	@event{qw(id version position duplicate)} = @$row;
	$sth->finish;
	return \%event;
}

# A batch with the given ids (undef: the store makes them); returns the list.
sub append_batch
{
	my ($dbh, $stream, $expected, $type, $ids, $data) = @_;
	my @types = map { $type } @$ids;
	my @data = map { defined $data ? $data : qq({"n": $_}) } 1 .. @$ids;
	my $given = defined $ids->[0] ? $ids : undef;
	my $sth = $dbh->prepare_cached(
		'SELECT event_id, version, global_position, is_duplicate '
		  . 'FROM es_append_batch($1, $2, $3::text[], $4::jsonb[], event_ids => $5::uuid[])',
		{}, 3);
	$sth->execute($stream, $expected, \@types, \@data, $given);
	my @events;
	while (my $row = $sth->fetchrow_arrayref)
	{
		my %event;
		@event{qw(id version position duplicate)} = @$row;
		push @events, \%event;
	}
	return \@events;
}

# Everything that is committed, by plain SQL: [position, stream, version, id].
sub store_rows
{
	my ($dbh) = @_;
	return $dbh->selectall_arrayref(
		'SELECT global_position, stream_id, version, event_id '
		  . 'FROM event_store.events ORDER BY global_position');
}

# Digest of all that a store keeps.
sub fingerprint
{
	my ($dbh) = @_;
	my @parts;
	foreach my $query (
		q{SELECT e::text FROM event_store.events e ORDER BY e.global_position},
		q{SELECT t::text FROM event_store.event t ORDER BY t.global_position},
		q{SELECT t::text FROM event_store.stream t ORDER BY t.stream_no},
		q{SELECT t::text FROM event_store.event_type t ORDER BY t.type_no},
		q{SELECT t::text FROM event_store.mark t ORDER BY t.global_position},
		q{SELECT t::text FROM event_store.snapshot t
		  ORDER BY t.stream_no, t.schema_version})
	{
		push @parts,
		  sql_value($dbh,
			"SELECT count(*) || ' ' || md5(coalesce(string_agg(q.t, E'\\n'), '')) "
			  . "FROM ($query) q(t)");
	}
	return join('; ', @parts);
}

# Locks that are left although nobody else is at work.  The store's own workers
# may keep one each; and a process that just begins or ends, autovacuum's too,
# has locks and is not in pg_stat_activity.  What is left stays, so look again.
sub lock_leftovers
{
	my ($dbh) = @_;
	my $left;
	poll_until(
		sub {
			$left = sql_value(
				$dbh, q{
				SELECT coalesce(string_agg(l.locktype || ' ' || l.mode || ' pid ' ||
										   coalesce(l.pid::text, 'none'), ', '), '')
				FROM pg_catalog.pg_locks l
				WHERE l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
				  AND (l.pid IS NULL OR NOT EXISTS
					   (SELECT 1 FROM pg_catalog.pg_stat_activity a
						WHERE a.pid = l.pid AND a.backend_type <> 'client backend'))});
			return $left eq '';
		},
		10);
	return $left;
}

sub client_count
{
	my ($dbh) = @_;
	return sql_value($dbh,
		q{SELECT count(*) FROM pg_catalog.pg_stat_activity
		  WHERE backend_type = 'client backend'
			AND pid <> pg_catalog.pg_backend_pid()});
}

sub pg_major
{
	my ($node) = @_;
	return int($node->safe_psql('postgres', 'SHOW server_version_num') / 10000);
}

# Run a program with the output in the log; returns its exit code.
sub run_program
{
	my (@command) = @_;
	return PostgreSQL::Test::Utils::system_log(@command);
}

# ---------------------------------------------------------------------------
# Client processes

# A folder of flags by which the test tells its clients what has happened.
sub new_flags
{
	$flag_dir = File::Temp::tempdir('es_flags_XXXXXX', TMPDIR => 1, CLEANUP => 1);
	return;
}

sub flag_set
{
	my ($name) = @_;
	open my $file, '>', "$flag_dir/$name" or die "flag $name: $!";
	close $file;
	return;
}

sub flag_is_set
{
	my ($name) = @_;
	return -e "$flag_dir/$name";
}

# Run the code in a process of its own.  What it returns (a reference) comes
# back from wait_clients under the client's name.
sub start_client
{
	my ($name, $code) = @_;
	new_flags() unless $flag_dir;
	my $file = "$flag_dir/result.$name";
	die "client $name runs already" if $running{$name};
	my $client_seed = random_int(1, 2_000_000_000);
	my $pid = fork();
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		# Leave by _exit: the END blocks of the test modules belong to the test.
		$SIG{TERM} = 'DEFAULT';
		srand($client_seed);
		my $result = eval { $code->() };
		my $error = $@;
		$result = { error => "client $name: " . ($error || 'no result') }
		  unless ref $result;
		eval { Storable::nstore($result, "$file.new"); rename "$file.new", $file; };
		POSIX::_exit(0);
	}
	$running{$name} = { pid => $pid, file => $file };
	return $pid;
}

# Wait for the named clients (default: all).  One that hangs is ended and
# counts as an error.
sub wait_clients
{
	my (%opt) = @_;
	my @names = sort($opt{names} ? @{ $opt{names} } : keys %running);
	my $end = time() + ($opt{limit} || $limit);
	my %result;
	my @open = @names;
	while (@open)
	{
		my @still;
		foreach my $name (@open)
		{
			push @still, $name
			  if waitpid($running{$name}{pid}, POSIX::WNOHANG()) == 0;
		}
		@open = @still;
		last if time() > $end;
		select(undef, undef, undef, 0.01) if @open;
	}
	my %hung = map { $_ => 1 } @open;
	foreach my $name (@names)
	{
		my $client = delete $running{$name};
		if ($hung{$name})
		{
			kill 'KILL', $client->{pid};
			waitpid $client->{pid}, 0;
			$result{$name} = { error => "client $name: did not end in time" };
		}
		elsif (-e $client->{file})
		{
			$result{$name} = Storable::retrieve($client->{file});
		}
		else
		{
			$result{$name} = { error => "client $name: died" };
		}
		unlink $client->{file};
	}
	my @errors = grep { defined } map { $result{$_}{error} } @names;
	diag $_ for @errors;
	is(scalar(@errors), 0, $opt{test} || 'no client failed');
	return \%result;
}

sub kill_clients
{
	foreach my $name (keys %running)
	{
		kill 'KILL', $running{$name}{pid};
		waitpid $running{$name}{pid}, 0;
		delete $running{$name};
	}
	return;
}

END
{
	my $code = $?;
	kill_clients();
	$? = $code;
}

1;
