# A dump is a whole store: plain, custom and parallel directory format, and data
# only into a database that has the extension already.  Afterwards everything is
# equal, and the next append goes on where the original would have.  A base
# backup that runs as a standby reads the same and refuses to append.  Sequences
# that were left behind (a partial restore, a promoted logical subscriber, setval
# by mistake) never make two events of one position.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::History qw(faultless_delivery);
use File::Temp ();
use Test::More;

seed_random();
my $node = store_cluster('dump', streaming => 1);
create_store($node, 'original');
my $dbh = connect_store($node, db => 'original');
my @known = fill_store($dbh);
my $committed = store_rows($dbh);
my $want = fingerprint($dbh);
my $folder = File::Temp::tempdir('es_dump_XXXXXX', TMPDIR => 1, CLEANUP => 1);
my @server = ('-h', $node->host, '-p', $node->port);

note $want;
cmp_ok(scalar @$committed, '>', 5000, 'the store is not empty');
cmp_ok(sql_value($dbh, 'SELECT count(*) FROM event_store.mark'),
	'>=', 1, 'it has settled marks');
cmp_ok(sql_value($dbh, 'SELECT count(*) FROM event_store.snapshot'),
	'>=', 2, 'and snapshots');
cmp_ok($committed->[-1][0], '>', scalar @$committed, 'and gaps');

dump_with('plain', '--format=plain');
dump_with('custom', '--format=custom');
dump_with('directory', '--format=directory', '--jobs=2');
data_only();
parallel_restore_clean();
standby_reads();
sequences_set_back();
library_before_script();

$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# Streams, types, aborted appends, snapshots, odd names and payloads.
sub fill_store
{
	my ($conn) = @_;
	my @ids;
	foreach my $number (1 .. 60)
	{
		my @batch = map { random_uuid() } 1 .. 100;
		append_batch($conn, "Order-$number", 0, "Kind$number", \@batch);
		push @ids, @batch if $number == 1;
		if ($number % 10 == 0)
		{
			$conn->do('BEGIN');
			append_batch($conn, "Order-$number", 100, 'Undone', [ undef, undef ]);
			$conn->do('ROLLBACK');
		}
	}
	append($conn, "Odd \\ name\x{e4}'\";--\$\$", 0, "T\\N ype's", undef,
		'{"tab\\t": "\\\\N", "quote": "\'\\"", "null": null, "deep": [[[{"a": 1e-3}]]]}');
	append($conn, 'NoDash', 0, 'T', undef, 'null');
	$conn->do(q{SELECT es_append('Meta-1', 0, 'T', '[1, "x"]',
		'{"user_id": "\u00fc", "correlation_id": "c"}', NULL, 7)});
	$conn->do(q{SELECT es_snapshot('Order-1', 50, '{"sum": 50}')});
	$conn->do(q{SELECT es_snapshot('Order-1', 100, '{"sum": 100}', 2)});
	$conn->do(q{SELECT es_snapshot('Order-2', 100, '{"sum": 100}')});
	return @ids;
}

sub dump_with
{
	my ($title, @options) = @_;
	my $file = "$folder/$title";
	my $db = "restored_$title";

	is(run_program('pg_dump', @server, @options, '-f', $file, 'original'),
		0, "$title: pg_dump works");
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	if ($title eq 'plain')
	{
		is( run_program('psql', '-qX', @server, '-v', 'ON_ERROR_STOP=1',
				'-d', $db, '-f', $file),
			0, "$title: psql restores it");
	}
	else
	{
		my @jobs = $title eq 'directory' ? ('--jobs=2') : ();
		is( run_program('pg_restore', @server, @jobs, '--exit-on-error',
				'-d', $db, $file),
			0, "$title: pg_restore restores it");
	}
	same_store($title, $db);
	return;
}

sub data_only
{
	my $file = "$folder/data_only";
	is( run_program('pg_dump', @server, '--data-only', '-f', $file, 'original'),
		0, 'data only: pg_dump works');
	create_store($node, 'restored_data');
	is( run_program('psql', '-qX', @server, '-v', 'ON_ERROR_STOP=1',
			'-d', 'restored_data', '-f', $file),
		0, 'data only: psql restores it');
	same_store('data only', 'restored_data');
	return;
}

# A dump of a restored store is as good as the first one.
sub parallel_restore_clean
{
	my $db = 'restored_directory';
	my $file = "$folder/second";
	is( run_program('pg_dump', @server, '--format=custom', '-f', $file, $db),
		0, 'second generation: pg_dump works');
	$node->safe_psql('postgres', 'CREATE DATABASE second');
	is(run_program('pg_restore', @server, '--jobs=2', '--exit-on-error', '-d',
			'second', $file),
		0, 'second generation: pg_restore works');
	my $one = connect_store($node, db => $db);
	my $two = connect_store($node, db => 'second');
	is(fingerprint($two), fingerprint($one), 'second generation: everything is equal');
	$_->disconnect for $one, $two;
	return;
}

sub same_store
{
	my ($title, $db) = @_;
	my $conn = connect_store($node, db => $db);
	is(fingerprint($conn), $want,
		"$title: events, positions, versions, snapshots and marks are equal");
	is(sql_value($conn, 'SELECT es_head()'), $committed->[-1][0], "$title: same head");
	my $delivered = $conn->selectall_arrayref(
		'SELECT global_position, stream_id, version, event_id FROM es_read_all(NULL, NULL)');
	faultless_delivery("$title: read in order", $committed, $delivered);
	is(sql_value($conn,
			q{SELECT snapshot_version || ' ' || cardinality(events)
			  FROM es_load('Order-1', 1)}),
		'50 50', "$title: snapshots are used");

	# going on
	my $again = append_batch($conn, 'Order-1', 0, 'Kind1', \@known);
	is_deeply(
		[ map { ($_->{duplicate} ? 'dup' : 'new') . " $_->{version}" } @$again ],
		[ map { "dup $_" } 1 .. 100 ],
		"$title: ids are remembered");
	ok(!eval { append($conn, 'Order-1', 99, 'T', undef); 1 }
		  && $conn->state eq 'VE001',
		"$title: versions are checked");
	my $next = append($conn, 'Order-1', 100, 'T', undef);
	is($next->{version}, 101, "$title: the next append continues the stream");
	cmp_ok($next->{position}, '>', $committed->[-1][0],
		"$title: and the global order");
	my $new_type = append($conn, 'Fresh-1', 0, 'NeverSeen', undef);
	is(sql_value($conn, q{SELECT string_agg(stream_id || '/' || version, ' ')
						  FROM es_read_all($1, NULL)}, $committed->[-1][0]),
		'Order-1/101 Fresh-1/1', "$title: readers see both");

	# the guard came along, and the restore has not left it open
	is(sqlstate($conn, 'DELETE FROM event_store.event'), 'VE003',
		"$title: the store is append-only");
	is(sqlstate($conn, 'INSERT INTO event_store.event SELECT * FROM event_store.event LIMIT 1'),
		'VE003', "$title: and takes no rows by hand");
	$conn->disconnect;
	return;
}

sub standby_reads
{
	$node->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new('dump_standby');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	append($dbh, 'Order-1', ANY, 'T', undef);
	$node->wait_for_catchup($standby, 'replay');

	my $conn = connect_store($standby, db => 'original');
	is(fingerprint($conn), fingerprint($dbh), 'standby: everything is equal');
	my $delivered = $conn->selectall_arrayref(
		'SELECT global_position, stream_id, version, event_id FROM es_read_all(NULL, NULL)');
	faultless_delivery('standby: read in order', store_rows($dbh), $delivered);
	is(sqlstate($conn, q{SELECT es_append('Order-1', es_any(), 'T', '{}')}),
		'25006', 'standby: es_append is refused with 25006');
	is(sqlstate($conn, q{SELECT es_append_batch('Order-1', es_any(), '{T}', '{"{}"}')}),
		'25006', 'standby: es_append_batch too');
	is(sqlstate($conn, q{SELECT es_append('Order-1', es_any(), '[{"event_type": "T", "data": 1}]')}),
		'25006', 'standby: es_append with an array too');
	is(sqlstate($conn, q{SELECT es_snapshot('Order-3', 1, '{}')}),
		'25006', 'standby: es_snapshot too');

	# the same for a transaction that is read-only by its own choice
	$dbh->do('BEGIN READ ONLY');
	is(sqlstate($dbh, q{SELECT es_append('Order-1', es_any(), 'T', '{}')}),
		'25006', 'read-only transaction: es_append is refused');
	$dbh->do('ROLLBACK');
	$dbh->do('BEGIN READ ONLY');
	is(sqlstate($dbh, q{SELECT count(*) FROM es_read_all()}),
		'00000', 'read-only transaction: reading works');
	$dbh->do('ROLLBACK');

	# promoted, it is a store like any other
	$standby->promote;
	$conn->disconnect;
	$conn = connect_store($standby, db => 'original');
	my $last = sql_value($conn, 'SELECT es_head()');
	my $next = append($conn, 'Order-1', ANY, 'T', undef);
	cmp_ok($next->{position}, '>', $last, 'promoted standby: appends go on');
	is(sql_value($conn, q{SELECT string_agg(stream_id || '/' || version, ' ')
						  FROM es_read_all($1, NULL)}, $last),
		"Order-1/$next->{version}", 'promoted standby: readers see it');
	$conn->disconnect;
	$standby->stop;
	return;
}

# Each sequence set back.  A session that is new puts it right by itself; one that
# has appended before may be refused, but must not forge an order.
sub sequences_set_back
{
	create_store($node, 'set_back');
	my $old = connect_store($node, db => 'set_back');
	append_batch($old, "Old-$_", 0, "T$_", [ (undef) x 3 ]) for 1 .. 5;

	my $number = 0;
	foreach my $sequence (
		qw(event_global_position_seq stream_stream_no_seq event_type_type_no_seq))
	{
		$old->do("SELECT setval('event_store.$sequence', 1, false)");
		sqlstate($old, q{SELECT es_append('Old-1', es_any(), 'T1', '{}')});
		is( sql_value($old,
				'SELECT count(*) - count(DISTINCT global_position) FROM event_store.event'),
			0, "$sequence set back: an old session gives no position twice");

		$old->do("SELECT setval('event_store.$sequence', 1, false)");
		my $new = connect_store($node, db => 'set_back');
		$number++;
		is(sqlstate($new, "SELECT es_append('New$number-1', 0, 'N$number', '{}')"),
			'00000', "$sequence set back: a new session appends to a new stream");
		is(sqlstate($new, "SELECT es_append('Old-1', es_any(), 'N$number', '{}')"),
			'00000', "$sequence set back: and to an old one");
		is( sql_value($new,
				'SELECT count(*) - count(DISTINCT global_position) FROM event_store.event'),
			0, "$sequence set back: and gives no position twice");
		$new->disconnect;
	}
	my $delivered = $old->selectall_arrayref(
		'SELECT global_position, stream_id, version, event_id FROM es_read_all(NULL, NULL)');
	faultless_delivery('sequences set back: read in order', store_rows($old), $delivered);
	$old->disconnect;
	return;
}

# The new library on a store whose script is still that of 0.1, as between the
# installation of a package and ALTER EXTENSION: es_any() and es_exists() work.
sub library_before_script
{
	$node->safe_psql('postgres', 'CREATE DATABASE old_script');
	my $conn = connect_store($node, db => 'old_script');
	$conn->do(q{CREATE EXTENSION event_store VERSION '0.1'});
	foreach my $form (q{es_append('Old-1', %s, 'T', '{}')},
		q{es_append_batch('Old-2', %s, '{T}', '{1}')},
		q{es_append('Old-3', %s, '{"event_type": "T", "data": 1}')})
	{
		my $try = sub { sqlstate($conn, sprintf("SELECT $form", $_[0])) };
		$conn->do('BEGIN');
		is($try->('es_exists()'), 'VE001', 'script of 0.1: es_exists() is a check');
		$conn->do('ROLLBACK');
		is($try->('es_any()'), '00000', 'es_any() is none');
		is($try->('es_exists()'), '00000', 'es_exists() finds the stream');
		is($try->('-3'), '22023', 'other numbers are refused');
		$conn->do('BEGIN');
		$conn->do('ALTER EXTENSION event_store UPDATE');
		is($try->('es_any()'), '00000', 'after the update: es_any()');
		is($try->('es_exists()'), '00000', 'es_exists()');
		is($try->(-1), '22023', '-1 is refused');
		$conn->do('ROLLBACK');
	}
	$conn->disconnect;
	return;
}
