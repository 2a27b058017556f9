# The recipes of doc/moving-in.md, as they stand there, on databases that other
# stores have made and filled: message-db and Emmett by their own npm packages,
# Marten by its tables, the tutorials' table, exports of KurrentDB and DynamoDB.
# What cannot be imported as it is, is refused with its row, and nothing is
# there; with what the recipe says it goes through.  At the end everything goes
# the way out and comes back equal.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use Cwd qw(abs_path);
use EventStoreTest;
use EventStoreTest::Documentation;
use File::Temp ();
use IPC::Run ();
use Test::More;

my $top = abs_path("$FindBin::Bin/../..");
my @blocks = grep { defined $_->{sql} && !$_->{hidden} } examples("$top/doc/moving-in.md");
my $folder = File::Temp::tempdir(CLEANUP => 1);
my $node = store_cluster('moving_in', preload => 'event_store');
my @environment = (PGHOST => $node->host, PGPORT => $node->port, PGTZ => 'UTC');

# what makes UUIDs of other ids
my ($uuid_of) = map { $_->{sql} } grep { $_->{sql} =~ /FUNCTION uuid_of/ } @blocks;

tutorial();
message_db();
message_db_with_its_clients();
emmett();
marten();
kurrentdb();
dynamodb();
way_out();
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# The n-th import (from 0 on) of a section, with what is before it in its block.
sub recipe
{
	my ($section, $n) = @_;
	my @imports = map { $_->{sql} } grep { $_->{section} eq $section && $_->{sql} =~ /es_import\(/ } @blocks;
	my $sql = $imports[ $n // 0 ] or die "section \"$section\" has no such recipe\n";

	# what it prints at the end is its example's
	return $sql =~ s/^\$\$\)[^;]*;\n\K.*//msr;
}

sub database
{
	my ($name) = @_;
	my $dbname = "old_$name";

	$node->safe_psql('postgres', "CREATE DATABASE $dbname");
	$node->safe_psql($dbname, "CREATE EXTENSION event_store;\n$uuid_of");
	return $dbname;
}

# A statement that fails: what psql says of it.
sub refusal
{
	my ($dbname, $sql) = @_;
	return ($node->psql($dbname, $sql, on_error_stop => 1))[2];
}

# Refused with this row, stream and reason, and nothing is there.
sub refused
{
	my ($dbname, $sql, $detail, $reason, $name) = @_;
	my $events = $node->safe_psql($dbname, 'SELECT count(*) FROM event_store.events');
	my $said = refusal($dbname, $sql);

	like($said, qr/\Q$reason\E/, "$name: refused");
	like($said, qr/^DETAIL:  \Q$detail\E$/m, '... and the row is named');
	is($node->safe_psql($dbname, 'SELECT count(*) FROM event_store.events'), $events, '... and nothing is there');
	return;
}

# Rows of a query of the old tables that are not the same among the events, and
# the other way round; columns are those of the events.
sub differences
{
	my ($dbname, $old, $columns) = @_;
	return $node->safe_psql($dbname, qq{
		SET timezone = 'UTC';
		WITH old AS ($old), new AS (SELECT $columns FROM event_store.events)
		SELECT 'old ' || o::text FROM (SELECT * FROM old EXCEPT ALL SELECT * FROM new) o
		UNION ALL SELECT 'new ' || n::text FROM (SELECT * FROM new EXCEPT ALL SELECT * FROM old) n LIMIT 10});
}

# Events whose place in the global order is not that of the query.
sub is_ordered
{
	my ($dbname, $ids, $name) = @_;

	is($node->safe_psql($dbname, "SELECT array_agg(event_id ORDER BY global_position) = (SELECT array_agg(id) FROM ($ids) o)
		FROM event_store.events"), 't', "$name: the global order");
	return;
}

sub tutorial
{
	my $db = database('tutorial');
	my $recipe = recipe('Moving in');

	$node->safe_psql($db, q{
		CREATE TABLE old_events (id bigserial PRIMARY KEY, aggregate_id text, version int, event_type text, payload jsonb,
			created_at timestamptz, UNIQUE (aggregate_id, version));
		INSERT INTO old_events (aggregate_id, version, event_type, payload, created_at)
		SELECT 'Order-' || n % 40, n / 40 + 1, 'Type' || n % 3, jsonb_build_object('n', n), '2024-01-01'::timestamptz + n * interval '1 s'
		  FROM generate_series(0, 399) n});
	$node->safe_psql($db, $recipe);
	is(differences($db, 'SELECT aggregate_id, version::bigint, event_type, payload, created_at FROM old_events',
			'stream_id, version, event_type, data, created_at'), '', 'the table of the tutorials: equal');
	refused($db, $recipe, 'row=1 stream=Order-0', 'version 1 does not continue stream', 'the table of the tutorials, once more');

	# from 0 on, with a hole, and without a key: the same row twice
	$node->safe_psql($db, q{
		CREATE TABLE holes AS SELECT n AS id, 'Cart-' || n % 2 AS stream, n / 2 AS version, 'T' AS type, jsonb_build_object('n', n) AS body
		  FROM generate_series(0, 19) n});
	refused($db, q{SELECT es_import('SELECT stream AS stream_id, version, type AS event_type, body AS data FROM holes ORDER BY id')},
		'row=1 stream=Cart-0', 'version 0 does not continue stream "Cart-0"', 'versions from 0 on');
	my $plus_one = q{SELECT es_import('SELECT stream AS stream_id, version + 1 AS version, type AS event_type, body AS data FROM holes ORDER BY id')};
	$node->safe_psql($db, 'DELETE FROM holes WHERE id = 7');
	refused($db, $plus_one, 'row=9 stream=Cart-1', 'version 5 does not continue stream "Cart-1"', 'a missing version');
	$node->safe_psql($db, q{INSERT INTO holes SELECT * FROM holes WHERE id = 4; DELETE FROM holes WHERE stream = 'Cart-1'});
	refused($db, $plus_one, 'row=4 stream=Cart-0', 'version 3 does not continue stream "Cart-0"', 'the same row twice');
	$node->safe_psql($db, $plus_one =~ s/FROM holes/FROM (SELECT DISTINCT * FROM holes) h/r);
	is($node->safe_psql($db, q{SELECT count(*), es_stream_version('Cart-0') FROM es_read_stream('Cart-0')}), '10|10', '... and as a set goes through');
	$node->safe_psql($db, q{DELETE FROM holes WHERE id IN (4, 8, 18); UPDATE holes SET stream = 'Basket-1'});
	$node->safe_psql($db, recipe('Versions that begin at 0, holes, double rows'));
	is($node->safe_psql($db, q{SELECT string_agg(version || '=' || (metadata->>'old_version'), ' ' ORDER BY version) FROM es_read_stream('Basket-1')}),
		'1=0 2=1 3=3 4=5 5=6 6=7 7=8', 'counted anew, and the old numbers are kept');

	# ids
	$node->safe_psql($db, q{CREATE TABLE named AS SELECT 'order:' || n AS old_id, n FROM generate_series(1, 10) n});
	my $by_name = q{SELECT es_import('SELECT ''Named-1'' AS stream_id, ''T'' AS event_type, to_jsonb(n) AS data, uuid_of(old_id) AS event_id,
		jsonb_build_object(''old_id'', old_id) AS metadata FROM named ORDER BY n')};
	like(refusal($db, $by_name =~ s/uuid_of\(old_id\)/old_id::uuid/r), qr/invalid input syntax for type uuid: "order:1"/, 'ids that are no UUIDs: refused');
	$node->safe_psql($db, q{UPDATE named SET old_id = 'order:2' WHERE n = 6});
	refused($db, $by_name, "row=6 stream=Named-1", 'already', 'an id that comes twice');
	$node->safe_psql($db, q{UPDATE named SET old_id = 'order:6' WHERE n = 6; } . $by_name);
	is($node->safe_psql($db, q{SELECT bool_and(event_id = uuid_generate_v5(uuid_ns_url(), metadata->>'old_id')) FROM es_read_stream('Named-1')}),
		't', 'ids of version 5, and the old ones are kept');
	return;
}

# message-db's database, by its own installer and its own write_message.
sub fill_message_db
{
	my ($db) = @_;
	my ($out, $err) = ('', '');
	my $package = "$top/contrib/message_db/test/node_modules/\@eventide/message-db/database";

	{
		local %ENV = (%ENV, @environment, DATABASE_NAME => $db, CREATE_DATABASE => 'off');
		IPC::Run::run([ 'bash', "$package/install.sh" ], '>', \$out, '2>', \$err) or diag($out, $err);
	}
	$node->safe_psql($db, q{
		SET search_path = message_store;
		SELECT count(write_message(md5('m' || n)::uuid::varchar, 'account-' || n % 7, 'Type' || n % 3, jsonb_build_object('n', n),
				CASE WHEN n % 2 = 0 THEN jsonb_build_object('correlationStreamName', 'signup-' || n) END)) FROM generate_series(1, 300) n;
		SELECT write_message(gen_random_uuid()::varchar, 'account', 'Snapshot', '[1]');
		SELECT write_message(gen_random_uuid()::varchar, 'account-3+x', 'Empty', NULL, NULL, -1);
		SELECT write_message(gen_random_uuid()::varchar, 'account-3+x', 'Odd', 'null', m::jsonb)
		  FROM unnest(ARRAY['"text"', '[1]', 'null', '{}', '{"$message_db": 1}']) m;});
	return;
}

sub message_db
{
	my $db = database('message_db');
	my $recipe = recipe('From message-db');

	fill_message_db($db);
	$node->safe_psql('postgres', "CREATE DATABASE old_message_db_kept TEMPLATE $db");
	$node->safe_psql($db, $recipe);
	is( differences(
			$db, q{SELECT id, stream_name, position + 1, type, coalesce(data, '{}'),
				CASE WHEN metadata IS NULL THEN '{}' WHEN jsonb_typeof(metadata) = 'object' THEN metadata
					 ELSE jsonb_build_object('metadata', metadata) END, time AT TIME ZONE 'UTC' FROM message_store.messages},
			'event_id, stream_id, version, event_type, data, metadata, created_at'), '', 'message-db: equal');
	is_ordered($db, 'SELECT id FROM message_store.messages ORDER BY global_position', 'message-db');
	refused($db, $recipe, 'row=1 stream=account-1', 'version 1 does not continue stream', 'message-db, once more');

	$node->safe_psql($db, q{
		DELETE FROM message_store.messages WHERE stream_name = 'account-4' AND position = 10;
		UPDATE message_store.messages SET stream_name = 'x' || stream_name, id = gen_random_uuid()});
	my $row = $node->safe_psql($db, q{SELECT n FROM (SELECT *, row_number() OVER (ORDER BY global_position) AS n FROM message_store.messages) m
		WHERE stream_name = 'xaccount-4' AND position = 11});
	refused($db, $recipe, "row=$row stream=xaccount-4", 'version 12 does not continue stream', 'message-db, a message that is missing');
	return;
}

# The functions give what those of the old schema give.
sub message_db_with_its_clients
{
	my $db = 'old_message_db_kept';
	my ($out, $new);
	my $all = sub {
		my ($schema, $columns, $call) = @_;
		return $node->safe_psql($db, qq{SET search_path = $schema; SELECT $columns FROM $call});
	};
	my @calls = (
		[ '*', q{(SELECT DISTINCT stream_name FROM messages WHERE stream_name LIKE '%-%') s,
			LATERAL (SELECT id, m.stream_name, type, position, data, metadata, time FROM get_stream_messages(s.stream_name, 0, -1) m) m ORDER BY 1, 5} ],
		[ 'id, stream_name, type, position, data, metadata, time', q{get_category_messages('account', 1, -1)} ],
		[ 'id, position', q{get_category_messages('account', 1, -1, correlation => 'signup')} ],
		[ 'id, position', q{get_category_messages('account', 1, -1, consumer_group_member => 1, consumer_group_size => 2) WHERE stream_name <> 'account'} ]);
	my @old = map { $all->('message_store', @$_) } @calls;

	$node->safe_psql($db, recipe('From message-db', 1));
	for my $n (0 .. $#calls)
	{
		cmp_ok(length $old[$n], '>', 0, 'message-db gives messages') if $n == 0;
		is($all->('message_store', @{ $calls[$n] }), $old[$n], "message-db's clients get the same, call $n");
	}
	is($node->safe_psql($db, q{SELECT count(*) FROM old_message_store.messages o JOIN message_store.messages n USING (id)
			WHERE (o.data, o.metadata, o.type, o.time) IS NOT DISTINCT FROM (n.data, n.metadata, n.type, n.time)}), '307', '... in the table, too');

	# where a consumer goes on
	my ($next) = map { $_->{sql} } grep { $_->{sql} =~ /AS next\n/ && $_->{section} eq 'From message-db' } @blocks;
	my $from = $node->safe_psql($db, $next =~ s/< 2;/< 200;/r);
	is( $node->safe_psql($db, "SELECT id FROM message_store.get_category_messages('account', $from, 1)"),
		$node->safe_psql($db, 'SELECT id FROM old_message_store.messages WHERE global_position >= 200 ORDER BY global_position LIMIT 1'),
		'a consumer goes on where he was');
	return;
}

sub emmett
{
	my $db = database('emmett');
	my $recipe = recipe('From Emmett');
	my $user = (getpwuid($<))[0];
	my $url = "postgresql://$user\@localhost:" . $node->port . "/$db?host=" . $node->host;
	my $said = '';

	ok(IPC::Run::run([ 'node', "$top/test/moving_in/emmett.mjs", $url ], '>', \$said, '2>&1', IPC::Run::timeout($EventStoreTest::limit)),
		'Emmett has filled its database')
	  or diag($said);
	$node->safe_psql($db, $recipe);
	is($node->safe_psql($db, 'SELECT count(*) FROM event_store.events'), 31, 'Emmett: all events');
	is( differences(
			$db, q{SELECT stream_id, stream_position, message_type, message_data, message_metadata, created, 1 FROM emt_messages},
			q{stream_id, version, event_type, data, metadata - 'old_id', created_at, schema_version}), '', 'Emmett: equal');
	is($node->safe_psql($db, q{SELECT count(*) FROM event_store.events e JOIN emt_messages m ON e.event_id::text = m.message_id}), 30, 'Emmett: ids are kept');
	is($node->safe_psql($db, q{SELECT event_id = uuid_generate_v5(uuid_ns_url(), 'confirmation/1'), metadata FROM event_store.events WHERE event_type = 'Confirmed'}),
		't|{"user": "u2", "old_id": "confirmation/1"}', 'Emmett: what is no UUID is made one, and kept');
	is_ordered($db, 'SELECT uuid_of(message_id) AS id FROM emt_messages ORDER BY transaction_id, global_position', 'Emmett');
	refused($db, $recipe, 'row=1 stream=shopping_cart-1', 'version 1 does not continue stream', 'Emmett, once more');
	$node->safe_psql($db, q{
		DELETE FROM emt_messages WHERE stream_id = 'shopping_cart-2' AND stream_position = 3;
		UPDATE emt_messages SET stream_id = 'x' || stream_id, message_id = message_id || 'x'});
	refused($db, $recipe, 'row=9 stream=xshopping_cart-2', 'version 4 does not continue stream', 'Emmett, an event that is missing');
	return;
}

# Marten's tables with everything that can be switched on.
sub marten
{
	my $db = database('marten');
	my $recipe = recipe('From Marten');

	$node->safe_psql($db, q{
		CREATE TABLE mt_streams (id varchar NOT NULL, type varchar NULL, version bigint, timestamp timestamptz DEFAULT (now()) NOT NULL,
			snapshot jsonb, snapshot_version integer, created timestamptz DEFAULT (now()) NOT NULL, tenant_id varchar DEFAULT '*DEFAULT*',
			is_archived bool DEFAULT FALSE, CONSTRAINT pkey_mt_streams_id PRIMARY KEY (id));
		CREATE TABLE mt_events (seq_id bigint NOT NULL, id uuid NOT NULL, stream_id varchar, version bigint NOT NULL, data jsonb NOT NULL,
			type varchar(500) NOT NULL, timestamp timestamptz DEFAULT (now()) NOT NULL, tenant_id varchar DEFAULT '*DEFAULT*',
			mt_dotnet_type varchar NULL, correlation_id varchar NULL, causation_id varchar NULL, headers jsonb NULL, is_archived bool DEFAULT FALSE,
			CONSTRAINT pkey_mt_events_seq_id PRIMARY KEY (seq_id));
		CREATE UNIQUE INDEX pk_mt_events_stream_and_version ON mt_events (stream_id, version);
		CREATE UNIQUE INDEX pk_mt_events_id_unique ON mt_events (id);
		INSERT INTO mt_streams (id, type) SELECT md5(s::text)::uuid, CASE WHEN s % 2 = 0 THEN 'quest' END FROM generate_series(0, 4) s;
		INSERT INTO mt_streams (id, version) VALUES ('mt_tombstone', 0);
		INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, timestamp, mt_dotnet_type, headers, correlation_id, is_archived)
		SELECT n, gen_random_uuid(), md5((n % 5)::text)::uuid, n / 5 + 1, jsonb_build_object('N', n), 'members_joined', '2024-01-01'::timestamptz + n * interval '1 s',
			'Quests.MembersJoined, Quests', CASE WHEN n % 3 = 0 THEN jsonb_build_object('user', n, 'none', NULL) END, 'c-' || n, n % 5 = 3
		  FROM generate_series(0, 99) n WHERE n <> 57;
		-- what was to be 57 has failed, and was tried again
		INSERT INTO mt_events (seq_id, id, stream_id, version, data, type, mt_dotnet_type) VALUES
			(57, gen_random_uuid(), 'mt_tombstone', 57, '{}', 'tombstone', 'Marten.Events.Operations.Tombstone, Marten');
		UPDATE mt_events SET version = version - 1 WHERE stream_id = md5('2')::uuid::text AND seq_id > 57;
		UPDATE mt_streams s SET version = (SELECT max(version) FROM mt_events WHERE stream_id = s.id)});
	$node->safe_psql($db, $recipe);
	is( differences(
			$db, q{SELECT coalesce(s.type, 'stream') || '-' || e.stream_id, e.version, e.id, e.type::text, e.data, e.timestamp, e.headers, e.correlation_id::text
				FROM mt_events e JOIN mt_streams s ON s.id = e.stream_id WHERE e.stream_id <> 'mt_tombstone'},
			q{stream_id, version, event_id, event_type, data, created_at, nullif(metadata->'headers', 'null'), metadata->>'correlation_id'}), '', 'Marten: equal');
	is($node->safe_psql($db, 'SELECT count(*) FROM event_store.events'), 99, 'Marten: all events but the tombstone');
	is_ordered($db, q{SELECT id FROM mt_events WHERE type <> 'tombstone' ORDER BY seq_id}, 'Marten');
	refused($db, $recipe =~ s/WHERE e.type <> 'tombstone'/WHERE e.stream_id LIKE 'mt_%'/r, 'row=1 stream=stream-mt_tombstone',
		'version 57 does not continue stream', 'Marten, a tombstone');
	return;
}

# A file as psql's \copy reads it, in the way of the manual.
sub load_lines
{
	my ($dbname, $table, @lines) = @_;
	my $file = "$folder/lines." . int rand 1e9;
	my ($options) = map { /COPY exported .*?(WITH \(.*?\));/ } map { $_->{sql} } @blocks;

	open my $out, '>:encoding(UTF-8)', $file or die "cannot write $file: $!";
	print $out "$_\n" for @lines;
	close $out;
	my ($ret, undef, $said) = $node->psql($dbname, "\\copy $table from '$file' $options");
	is($said, '', 'a file is loaded');
	return;
}

sub kurrentdb
{
	my $db = database('kurrentdb');
	my ($create) = map { /(CREATE TABLE exported .*?;)/ } map { $_->{sql} } @blocks;
	my $recipe = recipe('From KurrentDB: JSON lines') =~ s/.*^\\\.\n//msr;
	my $n = 0;
	my $line = sub {
		my ($stream, $number, $type, %more) = @_;
		my $data = $more{data} // sprintf('{"n": %d, "text": "a \"quoted\" w\u00f6rd, a \\\\ and ö\n"}', $n);
		my $metadata = $more{metadata} // 'null';
		my $id = $more{id} // sprintf('%08d-0000-4000-8000-000000000000', ++$n);
		return qq({"eventStreamId": "$stream", "eventNumber": $number, "eventType": "$type", "eventId": "$id", )
		  . qq("created": "2024-05-01T10:00:00.1234567Z", "data": $data, "metadata": $metadata});
	};
	my @lines;

	$node->safe_psql($db, $create);
	for my $number (0 .. 9)
	{
		push @lines, map { $line->("invoice-$_", $number, 'InvoiceSent', metadata => '{"$correlationId": "c"}'),
			  $line->('$ce-invoice', $number * 3 + $_, '$>', data => '{}') } 0 .. 2;
	}
	load_lines($db, 'exported (line)', @lines);
	$node->safe_psql($db, $recipe);
	is( differences(
			$db, q{SELECT line->>'eventStreamId', (line->>'eventNumber')::bigint + 1, (line->>'eventId')::uuid, line->'data', line->'metadata',
				(line->>'created')::timestamptz FROM exported WHERE line->>'eventType' <> '$>'},
			'stream_id, version, event_id, data, metadata, created_at'), '', 'KurrentDB: equal');
	is($node->safe_psql($db, 'SELECT count(*) FROM event_store.events'), 30, 'KurrentDB: all events but the links');
	refused($db, $recipe, 'row=1 stream=invoice-0', 'version 1 does not continue stream', 'KurrentDB, once more');

	# a line twice; numbers that do not begin at 0; a missing one; an id that is none
	my $once = $recipe =~ s/FROM exported\b/FROM (SELECT min(n) AS n, line FROM exported GROUP BY line) AS e/r;
	my $try = sub { $node->safe_psql($db, 'TRUNCATE exported'); load_lines($db, 'exported (line)', @_); };
	my @twice = map { $line->('twice-1', $_, 'A') } 0 .. 3;
	$try->(@twice[ 0, 1, 1, 2, 3 ]);
	refused($db, $recipe, 'row=3 stream=twice-1', 'version 2 does not continue stream "twice-1"', 'KurrentDB, a line twice');
	$node->safe_psql($db, $once);
	is($node->safe_psql($db, q{SELECT es_stream_version('twice-1')}), 4, '... and as the manual says it goes through');
	$try->(map { $line->('cut-1', $_, 'A') } 5 .. 8);
	refused($db, $recipe, 'row=1 stream=cut-1', 'version 6 does not continue stream "cut-1"', 'KurrentDB, a stream that has been cut');
	$try->(map { $line->('hole-1', $_, 'A') } 0, 1, 3);
	refused($db, $recipe, 'row=3 stream=hole-1', 'version 4 does not continue stream "hole-1"', 'KurrentDB, a number that is missing');
	$try->($line->('id-1', 0, 'A', id => 'no id'));
	like(refusal($db, $recipe), qr/invalid input syntax for type uuid: "no id"/, 'KurrentDB, an id that is none: refused');
	$try->($line->('id-1', 0, 'A', id => '00000001-0000-4000-8000-000000000000'));
	refused($db, $recipe, 'row=1 stream=id-1', 'already', 'KurrentDB, an id that is there');
	return;
}

sub dynamodb
{
	my $db = database('dynamodb');
	my $recipe = recipe('From DynamoDB');
	my $item = sub {
		my ($stream, $version, %more) = @_;
		return sprintf '{"Item": {"PK": {"S": "STREAM#%s"}, "SK": {"S": "VERSION#%d"}, "type": {"S": "Changed"}, '
		  . '"at": {"S": "2024-05-01T10:%02d:%02dZ"}, "data": {"M": {"n": {"N": "%s"}, "list": {"L": [{"N": "1.50"}, {"S": "x"}, {"L": []}, {"M": {}}]}, '
		  . '"numbers": {"NS": ["3", "4"]}, "words": {"SS": ["a", "b"]}, "yes": {"BOOL": true}, "none": {"NULL": true}, "bytes": {"B": "AAE="}}}}}',
		  $stream, $version, $more{minute} // $version / 60, $more{second} // $version % 60, $more{n} // $version;
	};
	my @items = map { my $version = $_; map { $item->("ticket-$_", $version) } 1 .. 3 } 1 .. 20;

	$node->safe_psql($db, 'CREATE TABLE dynamodb_export (line jsonb NOT NULL)');
	# three files, each in an order of its own, some items in two of them
	seed_random();
	my @files = ([ @items[ 0 .. 5 ] ], [ @items[ 4 .. 40 ] ], [ @items[ 41 .. $#items ] ]);
	load_lines($db, 'dynamodb_export', sort { random_int(0, 1) ? -1 : 1 } @$_) for @files;
	$node->safe_psql($db, $recipe);
	is($node->safe_psql($db, q{SELECT stream_id, count(*), bool_and(data = jsonb_build_object('n', version, 'list', '[1.50, "x", [], {}]'::jsonb,
			'numbers', '[3, 4]'::jsonb, 'words', '["a", "b"]'::jsonb, 'yes', true, 'none', NULL, 'bytes', 'AAE='))
		  FROM event_store.events GROUP BY 1 ORDER BY 1}), "ticket-1|20|t\nticket-2|20|t\nticket-3|20|t", 'DynamoDB: all items, once, in the order of their versions');
	is($node->safe_psql($db, q{SELECT count(*) FROM (SELECT created_at < lag(created_at) OVER (ORDER BY global_position) AS back FROM event_store.events) e WHERE back}),
		0, 'DynamoDB: streams in the order of time');

	my $functions = qr/^CREATE FUNCTION.*?^\$\$;\n/ms;
	$recipe =~ s/$functions//;
	my $try = sub { $node->safe_psql($db, 'TRUNCATE dynamodb_export'); load_lines($db, 'dynamodb_export', @_); };
	$try->(map { $item->('gone-1', $_) } 1, 2, 4);
	refused($db, $recipe, 'row=3 stream=gone-1', 'version 4 does not continue stream "gone-1"', 'DynamoDB, an item that is missing');
	$try->($item->('two-1', 1), $item->('two-1', 2), $item->('two-1', 2, n => 7));
	refused($db, $recipe, 'row=3 stream=two-1', 'version 2 does not continue stream "two-1"', 'DynamoDB, two items of one key');
	$try->($item->('clock-1', 1, second => 9), $item->('clock-1', 2, second => 5));
	refused($db, $recipe, 'row=1 stream=clock-1', 'version 2 does not continue stream "clock-1"', 'DynamoDB, clocks that differ');
	my ($inner) = $recipe =~ /\$\$\n\s*(SELECT DISTINCT.*?)\s+ORDER BY/s;
	$node->safe_psql($db, "SELECT es_import(\$\$ SELECT * FROM ($inner) AS e
		ORDER BY max(created_at) OVER (PARTITION BY stream_id ORDER BY version), stream_id, version \$\$)");
	is($node->safe_psql($db, q{SELECT es_stream_version('clock-1')}), 2, '... and as the manual says they go through');
	return;
}

# Everything, with events of no stream, with and without tags; to a file and back.
sub way_out
{
	my $db = database('out');
	my $back = database('back');
	my ($copy) = map { /^(COPY \(.*?\)\n\s*TO) STDOUT (WITH \(.*?\));/ms ? "$1 '$folder/out.jsonl' $2" : () } map { $_->{sql} } @blocks;
	my $recipe = recipe('The way out') =~ s/ > 0 AS imported//r;

	$node->safe_psql($db, q{
		SELECT count(*) FROM generate_series(1, 200) n, LATERAL es_append('Out-' || n % 10, es_any(), 'T',
			jsonb_build_object('n', n, 'text', E'a "q", \\ \t\n\x01 ö', 'big', 12345678901234567890.50, 'none', NULL),
			'{"m": [1]}', NULL, n % 3 + 1, CASE WHEN n % 4 = 0 THEN ARRAY['b:' || n, 'a"\\,{}'] END);
		SELECT count(*) FROM es_append_if('[{"event_type": "Free", "data": 1}, {"event_type": "Free", "data": null, "tags": ["t"]},
			{"event_type": "Free", "data": "x", "tags": [], "metadata": {"a": 1}}]', '{"items": [{"event_types": ["Never"]}]}');
		SELECT es_append('Out-1', es_any(), 'T', '{}')});
	# as one who is not superuser writes it
	$copy = "\\copy " . ($copy =~ s/^COPY |\n//gr);
	$node->safe_psql($db, $copy);
	my $events = $node->safe_psql($db, 'SELECT count(*) FROM event_store.events');
	open my $in, '<', "$folder/out.jsonl" or die "cannot read out.jsonl: $!";
	my @lines = <$in>;
	close $in;
	is(scalar @lines, $events, 'the way out: an event a line');
	chomp @lines;

	$node->safe_psql($back, 'CREATE TABLE lines (n bigserial PRIMARY KEY, line jsonb NOT NULL)');
	my ($options) = $copy =~ /(WITH \(.*\))/;
	$node->safe_psql($back, "\\copy lines (line) from '$folder/out.jsonl' $options");
	is($node->safe_psql($back, $recipe), $events, 'the way out: all of them are read');
	my $content = q{SET timezone = 'UTC'; SELECT row_number() OVER (ORDER BY global_position), to_jsonb(e) - 'global_position' FROM event_store.events e ORDER BY global_position};
	is($node->safe_psql($back, $content), $node->safe_psql($db, $content), 'the way out: equal, in the same order');
	is($node->safe_psql($back, q{SELECT count(*), count(*) FILTER (WHERE es_tags(e) <> '{}') FROM es_read_all(max_count => 1000) e WHERE stream_id IS NULL}), '3|1',
		'the way out: events of no stream, too');
	return;
}
