# contrib/message_db beside the real message-db of the same server, in the same
# run: every function, every error text, every report, and the scripts that
# come with message-db print the same on both.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use Cwd qw(abs_path);
use EventStoreTest;
use IPC::Run ();
use Test::More;

my $package = abs_path("$FindBin::Bin/../../contrib/message_db/test/node_modules/\@eventide/message-db/database");
my $server = store_cluster('message_db', preload => 'event_store');
my @environment = (PGHOST => $server->host, PGPORT => $server->port, PGTZ => 'UTC');

# The statements; each is run on both, and what it prints is compared.  :first
# and the like are positions, which differ.
my @statements = statements();

install();
compare($_) for @statements;
scripts();
ours_only();
$server->stop;
done_testing();

# ---------------------------------------------------------------------------

sub install
{
	$server->safe_psql('postgres', 'CREATE DATABASE real');
	my ($out, $err) = ('', '');
	{
		local %ENV = (%ENV, @environment, DATABASE_NAME => 'real', CREATE_DATABASE => 'off');
		IPC::Run::run([ 'bash', "$package/install.sh" ], '>', \$out, '2>', \$err);
	}
	like($server->safe_psql('real', 'SELECT message_store.message_store_version()'), qr/^1\.3/, 'message-db is there')
	  or diag($out, $err);

	$server->safe_psql('postgres', 'CREATE DATABASE ours');
	$server->safe_psql('ours', 'CREATE EXTENSION event_store_message_db CASCADE');
	$server->safe_psql('ours', q{SELECT message_store.grant_client('message_store')});
	return;
}

# psql as message-db's client, whose search_path finds the schema by his name.
sub client
{
	my ($dbname, $sql) = @_;
	my $out = '';

	local %ENV = (%ENV, @environment);
	IPC::Run::run([ 'psql', '-XAq', '-v', 'SHOW_CONTEXT=never', '-U', 'message_store', '-d', $dbname ], '<', \$sql, '>', \$out, '2>&1');
	return plain($out);
}

# Without what cannot be the same: times, ids, the row that PostgreSQL shows for
# a NULL, and what it shows of a statement.
sub plain
{
	my ($text) = @_;

	for ($text)
	{
		s/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?/{time}/g;
		s/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/{id}/g;
		s/^(?:LINE \d+:|DETAIL:  Failing row|QUERY:).*\n(?: .*\n)*//mg;
	}
	return $text;
}

sub compare
{
	my ($case) = @_;
	my ($name, $sql) = @$case;
	my ($real, $ours) = map { client($_, $sql) } qw(real ours);

	is($ours, $real, $name);
	return;
}

sub statements
{
	my $columns = 'stream_name, type, position, data, metadata, time';
	my $id = 1;
	my $write = sub {
		my ($stream, $type, $data, @rest) = @_;
		return sprintf("SELECT write_message('%08d-0000-4000-8000-000000000000', '%s', '%s', %s%s);\n",
			$id++, $stream, $type, $data, join('', map { ", $_" } @rest));
	};
	my $position = sub { "SELECT global_position AS $_[0] FROM messages WHERE id = '$_[1]' \\gset\n" };
	my @cases;

	push @cases, [ 'names of streams', q{
		SELECT n, category(n), id(n), cardinal_id(n), is_category(n), hash_64(n)
		  FROM unnest(ARRAY['account', 'account-1', 'account-1+2', 'account-1-2', '-1', 'account:command-1', '']::varchar[]) AS n;
		SELECT category(NULL), id(NULL), cardinal_id(NULL), is_category(NULL), hash_64(NULL);
		SELECT acquire_lock('account-1'), message_store_version();} ];

	push @cases, [ 'write_message', $write->('account-1', 'Opened', q('{"a": 1}'), q('{"m": 1}')) .
		  $write->('account-1', 'Deposited', q('{"a": 2}')) . $write->('account-1', 'Deposited', q('{"a": 3}'), 'NULL', 1) .
		  $write->('account-2', 'Opened', q('{}'), 'NULL', -1) . $write->('account', 'Opened', q('{}')) .
		  $write->('account-3+x', 'Opened', q('[1]')) . $write->('account-3+y', 'Opened', q('null')) ];
	push @cases, [ 'metadata and data of every kind', $write->('odd-1', 'A', 'NULL') . $write->('odd-1', 'A', q('{}'), q('{}')) .
		  $write->('odd-1', 'A', q('{}'), q('[1, 2]')) . $write->('odd-1', 'A', q('{}'), q('"text"')) .
		  $write->('odd-1', 'A', q('{}'), q('{"$message_db": 1}')) . $write->('odd-1', 'A', 'NULL', q('null')) .
		  "SELECT $columns FROM get_stream_messages('odd-1');" ];
	push @cases, [ 'wrong versions', $write->('account-1', 'A', q('{}'), 'NULL', 1) . $write->('account-1', 'A', q('{}'), 'NULL', -1) .
		  $write->('account-1', 'A', q('{}'), 'NULL', -2) . $write->('account-1', 'A', q('{}'), 'NULL', 11) .
		  $write->('new-1', 'A', q('{}'), 'NULL', 0) . "SELECT stream_version('new-1');" ];
	# in names that look like what the store says of a conflict
	push @cases, map { my $name = $_; [ "wrong versions of $name", join('', map { $write->($name, 'A', q('{}'), 'NULL', $_) } -1, 0, 0, 7, -1) ] }
	  'odd-2 actual=1 b', 'odd-3 expected=0 actual=9', 'stream=odd-4 actual=';
	push @cases, [ 'an id again', q{
		SELECT write_message('00000001-0000-4000-8000-000000000000', 'account-1', 'Opened', '{"a": 1}', '{"m": 1}');
		SELECT write_message('00000001-0000-4000-8000-000000000000', 'account-1', 'Other', '{"a": 1}');
		SELECT write_message('00000001-0000-4000-8000-000000000000', 'account-7', 'Opened', '{"a": 1}', '{"m": 1}');
		SELECT write_message('00000001-0000-4000-8000-000000000000', 'account-1', 'Opened', '{"a": 1}', '{"m": 1}', -1);
		SELECT write_message('00000003-0000-4000-8000-000000000000', 'account-1', 'Deposited', '{"a": 3}', NULL, 2);} ];
	push @cases, [ 'ids and NULLs', q{
		SELECT write_message('no id', 'account-1', 'A', '{}');
		SELECT write_message(NULL, 'account-1', 'A', '{}');
		SELECT write_message(gen_random_uuid()::varchar, NULL, 'A', '{}');
		SELECT write_message(gen_random_uuid()::varchar, 'account-1', NULL, '{}');} ];

	push @cases, [ 'get_stream_messages', join("\n", map { "SELECT $columns FROM get_stream_messages($_);" }
			"'account-1'", "'account-1', 1", "'account-1', 1, 1", "'account-1', NULL, NULL", "'account-1', -5",
			"'account-1', 0, -1", "'account-1', 0, 0", "'account-1', 9", "'nobody-1'", "'account'", "'account-1', 0, -2") ];
	push @cases, [ 'get_last_stream_message', join("\n", map { "SELECT $columns FROM get_last_stream_message($_);" }
			"'account-1'", "'account-1', 'Opened'", "'account-1', 'Never'", "'nobody-1'", "'account'") ];
	push @cases, [ 'stream_version', q{SELECT stream_version('account-1'), stream_version('account'), stream_version('nobody-1');} ];
	push @cases, [ 'get_category_messages',
		$position->('second', '00000002-0000-4000-8000-000000000000') . "\\o /dev/null\nSELECT :second;\n\\o\n" .
		join("\n", map { "SELECT $columns FROM get_category_messages($_);" }
			"'account'", "'account', :second", "'account', :second + 1", "'account', 0", "'account', NULL, NULL", "'account', 1, 2",
			"'account', 1, -1", "'account', 1, 0", "'account', 1000000", "'nothing'", "'account-1'", "'account', 1, -2") ];

	push @cases, [ 'correlation', $write->('billing-1', 'Billed', q('{}'), q('{"correlationStreamName": "order-1"}')) .
		  $write->('billing-2', 'Billed', q('{}'), q('{"correlationStreamName": "order"}')) .
		  $write->('billing-3', 'Billed', q('{}'), q('{"correlationStreamName": "other-1"}')) . $write->('billing-4', 'Billed', q('{}')) .
		  join("\n", map { "SELECT $columns FROM get_category_messages($_);" }
			"'billing', correlation => 'order'", "'billing', correlation => 'order', batch_size => 1",
			"'billing', correlation => 'nothing'", "'billing', correlation => 'order-1'") ];
	push @cases, [ 'consumer groups', join('', map { $write->("group-$_", 'A', q('{}'), q('{"correlationStreamName": "order-1"}')) } 1 .. 12, '3+a', '3+b', '4-5') .
		  join("\n", map { "SELECT stream_name, position FROM get_category_messages('group', 1, 100, $_);" }
			map({ "consumer_group_member => $_, consumer_group_size => 3" } 0 .. 2),
			'consumer_group_member => 0, consumer_group_size => 1',
			"consumer_group_member => 1, consumer_group_size => 2, correlation => 'order'",
			'consumer_group_member => 0', 'consumer_group_size => 3', 'consumer_group_member => 3, consumer_group_size => 3',
			'consumer_group_member => 4, consumer_group_size => 3', 'consumer_group_member => -1, consumer_group_size => 3',
			'consumer_group_member => 0, consumer_group_size => 0') ];
	push @cases, [ 'SQL conditions', join("\n", map {
			"$_\n" . join("\n", map { "SELECT $columns FROM $_;" }
				q{get_stream_messages('account-1', condition => 'messages.type = ''Deposited''')},
				q{get_stream_messages('account-1', 1, 1, 'data->>''a'' > ''1'' AND id IS NOT NULL')},
				q{get_category_messages('account', condition => 'position = 1 AND messages.time <= now() AT TIME ZONE ''utc''')},
				q{get_category_messages('billing', correlation => 'order', condition => 'stream_name = ''billing-2''')},
				q{get_category_messages('group', consumer_group_member => 1, consumer_group_size => 2, condition => 'global_position > 0')},
				q{get_category_messages('account', condition => 'not even SQL')})
		  } '', "SET message_store.sql_condition = 'off';", "SET message_store.sql_condition = 'on';") ];
	push @cases, map { [ "report $_", "SELECT * FROM ${_}_summary;" ] }
	  qw(type stream stream_type type_stream category_type type_category);
	push @cases, [ 'the table', 'SELECT position, time, stream_name, type, data, metadata, id FROM messages ORDER BY global_position;' ];
	push @cases, [ 'the transaction is the caller\'s', "BEGIN;\n" . $write->('account-1', 'Undone', q('{}')) .
		  "ROLLBACK;\nSELECT stream_version('account-1');" ];
	return @cases;
}

# message-db's own scripts for a shell.
sub scripts
{
	my @told = map { my $dbname = $_; [ map { script($dbname, @$_) } (
			[ 'write-test-message.sh', STREAM_NAME => 'script-1', INSTANCES => 2 ],
			[ 'write-test-message.sh', STREAM_NAME => 'script-2', METADATA => q('{"correlationStreamName": "order-1"}') ],
			[ 'print-messages.sh', STREAM_NAME => 'script-1' ],
			[ 'print-message-store-version.sh' ],
			[ 'print-stream-summary.sh', STREAM_NAME => 'script-1' ],
			map { [ "print-$_-summary.sh" ] } qw(category-type stream-type type-category type-stream type)) ] } qw(real ours);

	is_deeply($told[1], $told[0], 'the scripts that come with message-db print the same');
	like($told[0][2], qr/RECORD 2.*script-1/s, '... and do something');
	return;
}

sub script
{
	my ($dbname, $name, %variables) = @_;
	my $out = '';

	local %ENV = (%ENV, @environment, DATABASE_NAME => $dbname, %variables);
	IPC::Run::run([ 'bash', "$package/$name" ], '>', \$out, '2>&1');
	$out = plain($out) =~ s/^(Database name is: |global_position +\| ).*$/$1/mgr;
	return "$name: $out";
}

# What is put right, what the event store adds, and what it keeps shut.
sub ours_only
{
	my $members = sub {
		my ($dbname) = @_;
		return client($dbname, join('', map {
			"SELECT stream_name FROM get_category_messages('account', 1, -1, consumer_group_member => $_, consumer_group_size => 2)\n"
			  . "WHERE stream_name = 'account';\n" } 0, 1));
	};
	unlike($members->('real'), qr/^account$/m, 'message-db gives a stream that is named like its category to no member');
	like($members->('ours'), qr/^account$/m, '... here somebody gets it');

	# the text of data and metadata is written by code of our own
	is($server->safe_psql('ours', q{
		WITH scalar (j) AS (
			SELECT to_jsonb(chr(n) || 'x' || chr(n) || chr(n)) FROM generate_series(1, 700) n
			UNION ALL SELECT to_jsonb(repeat('long "', n)) FROM generate_series(0, 2000, 97) n
			UNION ALL SELECT x::jsonb FROM unnest(ARRAY['null', 'true', 'false', '0', '-0.00', '1e3', '1.50', '1e-30', '12345678901234567890123.4', '""', '"ö"']) x),
		     list AS (SELECT jsonb_agg(j) AS j FROM scalar),
		     object AS (SELECT jsonb_object_agg(j::text || n % 7, j) AS j FROM (SELECT j, row_number() OVER () AS n FROM scalar) s),
		     value (j) AS (
			SELECT j FROM scalar UNION ALL SELECT jsonb_build_array(j, j) FROM scalar UNION ALL SELECT jsonb_build_object('a', j, 'b', jsonb_build_array(j)) FROM scalar
			UNION ALL SELECT j FROM list UNION ALL SELECT j FROM object UNION ALL SELECT jsonb_build_object('deep', jsonb_build_array(l.j, o.j, '[]'::jsonb, '{}'::jsonb)) FROM list l, object o
			UNION ALL SELECT '[]' UNION ALL SELECT '{}' UNION ALL SELECT (repeat('[', 500) || repeat(']', 500))::jsonb)
		SELECT count(*) > 2000, count(*) FILTER (WHERE message_store.data_text(j, '{}') IS DISTINCT FROM j::text),
			   count(*) FILTER (WHERE message_store.metadata_text(message_store.event_metadata(j, '1')) IS DISTINCT FROM j::text)
		  FROM value}), 't|0|0', 'JSON is written as PostgreSQL writes it');
	is(($server->psql('ours', q{SELECT message_store.data_text(message_store.data_text((repeat('[', 3000) || repeat(']', 3000))::jsonb, '{}')::jsonb, '{}')}))[0], 0,
		'... and deep nesting, too');

	is($server->safe_psql('ours', q{SELECT count(*), sum(version) FROM es_read_stream('account-1')}), '3|6',
		'messages are events of the store');
	like(client('ours', q{INSERT INTO messages (stream_name) VALUES ('a-1');}), qr/ERROR/, 'nobody writes past write_message');

	$server->safe_psql('ours', 'CREATE ROLE nobody');
	like(($server->psql('ours', q{SET ROLE nobody; SELECT message_store.stream_version('account-1')}))[2], qr/permission denied/,
		'nothing for PUBLIC');
	is($server->safe_psql('ours', q{
		SELECT count(*) FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass
		 WHERE d.deptype = 'e' AND p.pronamespace = 'message_store'::regnamespace AND obj_description(p.oid) IS NULL}), '0',
		'every function has a comment');
	return;
}
