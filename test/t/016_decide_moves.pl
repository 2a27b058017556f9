# Tags, and events that belong to no stream, go wherever the store goes: dumped
# and restored, rewritten, on a standby, and to a logical subscriber.  In each
# place a query gives what it gave, from the index on tags, and where one may
# append a condition finds what it must.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use File::Temp ();
use Test::More;

seed_random();
my $node = store_cluster('decided', streaming => 'logical');
my @tables = map { "event_store.$_" } qw(event stream event_type mark);

create_store($node);
my $dbh = connect_store($node);
fill();
my @queries = (
	'{"items": [{"tags": ["tag:3"]}]}',
	'{"items": [{"tags": ["tag:1", "even"]}]}',
	'{"items": [{"event_types": ["Kind1"], "tags": ["tag:1"]}, {"event_types": ["Kind2"]}]}',
	'{}');
my @want = map { answer($dbh, $_) } @queries;
cmp_ok($want[0], '=~', qr/^300:/, 'queries find events');

restored();
rewritten();
standby();
subscriber();
untagged();
$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub fill
{
	$dbh->do(q{SELECT count(*) FROM generate_series(1, 3000) n, es_append_if(jsonb_build_array(jsonb_build_object(
			'event_type', 'Kind' || n % 3, 'data', n,
			'tags', ARRAY['tag:' || n % 10] || CASE WHEN n % 2 = 0 THEN ARRAY['even'] ELSE '{}' END)
			|| CASE WHEN n % 4 = 0 THEN jsonb_build_object('stream_id', 'Stream-' || n % 7) ELSE '{}' END), '{"items": [{"tags": ["none"]}]}')});
	$dbh->do(q{SELECT es_append('Stream-1', es_any(), 'Plain', '1')});
	return;
}

# number of events and what they are
sub answer
{
	my ($conn, $query) = @_;

	return sql_value($conn,
		q{SELECT count(*) || ':' || md5(string_agg(concat_ws('/', global_position, stream_id, version, event_id, event_type, data, es_tags(e)), ' '))
		  FROM es_read_query($1, NULL, NULL) e}, $query);
}

sub same
{
	my ($title, $conn) = @_;

	is(answer($conn, $queries[$_]), $want[$_], "$title: $queries[$_]") for 0 .. $#queries;
	return;
}

sub conditions
{
	my ($title, $conn) = @_;
	my $call = q{SELECT es_append_if('[{"event_type": "New", "data": 1, "tags": ["tag:3"]}]', '{"items": [{"tags": ["tag:3", "even"]}, {"tags": ["tag:3"]}]}'};

	is(sqlstate($conn, "$call)"), 'VE007', "$title: a condition finds what it must");
	is(sqlstate($conn, "$call, (SELECT max(global_position) FROM event_store.event))"), '00000', "$title: and nothing else");
	return;
}

sub restored
{
	my $folder = File::Temp::tempdir('es_decide_XXXXXX', TMPDIR => 1, CLEANUP => 1);
	my @server = ('-h', $node->host, '-p', $node->port);

	is(run_program('pg_dump', @server, '-Fc', '-f', "$folder/dump", 'postgres'), 0, 'pg_dump');
	$node->safe_psql('postgres', 'CREATE DATABASE restored');
	is(run_program('pg_restore', @server, '--exit-on-error', '-d', 'restored', "$folder/dump"), 0, 'pg_restore');
	my $conn = connect_store($node, db => 'restored');
	same('restored', $conn);
	conditions('restored', $conn);
	$conn->disconnect;
	return;
}

sub rewritten
{
	$node->safe_psql('postgres', 'CREATE DATABASE rewritten TEMPLATE restored');
	my $conn = connect_store($node, db => 'rewritten');
	my @before = map { answer($conn, $_) } @queries;

	foreach my $command ('VACUUM FULL event_store.event', 'REINDEX TABLE event_store.event',
		'REINDEX INDEX CONCURRENTLY event_store.event_tags_global_position_idx',
		'CLUSTER event_store.event USING event_pkey', 'VACUUM event_store.event')
	{
		run_sql($conn, $command);
		is_deeply([ map { answer($conn, $_) } @queries ], \@before, $command);
	}
	conditions('rewritten', $conn);
	$conn->disconnect;
	return;
}

sub standby
{
	$node->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new('decided_standby');
	$standby->init_from_backup($node, 'base', has_streaming => 1);
	$standby->start;
	$node->wait_for_catchup($standby, 'replay');
	my $conn = connect_store($standby);
	same('standby', $conn);
	is(sqlstate($conn, q{SELECT es_append_if('[{"event_type": "New", "data": 1}]', '{}')}), '25006', 'standby: nothing is appended');
	is(sqlstate($conn, q{SELECT es_append_streams('[{"stream_id": "Stream-1", "expected_version": -101}]')}), '25006', 'standby: nor checked');
	$conn->disconnect;
	$standby->stop;
	return;
}

sub subscriber
{
	my $copy = store_cluster('decided_copy', streaming => 'logical');
	my $dsn = $node->connstr('postgres') =~ s/'/''/gr;

	create_store($copy);
	my $conn = connect_store($copy);
	$dbh->do('CREATE PUBLICATION store FOR TABLE ' . join ', ', @tables);
	$conn->do("CREATE SUBSCRIPTION store CONNECTION '$dsn' PUBLICATION store");
	# the next mark, so that everything before it may be read there
	ok(poll_until(sub { sqlstate($conn, 'SELECT es_head()') eq '00000' && !sql_value($conn,
		q{SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'}) }), 'subscriber: the copy is over');
	$dbh->do(q{SELECT count(*) FROM generate_series(1, 2100) n, es_append('Later', es_any(), 'Later', '1', tags => ARRAY['later', 'n:' || n % 5])});
	my $query = '{"items": [{"tags": ["later", "n:3"]}]}';
	my $mark = sql_value($dbh, 'SELECT max(global_position) FROM event_store.mark');
	ok(poll_until(sub { (sql_value($conn, 'SELECT max(global_position) FROM event_store.mark') // 0) >= $mark }), 'subscriber: marks arrive');
	is(answer_upto($conn, $_, 3000), answer_upto($dbh, $_, 3000), "subscriber: $_") for @queries;
	is(answer_upto($conn, $query, $mark), answer_upto($dbh, $query, $mark), 'subscriber: what came later, from the index on tags');
	is(sqlstate($conn, q{SELECT es_append_if('[{"event_type": "New", "data": 1}]', '{}')}), 'VE005', 'subscriber: nothing is appended');
	$conn->do('DROP SUBSCRIPTION store');
	$conn->disconnect;
	$copy->stop;
	return;
}

sub answer_upto
{
	my ($conn, $query, $upto) = @_;

	return sql_value($conn,
		q{SELECT count(*) || ':' || md5(string_agg(concat_ws('/', global_position, stream_id, version, event_id, event_type, data, es_tags(e)), ' '))
		  FROM es_read_query($1, NULL, NULL) e WHERE global_position <= $2}, $query, $upto);
}

# A row without tags is as long as it was without the column.
sub untagged
{
	$dbh->do('CREATE EXTENSION pageinspect');
	my ($plain, $tagged) = map {
		sql_value($dbh, q{SELECT (t_infomask2 & 2047) || ' columns, nulls ' || (t_infomask & 1) || ', header ' || t_hoff
			FROM event_store.event e, heap_page_items(get_raw_page('event_store.event', ((e.ctid::text::point)[0])::int)) i
		   WHERE i.lp = ((e.ctid::text::point)[1])::int AND e.event_type IS NULL} =~ s/e\.event_type IS NULL/$_/r)
	} 'e.tags IS NULL', q{e.tags @> '{later}' LIMIT 1};
	is($plain, '9 columns, nulls 0, header 24', 'an event without tags: no column, no bitmap');
	is($tagged, '10 columns, nulls 0, header 24', 'and one with them');
	return;
}
