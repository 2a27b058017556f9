# Numbers and last versions of streams in shared memory are those of the index.
#
# The library with fault points, preloaded, compares every number and version that
# it takes from shared memory with the index (XX001), and has few slots, so that
# streams have to share them.  Clients do at random everything that appends can do, and
# undo it.  Control: if an abort leaves the versions as they are, the comparison
# finds it.  Then what comes from elsewhere: rows put back, rows removed behind
# the guard, TRUNCATE, a crash, a promoted standby.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use Test::More;
use Time::HiRes qw(time);

my $seconds = setting('ES_LAST_SECONDS', 8);
my $streams = 150;
my $libdir = $ENV{ES_FAULTS_LIBDIR};
ok($libdir && -e "$libdir/event_store.so",
	'ES_FAULTS_LIBDIR names the folder of the library with fault points')
  or BAIL_OUT('build with FAULTS=1 and set ES_FAULTS_LIBDIR');

seed_random();
my $node = store_cluster('last', streaming => 1);
create_store($node);
use_fault_build($node);
$node->append_conf('postgresql.conf', "shared_preload_libraries = '$libdir/event_store'\n");
$node->restart;
my $dbh = connect_store($node);

by_hand();
many_at_once();
elsewhere();
crash_and_standby();

$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub version_of
{
	my ($conn, $stream) = @_;
	return append($conn, $stream, ANY, 'T')->{version};
}

# One session after the other, each case for itself.
sub by_hand
{
	my $other = connect_store($node);

	is(version_of($dbh, 'Hand-1'), 1, 'a new stream');
	is(version_of($other, 'Hand-1'), 2, 'and again, by another session');

	$dbh->do('BEGIN');
	version_of($dbh, 'Hand-1');
	$dbh->do('ROLLBACK');
	is(version_of($other, 'Hand-1'), 3, 'after an abort');

	$dbh->do('BEGIN');
	is(version_of($dbh, 'Hand-1'), 4, 'in a transaction');
	$dbh->do('SAVEPOINT a');
	is(version_of($dbh, 'Hand-1'), 5, 'in a savepoint');
	$dbh->do('SAVEPOINT b');
	is(version_of($dbh, 'Hand-1'), 6, 'in one within');
	$dbh->do('RELEASE b');
	$dbh->do('ROLLBACK TO a');
	is(version_of($dbh, 'Hand-1'), 5, 'after both were rolled back');
	$dbh->do('COMMIT');
	is(version_of($other, 'Hand-1'), 6, 'and for others');

	$dbh->do('BEGIN');
	$dbh->do('SAVEPOINT a');
	version_of($dbh, 'Hand-new');
	$dbh->do('ROLLBACK TO a');
	is(version_of($dbh, 'Hand-new'), 1, 'a new stream, rolled back and made again');
	$dbh->do('COMMIT');

	# the query of a cursor has appended before the savepoint in which it fails
	$dbh->do('BEGIN');
	$dbh->do(q{DECLARE c CURSOR FOR SELECT 1 / (2 - n), es_append('Hand-1', es_any(), 'T', '{}') FROM generate_series(1, 3) AS n});
	$dbh->do('FETCH c');
	$dbh->do('SAVEPOINT a');
	is(sqlstate($dbh, 'FETCH c'), '22012', 'a cursor fails in a savepoint');
	$dbh->do('ROLLBACK TO a');
	$other->do('SET lock_timeout = 100');
	is(sqlstate($other, q{SELECT es_append('Hand-1', es_any(), 'T', '{}')}),
		'55P03', 'what it has appended before keeps others waiting');
	$dbh->do('ROLLBACK');
	$other->do('SET lock_timeout = 60000');
	is(version_of($other, 'Hand-1'), 7, 'and leaves no hole');

	foreach my $end ('COMMIT', 'ROLLBACK')
	{
		$dbh->do('BEGIN');
		my $version = version_of($dbh, 'Hand-1');
		$dbh->do(q{PREPARE TRANSACTION 'last'});
		$other->do('SET lock_timeout = 100');
		is(sqlstate($other, q{SELECT es_append('Hand-1', es_any(), 'T', '{}')}),
			'55P03', "a prepared append: others wait");
		$dbh->do("$end PREPARED 'last'");
		$other->do('SET lock_timeout = 60000');
		is(version_of($other, 'Hand-1'), $end eq 'COMMIT' ? $version + 1 : $version,
			"$end PREPARED");
	}

	# more than the notes that a transaction can take for its abort
	my $version = version_of($dbh, 'Hand-1');
	$dbh->do('BEGIN');
	for (1 .. 300)
	{
		$dbh->do('SAVEPOINT s');
		version_of($dbh, 'Hand-1');
		$dbh->do('RELEASE s');
	}
	$dbh->do('ROLLBACK');
	is(version_of($other, 'Hand-1'), $version + 1, 'after an abort of very many');

	# a transaction that goes over to row locks, with a stream that is known
	$version = version_of($dbh, 'Hand-1');
	foreach my $end ('COMMIT', 'ROLLBACK')
	{
		$dbh->do('BEGIN');
		$dbh->do(q{SELECT count(es_append('Rows-' || n, es_any(), 'T', '{}')) FROM generate_series(1, 300) AS n});
		$dbh->do('COMMIT');
		$dbh->do('BEGIN');
		$dbh->do(q{SELECT count(es_append('Rows-' || n, es_any(), 'T', '{}')) FROM generate_series(1, 300) AS n});
		is(version_of($dbh, 'Hand-1'), ++$version, 'beyond the locks');
		is(version_of($dbh, 'Hand-1'), ++$version, 'and again');
		$other->do('SET lock_timeout = 100');
		is(sqlstate($other, q{SELECT es_append('Hand-1', es_any(), 'T', '{}')}),
			'55P03', 'others wait for the row');
		$dbh->do($end);
		$version -= 2 if $end eq 'ROLLBACK';
		$other->do('SET lock_timeout = 60000');
		is(version_of($other, 'Hand-1'), ++$version, "$end: others go on");
	}

	$dbh->do(q{SET event_store.hash_chain = on});
	is(version_of($dbh, 'Hand-1'), ++$version, 'with hashes');
	$dbh->do(q{SET event_store.hash_chain = off});
	is(version_of($other, 'Hand-1'), ++$version, 'which go on');
	is(sql_value($dbh, q{SELECT count(*) FROM es_verify('Hand-1')}), 0, 'and are sound');

	$dbh->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
	sql_value($dbh, 'SELECT es_head()');
	$version = version_of($other, 'Hand-1');
	is(sqlstate($dbh, q{SELECT es_append('Hand-1', es_any(), 'T', '{}')}),
		'40001', 'a snapshot that does not show the last version');
	$dbh->do('ROLLBACK');
	is(version_of($dbh, 'Hand-1'), $version + 1, 'and after it');
	$other->disconnect;
	return;
}

# Everything at random; returns how often the comparison failed.
sub load
{
	my ($title, $settings) = @_;
	my $end = time() + $seconds;

	foreach my $number (1 .. 6)
	{
		start_client("$title$number", sub { client($number, $end, $settings) });
	}
	my $result = wait_clients(limit => 180 + $seconds, test => "$title: no client failed");
	my %state;
	foreach my $client (values %$result)
	{
		$state{$_} += $client->{state}{$_} for keys %{ $client->{state} };
	}
	note "$title: " . join(', ', map { "$_ $state{$_}" } sort keys %state);
	return \%state;
}

sub client
{
	my ($number, $end, $settings) = @_;
	my $conn = connect_store($node);
	my %state;
	my $gid = 0;
	my $stream = sub { "'Load-" . random_int(1, $streams) . "'" };

	$conn->do($_) for @$settings;
	while (time() < $end)
	{
		my $open = rand() < 0.6;
		my $depth = 0;
		my $failed = 0;
		my $try = sub {
			my $found = sqlstate($conn, $_[0]);
			$state{$found}++;
			$failed = 1 if $found ne '00000';
		};

		$conn->do('BEGIN' . (rand() < 0.1 ? ' ISOLATION LEVEL REPEATABLE READ' : '')) if $open;
		foreach (1 .. $open ? random_int(1, 6) : 1)
		{
			my $what = rand();
			if ($failed)
			{
				last unless $depth > 0;
				$conn->do('ROLLBACK TO s' . $depth);
				$failed = 0;
			}
			if ($what < 0.4)
			{
				$try->('SELECT es_append(' . $stream->() . q{, es_any(), 'T', '{}')});
			}
			elsif ($what < 0.5)
			{
				my $name = $stream->();
				$try->("SELECT es_append($name, es_stream_version($name), 'T', '{}')");
			}
			elsif ($what < 0.6)
			{
				$try->('SELECT count(*) FROM es_append_batch(' . $stream->()
					  . q{, es_any(), array_fill('T'::text, ARRAY[70]), array_fill('{}'::jsonb, ARRAY[70]))});
			}
			elsif ($what < 0.68)
			{
				my ($one, $two) = ($stream->(), $stream->());
				s/'/"/g for $one, $two;
				$try->(qq{SELECT count(*) FROM es_append_streams('[{"stream_id": $one, "expected_version": -100, "events": {"event_type": "T", "data": 1}}, }
					  . qq{{"stream_id": $two, "expected_version": -101}]')}) if $one ne $two;
			}
			elsif ($what < 0.74)
			{
				$try->(q{SELECT es_import('SELECT ''Load-'' || n % 7 + } . random_int(1, $streams - 7)
					  . q{ AS stream_id, ''T'' AS event_type, ''{}''::jsonb AS data FROM generate_series(1, 20) AS n')});
			}
			elsif ($what < 0.76)
			{
				$try->(q{SELECT count(es_append('Load-' || n, es_any(), 'T', '{}')) FROM generate_series(1, 300) AS n});
			}
			elsif ($what < 0.8)
			{
				$try->('SET event_store.hash_chain = ' . (rand() < 0.2 ? 'on' : 'off'));
			}
			elsif ($open && $what < 0.92)
			{
				$depth++;
				$conn->do('SAVEPOINT s' . $depth);
			}
			elsif ($open && $depth > 0)
			{
				$conn->do((rand() < 0.6 ? 'ROLLBACK TO s' : 'RELEASE s') . $depth);
				$depth--;
			}
		}
		next unless $open;
		if ($failed || rand() < 0.3)
		{
			$conn->do('ROLLBACK');
		}
		elsif (rand() < 0.1)
		{
			my $name = "load-$number-" . ++$gid;
			if (sqlstate($conn, "PREPARE TRANSACTION '$name'") eq '00000')
			{
				$conn->do((rand() < 0.5 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$name'");
			}
		}
		else
		{
			eval { $conn->do('COMMIT'); 1 } or $state{ $conn->state }++;
		}
	}
	$conn->disconnect;
	return { state => \%state };
}

sub many_at_once
{
	my $state = load('sound', []);
	is($state->{XX001} || 0, 0, 'what is remembered is what the index says');
	is($state->{23505} || 0, 0, 'no version is given twice');
	cmp_ok($state->{'00000'}, '>', 200, 'appends went through');
	is( sql_value($dbh,
			'SELECT count(*) FROM (SELECT stream_id FROM event_store.events GROUP BY stream_id HAVING count(*) <> max(version)) AS hole'),
		0, 'no stream has a hole');

	$state = load('control', ['SET event_store.fault_no_undo = on']);
	cmp_ok($state->{XX001} || 0, '>', 0, 'control: versions that outlive an abort are found');

	# what that has left behind
	$node->restart;
	$dbh = connect_store($node);
	return;
}

# What changes the table and is no append.
sub elsewhere
{
	my $other = connect_store($node);
	my $row = q{INSERT INTO event_store.event (global_position, stream_no, created_at, event_id, version, type_no, schema_version, data, metadata)
		SELECT nextval('event_store.event_global_position_seq'), stream_no, now(), gen_random_uuid(), version + 1, type_no, 1, '{}', '{}'
		  FROM event_store.event WHERE stream_no = (SELECT stream_no FROM event_store.stream WHERE stream_id = 'Else-1')
		 ORDER BY version DESC LIMIT 1};

	is(version_of($other, 'Else-1'), 1, 'before anything else');
	run_sql($dbh, 'BEGIN', 'SET LOCAL check_function_bodies = off', 'SET LOCAL row_security = off', $row);
	$dbh->do('COMMIT');
	is(version_of($other, 'Else-1'), 3, 'after a row was put back');

	run_sql($dbh, 'BEGIN', 'ALTER TABLE event_store.event DISABLE TRIGGER USER');
	is(version_of($dbh, 'Else-1'), 4, 'with the guard disabled');
	run_sql($dbh,
		q{DELETE FROM event_store.event WHERE version > 2 AND stream_no = (SELECT stream_no FROM event_store.stream WHERE stream_id = 'Else-1')});
	is(version_of($dbh, 'Else-1'), 3, 'after events were removed');
	$dbh->do('COMMIT');
	is(version_of($other, 'Else-1'), 4, 'still disabled');
	run_sql($dbh,
		q{DELETE FROM event_store.event WHERE version > 1 AND stream_no = (SELECT stream_no FROM event_store.stream WHERE stream_id = 'Else-1')},
		'ALTER TABLE event_store.event ENABLE ALWAYS TRIGGER es_guard_row, ENABLE ALWAYS TRIGGER es_guard_statement');
	is(version_of($other, 'Else-1'), 2, 'enabled again');

	# with what is remembered from before it was disabled
	is(version_of($other, 'Else-1'), 3, 'and once more');
	run_sql($dbh,
		'ALTER TABLE event_store.event DISABLE TRIGGER USER',
		q{DELETE FROM event_store.event WHERE version > 1 AND stream_no = (SELECT stream_no FROM event_store.stream WHERE stream_id = 'Else-1')},
		'ALTER TABLE event_store.event ENABLE ALWAYS TRIGGER es_guard_row, ENABLE ALWAYS TRIGGER es_guard_statement');
	is(version_of($other, 'Else-1'), 2, 'disabled, removed and enabled between two appends');

	run_sql($dbh, 'BEGIN', 'ALTER TABLE event_store.event DISABLE TRIGGER USER',
		'TRUNCATE event_store.event');
	is(version_of($dbh, 'Else-1'), 1, 'in the transaction of a TRUNCATE');
	is(version_of($dbh, 'Else-1'), 2, 'and again');
	$dbh->do('TRUNCATE event_store.event');
	is(version_of($dbh, 'Else-1'), 1, 'emptied in place');
	$dbh->do('ROLLBACK');
	is(version_of($other, 'Else-1'), 3, 'after it was rolled back');
	run_sql($dbh, 'BEGIN', 'ALTER TABLE event_store.event DISABLE TRIGGER USER',
		'TRUNCATE event_store.event',
		'ALTER TABLE event_store.event ENABLE ALWAYS TRIGGER es_guard_row, ENABLE ALWAYS TRIGGER es_guard_statement',
		'COMMIT');
	is(version_of($other, 'Else-1'), 1, 'after TRUNCATE');
	$dbh->do('VACUUM FULL event_store.event');
	is(version_of($other, 'Else-1'), 2, 'after VACUUM FULL');

	run_sql($dbh, 'BEGIN', 'SET LOCAL check_function_bodies = off', 'SET LOCAL row_security = off', $row,
		q{PREPARE TRANSACTION 'restore'}, q{COMMIT PREPARED 'restore'});
	is(version_of($other, 'Else-1'), 4, 'after a row was put back by a prepared transaction');
	renumbered();
	$other->disconnect;
	return;
}

# Streams that come again under another number.  Each session looks once: what it
# remembers itself is nobody else's.  Without the eras of log/last.c the second
# one writes to the stream that is gone.
sub renumbered
{
	my $long = 'Long-' . 'x' x 200;
	my @remove = ('ALTER TABLE event_store.event DISABLE TRIGGER USER',
		'ALTER TABLE event_store.stream DISABLE TRIGGER USER',
		q{DELETE FROM event_store.event WHERE stream_no IN (SELECT stream_no FROM event_store.stream WHERE stream_id LIKE 'Number-%')},
		q{DELETE FROM event_store.stream WHERE stream_id LIKE 'Number-%'},
		map { "ALTER TABLE event_store.$_ ENABLE ALWAYS TRIGGER es_guard_row, ENABLE ALWAYS TRIGGER es_guard_statement" }
		  qw(event stream));

	version_of($dbh, 'Number-1');
	version_of($dbh, $long);
	for my $case (
		[ 'met by another session', 2, 2 ],
		[ 'removed and made again', 1, 3, @remove ],
		[ 'removed in one transaction', 1, 4, 'BEGIN', @remove, 'COMMIT' ],
		[ 'removed and rolled back', 2, 5, 'BEGIN', @remove, 'ROLLBACK' ],
		[ 'moved by VACUUM FULL', 3, 6, 'VACUUM FULL event_store.stream' ])
	{
		my ($what, $version, $long_version, @statements) = @$case;
		run_sql($dbh, @statements);
		my $session = connect_store($node);
		is(version_of($session, 'Number-1'), $version, "stream number: $what");
		is(version_of($session, $long), $long_version, "$what: a name that is too long to be remembered");
		$session->disconnect;
	}
	is($dbh->selectrow_array(
			q{SELECT count(*) FROM event_store.event e WHERE NOT EXISTS (SELECT FROM event_store.stream s WHERE s.stream_no = e.stream_no)}),
		0, 'no event of a stream that is not there');
	return;
}

sub crash_and_standby
{
	$node->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new('last_standby');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;

	my $version = version_of($dbh, 'Crash-1');
	$dbh->do('BEGIN');
	version_of($dbh, 'Crash-1');
	$node->stop('immediate');
	$node->start;
	$dbh = connect_store($node);
	is(version_of($dbh, 'Crash-1'), $version + 1, 'after a crash');
	$node->wait_for_catchup($standby);
	$standby->promote;
	my $conn = connect_store($standby);
	is(version_of($conn, 'Crash-1'), $version + 2, 'on a promoted standby');
	is(version_of($conn, 'Crash-1'), $version + 3, 'and again');
	$conn->disconnect;
	$standby->stop;
	return;
}
