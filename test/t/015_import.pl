# es_import: killed in the middle nothing is there, and it can be started
# again; its memory does not grow with the rows; what is running is shown; and
# consumers that wait are woken when it is over, not before.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use DBD::Pg qw(:async);
use Test::More;

my $rows = setting('ES_IMPORT_ROWS', 100_000);

seed_random();
my $node = store_cluster('import', preload => 'event_store');
create_store($node);
my $dbh = connect_store($node);
run_sql($dbh, 'CREATE TABLE source AS
	SELECT n, ' . q{'Old-' || n % 5000 AS stream_id, n / 5000 + 1 AS version, 'Happened' AS event_type,
		   jsonb_build_object('n', n, 'filling', repeat('x', 200)) AS data, md5(n::text)::uuid AS event_id
	  FROM generate_series(0, } . ($rows - 1) . ') n');
my $import = q{SELECT es_import('SELECT stream_id, version, event_type, data, event_id FROM source ORDER BY n')};

killed_in_the_middle($_) for qw(TERM KILL);
places();
memory();
order_and_wakeup();
more_than_are_shown();

$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub counts
{
	return join ' ', map { sql_value($dbh, "SELECT count(*) FROM event_store.$_") } qw(event stream event_type mark);
}

# Terminated, or killed with the whole server, when half of it is written.
sub killed_in_the_middle
{
	my ($signal) = @_;
	my $before = counts();
	my $importer = connect_store($node);
	my $pid = sql_value($importer, 'SELECT pg_backend_pid()');
	my $shown;

	is(sql_value($dbh, 'SELECT count(*) FROM event_store.import_progress'), 0, "$signal: no import is shown");
	$importer->do($import, { pg_async => PG_ASYNC });
	ok( poll_until(
			sub {
				$shown = $dbh->selectrow_hashref('SELECT *, started_at <= clock_timestamp() AS begun FROM event_store.import_progress');
				$shown && $shown->{events} >= $rows / 4;
			}),
		"$signal: a part is written");
	is($shown->{pid}, $pid, "$signal: its process");
	ok($shown->{begun} && $shown->{events} < $rows && $shown->{events_per_second} > 0, "$signal: its figures");
	is(counts(), $before, "$signal: nobody sees the part");
	is(sql_value($dbh, 'SELECT es_head()'), 0, "$signal: the head stays");

	kill $signal, $pid;
	ok(!eval { $importer->pg_result; 1 }, "$signal: the import has ended");
	if ($signal eq 'KILL')
	{
		# the server restarts
		ok(poll_until(sub { eval { local $SIG{__WARN__} = sub { }; $dbh = connect_store($node); 1 } }), "$signal: the server is back");
	}
	is(counts(), $before, "$signal: nothing is there");
	is(sql_value($dbh, 'SELECT count(*) FROM event_store.import_progress'), 0, "$signal: it is shown no more");
	return;
}

# High-water mark of a process in kB.
sub peak_memory
{
	my ($pid) = @_;
	my ($peak) = PostgreSQL::Test::Utils::slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m;
	return $peak;
}

# Sessions that are ended in the middle leave no place taken, also not to the
# next process with the same number.
sub places
{
	my $slow = q{SELECT es_import($$SELECT 'Slow-1' AS stream_id, 'T' AS event_type, '1'::jsonb AS data FROM pg_sleep(600)$$)};
	my $shown = q{SELECT count(*) FROM event_store.import_progress};
	my $start = sub {
		my $importer = connect_store($node);
		$importer->{PrintWarn} = 1;
		$importer->do($slow, { pg_async => PG_ASYNC });
		return $importer;
	};
	my @left = grep {
		my $importer = $start->();
		poll_until(sub { sql_value($dbh, $shown) == 1 }) or die 'it is not shown';
		$dbh->do("SELECT pg_terminate_backend($importer->{pg_pid})");
		eval { $importer->pg_result };
		!poll_until(sub { sql_value($dbh, $shown) == 0 });
	} 1 .. 20;
	is(scalar(@left), 0, 'places: 20 imports that are terminated leave none taken');

	# control: there are 16
	my @importers = map { $start->() } 1 .. 17;
	my $asleep = q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'};
	ok(poll_until(sub { sql_value($dbh, $asleep) == 17 && sql_value($dbh, $shown) == 16 }),
		'places, control: that was more than there are');
	$dbh->do("SELECT pg_cancel_backend($_->{pg_pid})") for @importers;
	eval { $_->pg_result } for @importers;
	$_->disconnect for @importers;
	is(sql_value($dbh, $shown), 0, 'places: cancelled, none is taken');
	return;
}

# The whole, started again; what the process holds is looked at while it runs.
sub memory
{
	my $importer = connect_store($node);
	my $pid = sql_value($importer, 'SELECT pg_backend_pid()');
	my ($early, $late) = (0, 0);

	$importer->do($import, { pg_async => PG_ASYNC });
	until ($importer->pg_ready)
	{
		my ($events) = $dbh->selectrow_array('SELECT events FROM event_store.import_progress');
		my $now = peak_memory($pid);
		next unless defined $events && $events > 0;
		$early = $now if $events < $rows / 4 && $now > $early;
		$late = $now if $now > $late;
	}
	is($importer->pg_result, 1, 'started again it goes through');
	note("memory of the importer: $early kB in the first quarter, $late kB at the most");
	# the rows are more than 25 MB; sanitizers keep what is freed
	cmp_ok($late - $early, '<', 8 * 1024, 'memory does not grow with the rows') unless setting('ES_SANITIZER', 0);
	is(sql_value($dbh, "SELECT count(*) FROM event_store.events WHERE category = 'Old'"), $rows, 'all events are there');
	is(sqlstate($dbh, $import), 'VE001', 'a second time is refused');
	$importer->disconnect;
	return;
}

sub order_and_wakeup
{
	is( sql_value(
			$dbh, q{SELECT count(*) FROM (
				SELECT (data->>'n')::int AS n, row_number() OVER (ORDER BY global_position) - 1 AS place
				  FROM event_store.event) e WHERE n <> place}),
		0, 'the order of the rows is the global order');
	is( sql_value($dbh, 'SELECT es_head()'),
		sql_value($dbh, 'SELECT max(global_position) FROM event_store.event'),
		'the head is the last event');
	cmp_ok(
		sql_value($dbh, 'SELECT (SELECT max(global_position) FROM event_store.event) - max(global_position) FROM event_store.mark'),
		'<', 2048, 'the newest mark is near');

	# es_wait ends with the commit, and the import wakes it
	my $head = sql_value($dbh, 'SELECT es_head()');
	my $waiter = connect_store($node);
	$waiter->do("SELECT es_wait($head, '60 s')", { pg_async => PG_ASYNC });
	my $importer = connect_store($node);
	$importer->begin_work;
	$importer->do(q{SELECT es_import($$SELECT 'New-1' AS stream_id, 'A' AS event_type, '1'::jsonb AS data FROM generate_series(1, 3000)$$)});
	ok(!$waiter->pg_ready, 'before the commit nobody is woken');
	$importer->commit;
	ok(poll_until(sub { $waiter->pg_ready }), 'a session that waits is woken');
	$waiter->pg_result;
	is(sql_value($dbh, 'SELECT es_head()') - $head >= 3000 ? 'all' : 'a part', 'all', 'everything is settled at once');
	$_->disconnect for $waiter, $importer;
	return;
}

# The progress of 16 imports has room in shared memory; more can run.
sub more_than_are_shown
{
	my @importers;
	my $shown = 'SELECT count(*) FROM event_store.import_progress';

	$dbh->do('SELECT pg_advisory_lock(15)');
	foreach my $n (1 .. 17)
	{
		my $importer = connect_store($node);
		push @importers, $importer;
		$importer->{PrintWarn} = 1;
		$importer->do("SELECT es_import(\$\$SELECT 'Shown-$n' AS stream_id, 'A' AS event_type, to_jsonb(pg_advisory_lock_shared(15)::text) AS data\$\$)",
			{ pg_async => PG_ASYNC });
		ok(poll_until(sub { sql_value($dbh, $shown) == $n }), "$n imports are shown") if $n <= 16;
	}
	ok( poll_until(
			sub { sql_value($dbh, q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 15 AND NOT granted}) == 17 }),
		'17 imports run');
	is(sql_value($dbh, $shown), 16, 'one of them is not shown');
	my @said;
	local $SIG{__WARN__} = sub { push @said, @_ };
	$dbh->do('SELECT pg_advisory_unlock(15)');
	is(join(' ', map { $_->pg_result } @importers), join(' ', (1) x 17), 'all go through');
	is(scalar(grep { /the progress of this import is not shown/ } @said), 1, 'one was told that it is not shown');
	is(sql_value($dbh, q{SELECT count(*) FROM event_store.events WHERE category = 'Shown'}), 17, 'all events are there');
	is(sql_value($dbh, $shown), 0, 'in the end none is shown');
	$_->disconnect for @importers;
	return;
}
