# A stream's lock goes before its commit is on disk, and nobody is told of what
# a crash may take back.
#
# The server runs on a disk (test/disk.c) that can be held up, and of whose WAL
# only what was flushed is left after a crash: the server is killed and the
# rest of its WAL taken away.  The control is a session that does not wait for
# the disk before it reads: it sees events that are gone afterwards.
#
# Where a synchronous standby is named, which may be at any moment, commits are
# visible when it has them; the control does not heed it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use DBD::Pg ':async';
use Fcntl qw(SEEK_SET);
use Test::More;

my $crashes = setting('ES_CRASH_SERVER', 5);
my $writers = 12;
my $page = 8192;

my $libdir = $ENV{ES_FAULTS_LIBDIR};
ok($libdir && -e "$libdir/event_store.so",
	'ES_FAULTS_LIBDIR names the folder of the library with fault points')
  or BAIL_OUT('build with FAULTS=1 and set ES_FAULTS_LIBDIR');

seed_random();

# CREATE EXTENSION loads the installed library, which cannot be loaded beside
# the other one: so the store is made before that is preloaded.
my $node = store_cluster('early', conf => "wal_level = replica\nmax_wal_senders = 5\n");
create_store($node);
use_fault_build($node);
$node->stop;
$node->append_conf('postgresql.conf', "shared_preload_libraries = '$libdir/event_store'\n"
	  . "fsync = on\nwal_sync_method = fdatasync\n");

my $library = $node->basedir . '/disk.so';
my $disk = $node->basedir . '/disk';
is(run_program('cc', '-shared', '-fPIC', '-O', '-o', $library, "$FindBin::Bin/../disk.c"),
	0, 'the disk is built');
start_server();

readers_wait(0);
readers_wait(1);
ordinary_way();
queue();
standby_named($_) for 0, 1;
crashes_under_load();

is(scalar(grep { /past end of generated WAL/ } split /\n/, PostgreSQL::Test::Utils::slurp_file($node->logfile)),
	0, 'nobody has waited for WAL that there is not');
$node->stop;
standby_under_load($_) for 0, 1;
done_testing();

# ---------------------------------------------------------------------------
# The disk and the server on it

# Of the disk's file: at 0 whether it is held, at 4 its latency in
# microseconds, at 8 which record is true; two records follow at 16.
sub disk_set
{
	my ($offset, $value) = @_;
	open my $file, '+<:raw', $disk or die "$disk: $!";
	sysseek $file, $offset, SEEK_SET;
	syswrite $file, pack('L', $value);
	close $file;
	return;
}

sub hold { return disk_set(0, 1) }
sub let_go { return disk_set(0, 0) }

sub start_server
{
	open my $file, '>:raw', $disk or die "$disk: $!";
	print $file "\0" x (16 + 3 * (8 + $page));
	close $file;
	local $ENV{LD_PRELOAD} = $library;
	local $ENV{ES_DISK} = $disk;
	$node->start;
	return;
}

# The end of the flushed WAL, and its last page.
sub flushed
{
	my ($current, $record);
	open my $file, '<:raw', $disk or die "$disk: $!";
	sysseek $file, 8, SEEK_SET;
	sysread $file, $current, 4;
	sysseek $file, 16 + unpack('L', $current) * (8 + $page), SEEK_SET;
	sysread $file, $record, 8 + $page;
	close $file;
	return unpack('Q', $record), substr($record, 8);
}

# A power cut: the server is gone, and the WAL ends where it was flushed last.
sub power_cut
{
	kill_server($node);
	my ($end, $last) = flushed();
	my $size = 16 * 1024 * 1024;
	my $segment = int(($end - 1) / $size);
	my $wal = $node->data_dir . '/pg_wal';
	my $found = 0;

	opendir my $dir, $wal or die "$wal: $!";
	foreach my $name (sort grep { /^[0-9A-F]{24}$/ } readdir $dir)
	{
		my $number = hex(substr($name, 8, 8)) * 256 + hex(substr($name, 16));
		if ($number > $segment)
		{
			unlink "$wal/$name" or die "$name: $!";
		}
		elsif ($number == $segment)
		{
			open my $file, '+<:raw', "$wal/$name" or die "$name: $!";
			my $offset = $end - $page - $segment * $size;
			sysseek $file, $offset, SEEK_SET;
			syswrite $file, $last . "\0" x ($size - $offset - $page);
			close $file;
			$found++;
		}
	}
	closedir $dir;
	is($found, 1, 'the WAL is cut off where it was flushed last');
	return;
}

# ---------------------------------------------------------------------------
# Sessions that wait

# Begin a statement in a session of its own, or in the one given.
sub begin
{
	my ($session, $sql) = @_;
	$session->{dbh}->do($sql, { pg_async => PG_ASYNC });
	return $session;
}

sub session
{
	my (%opt) = @_;
	my $dbh = connect_store($node, %opt);
	return { dbh => $dbh, pid => sql_value($dbh, 'SELECT pg_catalog.pg_backend_pid()') };
}

# What came of the statement: its SQLSTATE.
sub finish
{
	my ($session) = @_;
	return eval { $session->{dbh}->pg_result; 1 } ? '00000' : $session->{dbh}->state;
}

sub activity
{
	my ($watch, $session) = @_;
	return sql_value($watch, q{SELECT wait_event_type || ' ' || wait_event
		FROM pg_catalog.pg_stat_activity WHERE pid = $1}, $session->{pid}) || '';
}

sub ready
{
	my ($session) = @_;
	return $session->{dbh}->pg_ready;
}

sub waits_for_lock
{
	my ($watch, $session) = @_;
	return poll_until(
		sub {
			return sql_value($watch, 'SELECT count(*) FROM pg_catalog.pg_locks WHERE pid = $1 AND NOT granted',
				$session->{pid}) == 1;
		});
}

# It waits before that, in the store's own queue (log/queue.c).
sub is_queued
{
	my ($watch, $session) = @_;
	return poll_until(sub { activity($watch, $session) eq 'Lock advisory' })
	  && sql_value($watch, 'SELECT count(*) FROM pg_catalog.pg_locks WHERE pid = $1 AND NOT granted',
		$session->{pid}) == 0;
}

# It waits for the disk, or has not.
sub waits_for_disk
{
	my ($watch, $session) = @_;
	my $waits = 0;
	poll_until(
		sub {
			return 1 if ready($session);
			return $waits = activity($watch, $session) =~ /^(?:LWLock WALWrite|IO WALSync)/i;
		});
	return $waits && !ready($session);
}

# ---------------------------------------------------------------------------

# Every way in which something of an event can be told, while the event is
# visible and not on disk.  $crash: then the power is cut.
sub readers_wait
{
	my ($crash) = @_;
	my $case = $crash ? 'power cut' : 'released';
	my $dbh = connect_store($node);
	my $own = "Early$crash";
	my %id = map { $_ => random_uuid() } 1 .. 6;

	append($dbh, "$own-$_", ANY, 'T', random_uuid()) for 1 .. 6;
	append($dbh, "Quiet$crash-1", ANY, 'T', random_uuid());
	run_sql($dbh,
		"CREATE TABLE other$crash (n int)",
		"INSERT INTO other$crash VALUES (1)",
		"SELECT es_create_subscription('sub$crash', after_position => es_head())");
	my $head = sql_value($dbh, 'SELECT es_head()');

	my $watch = connect_store($node);
	my $control = connect_store($node);
	$control->do('SET event_store.fault_no_flush = on');
	my ($first, @next) = map { session() } 1 .. 4;
	my $old = session();
	run_sql($old->{dbh}, 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT 1');
	$_->do('SET application_name = watch') for $watch, $control;

	my %read = (
		'es_read_stream, a scan' => "SELECT version FROM es_read_stream('$own-1')",
		'es_read_stream, backward' => "SELECT version FROM es_read_stream('$own-1', backward => true)",
		'es_read_stream, a function' => "SET event_store.enable_eventscan = off; SELECT version FROM es_read_stream('$own-1')",
		'es_read_all' => "SELECT * FROM es_read_all($head)",
		'es_read_all, backward' => "SELECT * FROM es_read_all(max_count => 1, backward => true)",
		'es_read_all, a function' => "SET event_store.enable_eventscan = off; SELECT * FROM es_read_all($head)",
		'es_read_category' => "SELECT * FROM es_read_category('$own')",
		'es_read_query' => qq{SELECT * FROM es_read_query('{"items": [{"event_types": ["T"]}]}', $head)},
		'es_read_event' => "SELECT * FROM es_read_event('$id{1}')",
		'es_stream_version' => "SELECT es_stream_version('$own-1')",
		'es_load' => "SELECT * FROM es_load('$own-1')",
		'es_verify' => "SELECT * FROM es_verify('$own-1')",
		'es_snapshot' => "SELECT es_snapshot('$own-1', 2, '{}')",
		'es_head' => 'SELECT es_head()',
		'es_wait' => "SELECT es_wait($head, '0 s')",
		'es_fetch' => "SELECT * FROM es_fetch('sub$crash')",
		'view events' => "SELECT max(version) FROM event_store.events WHERE stream_id = '$own-1'",
		'view categories' => 'SELECT * FROM event_store.categories',
		'view status' => 'SELECT * FROM event_store.status',
		'table event' => 'SELECT max(global_position) FROM event_store.event',
		'table stream' => 'SELECT count(*) FROM event_store.stream',
		'a cursor' => "BEGIN; DECLARE c CURSOR FOR SELECT * FROM event_store.events; FETCH ALL FROM c",
		'a function of PL/pgSQL' => 'DO $$ BEGIN PERFORM max(global_position) FROM event_store.event; END $$',
		'CREATE TABLE AS' => "CREATE TEMP TABLE copied AS TABLE event_store.event",
		'COPY of a table' => 'COPY event_store.event TO STDOUT',
		'COPY of a query' => 'COPY (SELECT * FROM event_store.event) TO STDOUT',
		'VE001' => "SELECT es_append('$own-2', 0, 'T', '{}')",
		'a duplicate' => "SELECT es_append('$own-3', es_any(), 'T', '{\"n\": 1}', event_id => '$id{3}')",
		'VE002' => "SELECT es_append('Else$crash-1', es_any(), 'T', '{}', event_id => '$id{3}')",
		'a stream that is only checked' => qq{SELECT es_append_streams('[{"stream_id": "$own-5", "expected_version": 2}]')},
		'VE007' => qq{SELECT es_append_if('[{"stream_id": "Else$crash-2", "event_type": "T", "data": {}}]', '{"items": [{"event_types": ["T"]}]}', $head)},
	);
	my @status = ('pg_xact_status', 'txid_status');
	my %session = map { $_ => session() } keys %read, @status;

	# The first one goes, and those who wait for it, one after the other; the
	# last one ends without a commit, so that the streams are free.
	$first->{dbh}->do('BEGIN');
	append($first->{dbh}, "$own-$_", ANY, 'T', $id{$_}) for 1 .. 6;
	my $xid = sql_value($watch, 'SELECT backend_xid FROM pg_catalog.pg_stat_activity WHERE pid = $1', $first->{pid});
	$read{$_} = "SELECT pg_catalog.$_('$xid')" for @status;
	$next[2]->{dbh}->do('BEGIN');
	foreach my $next (@next)
	{
		begin($next, "SELECT es_append('$own-1', es_any(), 'T', '{\"n\": 1}')");
		ok(waits_for_lock($watch, $next), "$case: the next one waits for the stream");
	}
	hold();
	begin($first, 'COMMIT');
	ok(poll_until(sub { ready($next[2]) }), "$case: the last one gets the stream");
	is(finish($next[2]), '00000', "$case: and appends");
	$next[2]->{dbh}->do('ROLLBACK');
	ok(waits_for_disk($watch, $_), "$case: whoever went early waits for the disk")
	  for $first, @next[ 0, 1 ];
	is( sql_value($control,
			"SELECT max(version) FROM event_store.events WHERE stream_id = '$own-1'"),
		4, "$case: control: who does not wait sees what is not on disk");
	is(sql_value($control, "SELECT es_stream_version('$own-1')"), 4, "$case: control: functions too");

	# nobody else waits
	is(sql_value($watch, "SELECT count(*) FROM other$crash"), 1, "$case: other tables are not held up");
	is(sql_value($watch, "SELECT count(*) FROM es_read_stream('Quiet$crash-1')"), 1,
		"$case: nor are streams that are on disk");
	is(sql_value($watch, 'SELECT count(*) FROM (SELECT * FROM es_read_all(0, 3)) e'), 3,
		"$case: nor is what is on disk of the global order");

	begin($session{$_}, $read{$_}) for sort keys %read;
	begin($old, "SELECT es_append('$own-4', es_any(), 'T', '{}')");
	ok(waits_for_disk($watch, $session{$_}), "$case: $_ waits for the disk") for sort keys %read;
	ok(waits_for_disk($watch, $old), "$case: 40001 waits for the disk");

	if ($crash)
	{
		power_cut();
		start_server();
		$dbh = connect_store($node);
		is(sql_value($dbh, "SELECT es_stream_version('$own-1')"),
			1, "$case: what the control has seen is gone");
		is(sql_value($dbh, 'SELECT es_head()'), $head, "$case: nothing else is");
		is(append($dbh, "$own-1", 1, 'T', random_uuid())->{version}, 2, "$case: the stream goes on");
		return;
	}

	let_go();
	is(finish($_), '00000', "$case: the appender gets the answer") for $first, @next[ 0, 1 ];
	my %state = ('VE001' => 'VE001', 'VE002' => 'VE002', 'VE007' => 'VE007');
	foreach my $name (sort grep { !/^COPY/ } keys %read)
	{
		is(finish($session{$name}), $state{$name} || '00000', "$case: $name gets the answer");
	}
	is(finish($old), '40001', "$case: so does who has an old snapshot");
	is(sql_value($watch, "SELECT es_stream_version('$own-1')"), 4, "$case: all are there");
	return;
}

# ---------------------------------------------------------------------------

# Who has done something else that others can see, or has to wait for more than
# the disk, keeps the lock until the commit is on disk.
sub ordinary_way
{
	my $watch = connect_store($node);
	my $number = 0;
	run_sql($watch, 'CREATE TABLE beside (n int)', 'INSERT INTO beside VALUES (0)',
		'CREATE UNLOGGED TABLE unlogged (n int)');

	my %case = (
		'an append' => [ 1, [], [] ],
		'a second append' => [ 1, [], ["SELECT es_append('Second-1', es_any(), 'T', '{}')"] ],
		'a read' => [ 1, ['SELECT count(*) FROM beside'], ['SELECT es_head()'] ],
		'a version conflict that was caught' => [ 0, [],
			[ q{DO $$ BEGIN PERFORM es_append('Caught-1', 7, 'T', '{}');
			  EXCEPTION WHEN SQLSTATE 'VE001' THEN NULL; END $$} ] ],
		'synchronous_commit = off' => [ 1, ['SET LOCAL synchronous_commit = off'], [] ],
		'a row before' => [ 0, ['INSERT INTO beside VALUES (1)'], [] ],
		'a row after' => [ 0, [], ['INSERT INTO beside VALUES (1)'] ],
		'a lock of a row after' => [ 0, [], ['SELECT * FROM beside LIMIT 1 FOR UPDATE'] ],
		'a row between' => [ 0, [], [ 'INSERT INTO beside VALUES (1)', "SELECT es_append('Second-1', es_any(), 'T', '{}')" ] ],
		'a row that was rolled back' => [ 0, [], [ 'SAVEPOINT s', 'INSERT INTO beside VALUES (1)', 'ROLLBACK TO s' ] ],
		'a row that is not logged' => [ 0, [], ['INSERT INTO unlogged VALUES (1)'] ],
		'a table' => [ 0, [], ["CREATE TABLE made (n int)"] ],
		'NOTIFY' => [ 0, [], ["NOTIFY somebody"] ],
		'pg_notify' => [ 0, ["SELECT pg_catalog.pg_notify('somebody', '')"], [] ],
		'the id, before' => [ 0, ['SELECT pg_catalog.txid_current()'], [] ],
		'the id, after' => [ 0, [], ['SELECT pg_catalog.pg_current_xact_id_if_assigned()'] ],
		'an import' => [ 0, [],
			[q{SELECT es_import($q$SELECT 'Import-1' AS stream_id, 'T' AS event_type, '{}'::jsonb AS data$q$)}] ],
		'the setting' => [ 0, ['SET LOCAL event_store.early_lock_release = off'], [] ],
	);
	foreach my $name (sort keys %case)
	{
		my ($early, $before, $after) = @{ $case{$name} };
		my $stream = 'Ordinary-' . ++$number;
		my ($one, $two) = map { session() } 1 .. 2;
		append($watch, $stream, ANY, 'T', random_uuid());

		run_sql($one->{dbh}, 'BEGIN', @$before,
			"SELECT es_append('$stream', es_any(), 'T', '{}')");
		begin($two, "SELECT es_append('$stream', es_any(), 'T', '{}')");
		ok(waits_for_lock($watch, $two), "$name: another one waits");
		run_sql($one->{dbh}, @$after);
		hold();
		begin($one, 'COMMIT');
		ok(waits_for_disk($watch, $one), "$name: the commit waits for the disk");
		is( sql_value($watch, 'SELECT count(*) FROM pg_catalog.pg_locks WHERE pid = $1 AND NOT granted',
				$two->{pid}),
			$early ? 0 : 1, $name . ($early ? ': the stream is free' : ': the stream is locked until then'));
		let_go();
		is(finish($one), '00000', "$name: the commit is answered");
		is(finish($two), '00000', "$name: and the next one");
		is(sql_value($one->{dbh}, 'SHOW synchronous_commit'), 'on', "$name: synchronous_commit is what it was");
		$_->{dbh}->disconnect for $one, $two;
	}
	is(sql_value($watch, 'SELECT count(*) FROM beside'), 4, 'the rows are there');
	$watch->disconnect;
	return;
}

# ---------------------------------------------------------------------------

# Who waits for a stream outside the lock manager.  Those here would wait for
# ever: whatever gives up the lock has to wake them.
sub queue
{
	my $watch = connect_store($node);
	my $number = 0;
	my %case = (
		'a commit' => [ [], sub { $_[0]->{dbh}->do('COMMIT') } ],
		'a rollback' => [ [], sub { $_[0]->{dbh}->do('ROLLBACK') } ],
		'an error' => [ [], sub { eval { $_[0]->{dbh}->do('SELECT 1/0') }; $_[0]->{dbh}->do('ROLLBACK') } ],
		'a session that is ended' => [ [], sub { $watch->do("SELECT pg_catalog.pg_terminate_backend($_[0]->{pid})") } ],
		'a rollback to a savepoint' => [ ['SAVEPOINT s'], sub { $_[0]->{dbh}->do('ROLLBACK TO s') } ],
		'one of many streams' => [ [ map { "SELECT es_append('Many-$_', es_any(), 'T', '{}')" } 1 .. 9 ],
			sub { $_[0]->{dbh}->do('COMMIT') } ],
	);
	append($watch, "Many-$_", ANY, 'T', random_uuid()) for 1 .. 9;
	foreach my $name (sort keys %case)
	{
		my ($before, $end) = @{ $case{$name} };
		my $stream = 'Queue-' . ++$number;
		my ($one, $two) = map { session() } 1 .. 2;
		append($watch, $stream, ANY, 'T', random_uuid());

		run_sql($one->{dbh}, 'BEGIN', @$before, "SELECT es_append('$stream', es_any(), 'T', '{}')");
		run_sql($two->{dbh}, 'SET lock_timeout = 0', 'SET event_store.fault_queue_ms = 1000000000');
		begin($two, "SELECT es_append('$stream', es_any(), 'T', '{}')");
		ok(is_queued($watch, $two), "queue, $name: another one waits");
		$end->($one);
		ok(poll_until(sub { ready($two) }), "queue, $name: and is woken");
		is(finish($two), '00000', "queue, $name: it appends");
		$_->{dbh}->disconnect for $one, $two;
	}

	# a stream that is being made: its row is waited for instead
	my ($one, $two) = map { session() } 1 .. 2;
	$one->{dbh}->do(q{SET event_store.fault = 'stream_locked:pause=3000'});
	$one->{dbh}->do('BEGIN');
	begin($one, q{SELECT es_append('Queue-new', es_any(), 'T', '{}')});
	ok(poll_until(sub { sql_value($watch, q{SELECT count(*) FROM pg_catalog.pg_locks
		WHERE pid = $1 AND locktype = 'advisory'}, $one->{pid}) }), 'queue, a new stream: one makes it');
	run_sql($two->{dbh}, 'SET lock_timeout = 0', 'SET event_store.fault_queue_ms = 1000000000');
	begin($two, q{SELECT es_append('Queue-new', es_any(), 'T', '{}')});
	ok(poll_until(sub { activity($watch, $two) eq 'Lock transactionid' }),
		'queue, a new stream: another one waits for its row');
	is(finish($one), '00000', 'queue, a new stream: it is made');
	$one->{dbh}->do('COMMIT');
	is(finish($two), '00000', 'queue, a new stream: the other one appends');
	$_->{dbh}->disconnect for $one, $two;

	# one that is not made after all, and one of which was only seen that it is not there
	($one, $two) = map { session() } 1 .. 2;
	$one->{dbh}->do(q{SET event_store.fault = 'stream_locked:pause=3000'});
	begin($one, q{SELECT es_append('Queue-none', 5, 'T', '{}')});
	ok(poll_until(sub { sql_value($watch, q{SELECT count(*) FROM pg_catalog.pg_locks
		WHERE pid = $1 AND locktype = 'advisory'}, $one->{pid}) }), 'queue, no stream: one wants it to be there');
	run_sql($two->{dbh}, 'SET lock_timeout = 0', 'SET event_store.fault_queue_ms = 1000000000');
	begin($two, q{SELECT es_append('Queue-none', es_any(), 'T', '{}')});
	ok(is_queued($watch, $two), 'queue, no stream: another one waits');
	is(finish($one), 'VE001', 'queue, no stream: the first one fails');
	ok(poll_until(sub { ready($two) }), 'queue, no stream: the other one is woken');
	is(finish($two), '00000', 'queue, no stream: it appends');

	run_sql($one->{dbh}, 'RESET event_store.fault', 'BEGIN',
		q{SELECT es_append_streams('[{"stream_id": "Queue-checked", "expected_version": 0}]')});
	begin($two, q{SELECT es_append('Queue-checked', es_any(), 'T', '{}')});
	ok(is_queued($watch, $two), 'queue, checked: another one waits');
	$one->{dbh}->do('COMMIT');
	ok(poll_until(sub { ready($two) }), 'queue, checked: and is woken');
	is(finish($two), '00000', 'queue, checked: it appends');
	$_->{dbh}->disconnect for $one, $two;

	# nobody says so: after a while they wait in the lock manager
	($one, $two) = map { session() } 1 .. 2;
	append($watch, 'Queue-0', ANY, 'T', random_uuid());
	run_sql($one->{dbh}, 'BEGIN', q{SELECT es_append('Queue-0', es_any(), 'T', '{}')}, "PREPARE TRANSACTION 'queue'");
	begin($two, q{SELECT es_append('Queue-0', es_any(), 'T', '{}')});
	ok(waits_for_lock($watch, $two), 'queue, prepared: another one waits in the lock manager');
	$watch->do("COMMIT PREPARED 'queue'");
	is(finish($two), '00000', 'queue, prepared: it appends');

	# Whoever dies there is not counted any more: the lock that nobody waits for is
	# held until the commit is on disk.
	foreach my $how (qw(error fatal))
	{
		($one, $two, my $three) = map { session() } 1 .. 3;
		run_sql($one->{dbh}, 'BEGIN', q{SELECT es_append('Queue-0', es_any(), 'T', '{}')});
		$two->{dbh}->do("SET event_store.fault = 'queued:$how'");
		begin($two, q{SELECT es_append('Queue-0', es_any(), 'T', '{}')});
		ok(poll_until(sub { ready($two) }), "queue, $how: one in the queue dies");
		isnt(finish($two), '00000', "queue, $how: by an error");
		hold();
		begin($one, 'COMMIT');
		ok(waits_for_disk($watch, $one), "queue, $how: the commit waits for the disk");
		begin($three, q{SELECT es_append('Queue-0', es_any(), 'T', '{}')});
		ok(waits_for_lock($watch, $three), "queue, $how: and has the lock");
		let_go();
		is(finish($one), '00000', "queue, $how: the commit is answered");
		is(finish($three), '00000', "queue, $how: the next one appends");
	}
	$watch->disconnect;
	return;
}

# ---------------------------------------------------------------------------

# Have the server wait for these standbys, or for none; $dbh is a session that
# will know.
sub name_standbys
{
	my ($server, $dbh, $names) = @_;
	run_sql($dbh, "ALTER SYSTEM SET synchronous_standby_names = '$names'", 'SELECT pg_reload_conf()');
	poll_until(
		sub {
			my $new = connect_store($server, plain => 1);
			my $set = sql_value($new, 'SHOW synchronous_standby_names');
			$new->disconnect;
			return $set eq $names;
		}) or die 'the setting is not read';

	# the checkpointer tells all, and before it does what it is asked to
	$dbh->do('CHECKPOINT') for 1 .. 2;
	return;
}

# A session waits for a stream since before a standby is named, so it has not
# read the setting anew when its turn comes; others wait behind it.
sub standby_named
{
	my ($ignored) = @_;
	my $case = $ignored ? 'control: a standby that is not heeded' : 'a standby that is named meanwhile';
	my $stream = "Standby-$ignored";
	my $watch = connect_store($node);
	my ($first, $second, $third) = map { session() } 1 .. 3;
	my $visible = sub {
		sql_value($watch, q{SELECT count(*) - 1 FROM event_store.events WHERE stream_id = ?}, $stream);
	};

	my $committing = sub {
		return scalar grep { activity($watch, $_) eq 'IPC SyncRep' } $second, $third;
	};

	append($watch, $stream, ANY, 'T', random_uuid());
	$watch->do('SET synchronous_commit = local');
	foreach my $next ($ignored ? ($second, $third) : ())
	{
		$next->{dbh}->do('SET event_store.fault_no_standby = on');
	}
	$first->{dbh}->do('BEGIN');
	append($first->{dbh}, $stream, ANY, 'T', random_uuid());
	foreach my $next ($second, $third)
	{
		# in the queue, so that it is counted when the other one commits
		run_sql($next->{dbh}, 'SET lock_timeout = 0', 'SET event_store.fault_queue_ms = 1000000000');
		begin($next, "SELECT es_append('$stream', es_any(), 'T', '{}')");
		ok(is_queued($watch, $next), "$case: one waits for the stream");
	}
	name_standbys($node, $watch, 'nobody');
	$first->{dbh}->do('ROLLBACK');
	ok(poll_until($committing), "$case: whoever comes first waits for it");
	is($visible->(), $ignored, "$case: his event is " . ($ignored ? '' : 'not ') . 'visible by then');
	is($committing->(), 1, "$case: nor has the other one the stream") unless $ignored;

	name_standbys($node, $watch, '');
	is(finish($_), '00000', "$case: named no longer it is answered") for $second, $third;
	is($visible->(), 2, "$case: and visible");
	$_->disconnect for $watch, map { $_->{dbh} } $first, $second, $third;
	return;
}

# Standbys are named, and none, and named again, while many append to few streams
# and many read.  Then the standby gets nothing more, and when nothing moves any
# longer the primary is gone: all that anybody was told is on the standby.
sub standby_under_load
{
	my ($ignored) = @_;
	my $case = $ignored ? 'control: a standby that is not heeded' : 'standbys under load';
	my $primary = store_cluster("sync_primary_$ignored", streaming => 1);
	create_store($primary);
	use_fault_build($primary);
	$primary->append_conf('postgresql.conf', "shared_preload_libraries = '$libdir/event_store'\n");
	$primary->restart;
	$primary->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new("sync_standby_$ignored");
	$standby->init_from_backup($primary, 'base', has_streaming => 1);
	$standby->start;
	my $dbh = connect_store($primary);
	$dbh->do('SET synchronous_commit = local');
	$dbh->do(q{SELECT es_create_subscription('hot')});

	my %reader = (
		follower => q{SELECT global_position, event_id FROM es_read_all($1, 100000)},
		view => q{SELECT global_position, event_id FROM event_store.events WHERE global_position > $1},
		subscriber => q{WITH f AS (SELECT * FROM es_fetch('hot') WHERE global_position > $1),
			a AS (SELECT es_ack('hot', max(global_position)) FROM f HAVING count(*) > 0)
			SELECT global_position, event_id FROM f LEFT JOIN a ON true});
	# its checkpoint waits for the standby, too
	delete $reader{subscriber} if $ignored;
	my @fault = $ignored ? ('SET event_store.fault_no_standby = on') : ();
	new_flags();
	start_client("writer_$_", sub { write_hot($primary, @fault) }) for 1 .. $writers;
	start_client("reader_$_", sub { read_hot($reader{$_}, 0, $primary) }) for sort keys %reader;
	my $events = sub {
		my ($more) = @_;
		my $head = sql_value($dbh, 'SELECT es_head()');
		return poll_until(sub { sql_value($dbh, 'SELECT es_head()') >= $head + $more });
	};
	foreach my $round (1 .. 3)
	{
		$events->(random_int(50, 200)) or die 'there is no load';
		name_standbys($primary, $dbh, '*');
		$events->(random_int(50, 200)) or die 'there is no load with a standby';
		name_standbys($primary, $dbh, '') if $round < 3;
	}
	pass("$case: there is load, with a standby and without");

	# the walreceiver is gone with it
	$standby->stop('immediate');
	ok( poll_until(
			sub {
				return sql_value($dbh,
					q{SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE application_name = 'writer'
					  AND (wait_event = 'SyncRep' OR wait_event_type = 'Lock')}) == $writers;
			}),
		"$case: nothing moves");
	# who reads may read what is visible now
	my $seen = sql_value($dbh, 'SELECT max(global_position) FROM event_store.event');
	my $reads = q{SELECT reads FROM event_store.statistics};
	my $before = sql_value($dbh, $reads);
	poll_until(sub { sql_value($dbh, $reads) > $before + 20 });
	$dbh->disconnect;
	kill_server($primary);
	my $result = wait_clients(test => "$case: no client failed");

	$standby->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
	$standby->start;
	$standby->promote;
	$dbh = connect_store($standby);
	poll_until(sub { sql_value($dbh, 'SELECT NOT pg_is_in_recovery()') });
	my $there = $dbh->selectall_hashref('SELECT global_position, event_id FROM event_store.event', 'global_position');
	my %count = (told => 0, missing => 0);
	foreach my $event (map { @{ $_->{events} || [] } } values %$result)
	{
		$count{told}++;
		$count{missing}++ if ($there->{ $event->[0] }{event_id} || '') ne $event->[1];
	}
	note "$case: told of $count{told}, of which $count{missing} are missing; visible were positions up to $seen";
	cmp_ok($count{told}, '>', 500, "$case: the clients were told of events");
	if ($ignored)
	{
		cmp_ok($count{missing}, '>', 0, "$case: somebody was told of what the standby does not have");
	}
	else
	{
		is($count{missing}, 0, "$case: every event that anybody was told of is on the standby");
		is(sql_value($dbh, 'SELECT count(*) FROM event_store.event WHERE global_position = ?', $seen), 1,
			"$case: so is the last one that was visible");
		is(sql_value($dbh, 'SELECT count(*) FROM es_verify()'), 0, "$case: es_verify finds nothing");
	}
	$dbh->disconnect;
	$standby->stop;
	return;
}

# ---------------------------------------------------------------------------

# Many who append to few streams, many who read in every way, and power cuts.
sub crashes_under_load
{
	my $dbh = connect_store($node);
	my $lost = 0;

	run_sql($dbh,
		'CREATE TABLE model (position bigint PRIMARY KEY, id uuid)',
		q{CREATE FUNCTION keep(e es_event) RETURNS void LANGUAGE sql AS
		  'INSERT INTO model VALUES ((e).global_position, (e).event_id)'},
		q{SELECT es_create_projection('model', 'keep(es_event)', after_position => es_head())},
		q{SELECT es_create_subscription('hot', after_position => es_head())});

	my %reader = (
		follower => q{SELECT global_position, event_id FROM es_read_all($1, 100000)},
		function => q{SELECT global_position, event_id FROM es_read_stream('Hot-1', backward => true, max_count => 20)
			WHERE global_position > $1},
		view => q{SELECT global_position, event_id FROM event_store.events WHERE global_position > $1},
		table => q{SELECT global_position, event_id FROM event_store.event WHERE global_position > $1},
		model => q{SELECT position, id FROM model WHERE position > $1},
		subscriber => q{WITH f AS (SELECT * FROM es_fetch('hot') WHERE global_position > $1),
			a AS (SELECT es_ack('hot', max(global_position)) FROM f HAVING count(*) > 0)
			SELECT global_position, event_id FROM f LEFT JOIN a ON true},
		waiter => q{SELECT es_wait($1, '1 s'), NULL},
		head => q{SELECT es_head(), NULL WHERE $1::bigint IS NOT NULL},
	);

	foreach my $round (1 .. $crashes)
	{
		my $case = "crash $round";
		my $head = sql_value($dbh, 'SELECT es_head()');
		my $control = connect_store($node, app => 'control');
		$control->do('SET event_store.fault_no_flush = on');
		disk_set(4, random_int(1, 4) * 1000);
		new_flags();
		start_client("writer_$_", sub { write_hot($node) }) for 1 .. $writers;
		start_client("reader_$_", sub { read_hot($reader{$_}, $head, $node) }) for sort keys %reader;
		start_client('listener', \&listen_hot);

		my $wanted = $head + random_int(500, 1500);
		ok(poll_until(sub { sql_value($dbh, 'SELECT es_head()') > $wanted }), "$case: there is load before it");
		hold();

		# until every writer waits for another one, or for the disk
		my $seen;
		ok( poll_until(
				sub {
					return sql_value($control,
						q{SELECT count(*) FROM pg_catalog.pg_stat_activity
						  WHERE application_name = 'writer' AND wait_event_type IN ('Lock', 'LWLock', 'IO')}) == $writers;
				}),
			"$case: nothing moves");
		$seen = sql_value($control, 'SELECT max(global_position) FROM event_store.event');
		power_cut();
		$_->disconnect for $control, $dbh;
		start_server();
		let_go();

		my $result = wait_clients(test => "$case: no client failed");
		$dbh = connect_store($node);
		my $there = $dbh->selectall_hashref(
			'SELECT global_position, event_id FROM event_store.events', 'global_position');
		my $last = sql_value($dbh, 'SELECT max(global_position) FROM event_store.event');
		my ($missing, $told, $ahead) = (0, 0, 0);
		foreach my $client (values %$result)
		{
			foreach my $event (@{ $client->{events} || [] })
			{
				my ($position, $id) = @$event;
				$told++;
				$ahead++ if $position > $last;
				$missing++ if defined $id && ($there->{$position}{event_id} || '') ne $id;
			}
		}
		note "$case: told of $told, the control saw " . ($seen - $last) . ' positions more than there are';
		cmp_ok($told, '>', 500, "$case: the clients were told of events");
		is($missing, 0, "$case: every event that anybody was told of is there");
		is($ahead, 0, "$case: nobody was told of a position that was not reached");
		is( sql_value($dbh, 'SELECT count(*) FROM model m WHERE NOT EXISTS
				(SELECT FROM event_store.events e WHERE e.global_position = m.position AND e.event_id = m.id)'),
			0, "$case: the projection has nothing that is not in the store");
		is( sql_value($dbh, q{SELECT count(*) FROM (SELECT stream_id FROM event_store.events
				GROUP BY 1 HAVING max(version) <> count(*)) s}),
			0, "$case: no stream has a hole");
		$lost++ if $seen > $last;
	}
	cmp_ok($lost, '>', 0, 'control: who does not wait for the disk was told of what is gone');
	disk_set(4, 0);
	$dbh->disconnect;
	return;
}

# The clients go on until the server is gone, and tell what they were told:
# [position, id].

sub write_hot
{
	my ($server, @settings) = @_;
	my @events;
	my $dbh = connect_store($server, app => 'writer');
	run_sql($dbh, @settings);

	# visible, and no reader knows where its commit record ends
	$dbh->do("SET event_store.fault = 'commit_ended:pause=2\@20'") if random_int(0, 1);
	while (1)
	{
		my $event = eval { append($dbh, 'Hot-' . random_int(1, 2), ANY, 'T', random_uuid()) };
		last unless $event;
		push @events, [ @$event{qw(position id)} ];
	}
	die $@ unless connection_lost($dbh);
	return { events => \@events };
}

sub read_hot
{
	my ($query, $after, $server) = @_;
	my (@events, $rows);
	my $dbh = connect_store($server, app => 'reader');
	while ($rows = eval { $dbh->selectall_arrayref($query, undef, $after) })
	{
		push @events, @$rows;
		foreach my $row (@$rows)
		{
			$after = $row->[0] if $row->[0] > $after;
		}
	}
	die $@ unless connection_lost($dbh);
	return { events => \@events };
}

sub listen_hot
{
	my @events;
	my $dbh = connect_store($node, app => 'listener');
	$dbh->do('LISTEN event_store');
	while (
		eval {
			$dbh->do('SELECT 1');
			while (my $notify = $dbh->pg_notifies)
			{
				push @events, [ $notify->[2], undef ];
			}
			1;
		})
	{
		random_pause(2);
	}
	die $@ unless connection_lost($dbh);
	return { events => \@events };
}
