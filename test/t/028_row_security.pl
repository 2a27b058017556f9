# Row-level security on every path: for a role from which a policy hides events
# every function and every relation of the extension, and of contrib/message_db,
# is asked in every way that a statement can ask.  Nothing of a hidden event may
# be in what comes back: rows, plans, errors with their details and contexts,
# notices of whatever has been handed an event.
#
# What is there to ask is taken from the catalog; a function or relation without
# a line here fails the test.  The control is that the same questions, put by
# somebody to whom no policy applies, do show what is hidden.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use Test::More;

seed_random();
my $node = store_cluster('row_security', conf => "message_store.sql_condition = on\n");
my $major = pg_major($node);
my $admin = connect_store($node, plain => 1);

# What only hidden events have: words of their data, metadata and tags, the name
# of a stream, ids.  Types and categories are no secret.
my $secret = qr/zebra|okapi|deadbeef/;

# Visible events have this word.
my $visible = qr/mine/;

# Whose answers have something of hidden events for whom no policy applies to.
my %tells = map { $_ => 1 } qw(
  es_read_stream es_read_all es_read_category es_read_query es_read_event es_envelope es_tags es_load es_state
  es_read_snapshot es_decide es_list_streams es_check_upcasters es_preview_upcasters es_append es_append_batch
  es_append_streams es_append_if es_import es_fetch es_run_projection
  es_retry_projection_parked consumers
  get_stream_messages get_stream_messages_where get_category_messages get_category_messages_where
  get_last_stream_message
  event stream snapshot events parked_events subscriptions projections projection_parked
  messages stream_summary stream_type_summary type_stream_summary pg_stats);

# Of these the visible part is shown; the others have none, or refuse.
my %shows = map { $_ => 1 } qw(
  es_read_stream es_read_all es_read_category es_read_query es_read_event es_envelope es_tags es_load es_state
  es_decide es_preview_upcasters es_fetch es_run_projection
  get_stream_messages get_stream_messages_where get_category_messages get_category_messages_where
  get_last_stream_message event events messages es_import es_check_upcasters);

# before 15 views show nothing to whom policies apply
my @shut_views = $major < 15 ? qw(events messages) : ();

run_sql($admin, map { "CREATE ROLE es_$_ LOGIN" } qw(shut reader tenant));
tenants();
every_path();
$admin->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub id
{
	my ($n) = @_;
	return sprintf 'deadbeef-0000-4000-8000-%012d', $n;
}

# Streams of visible, mixed and hidden events, and all that remembers events.
sub fill
{
	my ($db) = @_;
	my $super = connect_store($node, db => $db);
	my $hidden = 0;
	my $nothing = '{"items": [{"event_types": ["None"]}]}';
	my $event = sub {
		my ($stream, $type, $shown) = @_;
		my $word = $shown ? 'mine' : 'zebra';
		my $meta = sprintf '{"tenant": "%s", "note": "%s"}', $shown ? 'a' : 'b', $word;
		$super->do(
			'SELECT es_append_if(jsonb_build_object($1::text, $2::text, $3::text, $4::text, $5::text, $6::jsonb,
				$7::text, $8::jsonb, $9::text, jsonb_build_array($10::text), $11::text, $12::text), $13::jsonb)',
			undef, 'event_type', $type, 'stream_id', $stream, 'data', qq({"word": "$word"}),
			'metadata', $meta, 'tags', "t:$word", 'event_id', $shown ? random_uuid() : id(++$hidden), $nothing);
	};

	run_sql(
		$super,
		q{CREATE FUNCTION leak(what text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$
		  BEGIN RAISE NOTICE 'leak %', what; RETURN true; END $$},
		q{CREATE FUNCTION up(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
		  BEGIN
			RAISE NOTICE 'upcast %', data;
			IF data->>'word' = 'zebra' AND data->>'poison' = 'yes' THEN RAISE 'poison %', data; END IF;
			RETURN data;
		  END $$},
		q{CREATE FUNCTION reduce(state jsonb, e es_event) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
		  BEGIN RAISE NOTICE 'reduce %', e; RETURN state || jsonb_build_array(e.data); END $$},
		q{CREATE FUNCTION raises(e es_event) RETURNS void LANGUAGE plpgsql AS $$
		  BEGIN RAISE 'handler of %', e; END $$},
		q{CREATE FUNCTION shows(e es_event) RETURNS void LANGUAGE plpgsql AS $$
		  BEGIN RAISE NOTICE 'handler of %', e; END $$},
		q{CREATE FUNCTION reset() RETURNS void LANGUAGE sql AS ''});
	$event->('Own-1', 'T', 1) for 1 .. 3;
	$event->('Mix-1', 'T', $_ % 2) for 1 .. 6;
	$event->('Hid-okapi', 'T', 0) for 1 .. 3;
	$event->('Old-1', 'Old', $_) for 1, 0;
	$super->do(q{SELECT es_append('Old-1', es_any(), 'Old', '{"word": "zebra", "poison": "yes"}',
		'{"tenant": "b"}', $1::uuid)}, undef, id(++$hidden));
	$event->(undef, 'Free', $_) for 1, 0;
	run_sql(
		$super,
		q{SELECT es_define_upcaster('Old', 1, 'up(jsonb)', NULL, 2)},
		q{SELECT es_define_aggregate('Mix', 'reduce(jsonb, es_event)', '[]', 1)},
		q{SELECT version FROM es_state('Mix-1')},
		q{SELECT es_snapshot('Hid-okapi', 3, '{"word": "zebra"}')},
		q{SELECT es_snapshot('Own-1', 3, '{"word": "zebra"}')},
		q{SELECT es_create_subscription('one')},
		q{SELECT es_create_subscription('parks', '{Own,Mix,Hid}')},
		q{SELECT es_create_subscription('group', slots => 2)},
		q{SELECT es_create_subscription('named', query => '{"items": [{"streams": ["Hid-okapi"]}]}')},
		q{SELECT es_join('group', 'm')},
		q{SELECT count(*) FROM es_fetch('parks', member => 'm')},
		qq{SELECT es_nack('parks', (SELECT global_position FROM event_store.event WHERE event_id = '${\id(4)}'),
			'zebra', false, 'm')},
		q{SELECT es_create_projection('parks', 'raises(es_event)', '{Hid}', max_attempts => 1, policy => 'park')},
		q{SELECT es_wait_projection('parks', es_head())},
		q{SELECT es_create_projection('stops', 'raises(es_event)', '{Hid}', max_attempts => 1)},
		q{SELECT message_store.grant_client('es_shut')},
		(map { "SELECT es_grant('es_shut', '$_')" } qw(reader writer admin monitor)),
		q{SET ROLE es_shut},
		q{SELECT es_create_projection('own', 'shows(es_event)', paused => true, reset_handler => 'reset()')},
		q{RESET ROLE},
		q{ALTER ROLE es_shut SET app.tenant = 'a'},
		q{ANALYZE});
	ok( poll_until(
			sub {
				sql_value($super, q{SELECT state FROM event_store.projections WHERE name = 'stops'}) eq 'stopped';
			}),
		'the projection has stopped');
	return $super;
}

# ---------------------------------------------------------------------------

# Functions and how to ask them: what stands in FROM, or a whole query.
sub calls
{
	my ($dbh) = @_;
	my $known = id(4);
	my $free = sql_value($dbh, q{SELECT e::text FROM es_read_query('{"items": [{"tags": ["t:zebra"], "event_types": ["Free"]}]}') e});
	my $position = sql_value($dbh, "SELECT global_position FROM event_store.event WHERE event_id = '$known'");
	my $streams = q{(VALUES ('Own-1'), ('Mix-1'), ('Hid-okapi'), ('Old-1')) s(id)};
	my $everything = q{'{"items": []}'};
	my @ids = map { id($_) } 1 .. 9;
	my $both = qq([{"event_type": "T", "data": 1, "event_id": "$known"}, {"event_type": "T", "data": 1}]);
	my $import = q{SELECT 'Imp-1' AS stream_id, 'T' AS event_type, };
	my $old = q{(SELECT d FROM (VALUES ('{"word": 1}'::jsonb)) v(d))};
	return (
		# reading
		es_read_stream => [
			"SELECT e.* FROM $streams, es_read_stream(s.id) e", q{es_read_stream('Mix-1')},
			q{es_read_stream('Mix-1', 2)}, q{es_read_stream('Mix-1', NULL, 3, true)}, q{es_read_stream('Hid-okapi')}
		],
		es_read_all => [
			'es_read_all(0, NULL)', 'es_read_all(backward => true)', q{es_read_all(categories => '{Hid,Mix}')},
			q{es_read_all(event_types => '{T,Old}')}
		],
		es_read_category => [ q{es_read_category('Hid')}, q{es_read_category('Mix')}, q{es_read_category('Old', backward => true)} ],
		es_read_query => [
			"es_read_query($everything)", "es_read_query($everything, backward => true)",
			q{es_read_query('{"items": [{"event_types": ["Free"]}, {"streams": ["Mix-1"]}]}')}
		],
		es_read_event => [ "SELECT (es_read_event(e.event_id)).* FROM event_store.event e",
			"SELECT es_read_event(('deadbeef-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid) FROM generate_series(1, 9) n" ],
		es_envelope => ['SELECT es_envelope(e) FROM es_read_all(0, NULL) e'],
		es_tags => [ "es_tags('" . ($free =~ s/zebra/other/gr =~ s/'/''/gr) . "'::es_event)",
			'SELECT es_tags(e) FROM es_read_all(0, NULL) e' ],
		es_load => [ "SELECT l.* FROM $streams, es_load(s.id) l", q{es_load('Mix-1')} ],
		es_state => [ q{es_state('Mix-1')}, q{es_state('Mix-1', 4)}, q{es_state('Mix-1', at_time => now())} ],
		es_read_snapshot => [ "SELECT p.* FROM $streams, es_read_snapshot(s.id) p", q{es_read_snapshot('Own-1')} ],
		es_decide => ["es_decide($everything, 'reduce(jsonb, es_event)', '[]')"],
		es_list_streams => [ 'es_list_streams()', q{es_list_streams('Hid')}, q{es_list_streams(prefix => 'Hid-')} ],
		es_check_category => [ q{event_store.es_check_category('Hid')}, q{event_store.es_check_category('Hid-okapi')} ],
		es_stream_version => [ q{es_stream_version('Mix-1')}, q{es_stream_version('Hid-okapi')} ],
		es_position_at => [q{es_position_at('2000-01-01')}],
		es_head => ['es_head()'],
		es_wait => [q{es_wait(0, '0 s')}],
		es_verify => [ 'es_verify()', q{es_verify('Hid-okapi')} ],
		es_check_upcasters => [ 'es_check_upcasters(NULL)', q{es_check_upcasters('Old')} ],
		es_preview_upcasters => ['es_preview_upcasters(max_count => 10)'],
		es_upcast_type => [q{event_store.es_upcast_type('Old', 1)}],
		es_consumed_type => [q{event_store.es_consumed_type('Old', 1)}],
		es_upcast_schema_version => [q{event_store.es_upcast_schema_version('Old', 1)}],
		es_upcast_data => [qq{event_store.es_upcast_data('Old', 1, $old, '$known', 'Old-1', 2, '{}')}],
		es_stream_visible => ['SELECT event_store.es_stream_visible(n) FROM generate_series(1, 10) n'],

		# appending: what a conflict tells
		es_any => ['es_any()'],
		es_exists => ['es_exists()'],
		es_append => [
			q{es_append('Mix-1', 1, 'T', '{}')}, qq{es_append('Own-1', es_any(), 'T', '{}', event_id => '$known')},
			qq{es_append('Own-1', es_any(), '$both')}, q{es_append('Hid-okapi', 0, '{"event_type": "T", "data": 1}')}
		],
		es_append_batch => [
			qq{es_append_batch('Own-1', es_any(), '{T,T}', '{1,2}', event_ids => ARRAY['$known', NULL]::uuid[])},
			q{es_append_batch('Hid-okapi', 1, '{T}', '{1}')}
		],
		es_append_streams => [
			qq{es_append_streams('[{"stream_id": "Own-1", "expected_version": -100, "events": $both}, {"stream_id": "Mix-1", "expected_version": 2}]')},
			qq{es_append_streams('[{"stream_id": "Own-1", "expected_version": -100, "events": $both}]')}
		],
		es_append_if => [
			q{es_append_if('{"event_type": "T", "data": 1}', '{"items": [{"streams": ["Hid-okapi"]}]}')},
			q{es_append_if('{"event_type": "T", "data": 1}', '{}', 0)},
			qq{es_append_if('$both', '{"items": [{"event_types": ["None"]}]}')}
		],
		es_import => [
			qq{es_import(\$\$$import data FROM event_store.events\$\$)},
			qq{es_import(\$\$$import '1'::jsonb AS data, '$known'::uuid AS event_id\$\$)},
			qq{es_import(\$\$$import e.data FROM es_read_all(0, NULL) e WHERE leak(e::text)\$\$)}
		],
		es_snapshot => [q{es_snapshot('Own-1', 3, '{}')}],

		# following
		es_create_subscription => [q{es_create_subscription('two')}],
		es_fetch => [ q{es_fetch('one')}, q{es_fetch('parks', member => 'm')}, q{es_fetch('group', member => 'm')} ],
		es_ack => [ "es_ack('parks', $position, 'm')", "es_ack('one', $position)", q{es_ack('one', 1000000)} ],
		es_nack => [ "es_nack('parks', $position, 'no', member => 'm')", "es_nack('one', $position, 'no')" ],
		es_join => [q{es_join('group', 'n')}],
		es_leave => [q{es_leave('group', 'm')}],
		es_subscription_lag => [ q{event_store.es_subscription_lag('one')}, q{event_store.es_subscription_lag('parks')} ],
		es_drop_subscription => [q{es_drop_subscription('one')}],
		es_reset_subscription => [q{es_reset_subscription('parks')}],
		es_retry_parked => [ q{es_retry_parked('parks')}, q{es_retry_parked('parks', 'Hid-okapi')} ],
		es_discard_parked => ["es_discard_parked('parks', $position)"],
		es_discard_parked_stream => [ q{es_discard_parked_stream('parks', 'Mix-1')}, q{es_discard_parked_stream('parks', 'Hid-okapi')} ],

		# projections: one of theirs, two of somebody else
		es_create_projection => [q{es_create_projection('two', 'shows(es_event)')}],
		es_run_projection => [ q{es_run_projection('own')}, q{es_run_projection('stops')}, q{es_run_projection('parks')} ],
		es_wait_projection => [ q{es_wait_projection('stops', 1000, '0 s')}, q{es_wait_projection('parks', 1, '0 s')} ],
		es_pause_projection => [ q{es_pause_projection('own')}, q{es_pause_projection('stops')} ],
		es_resume_projection => [ q{es_resume_projection('own')}, q{es_resume_projection('stops')} ],
		es_drop_projection => [ q{es_drop_projection('own')}, q{es_drop_projection('stops')} ],
		es_rebuild_projection => [ q{es_rebuild_projection('own')}, q{es_rebuild_projection('stops', true)} ],
		es_prepare_projection => [ q{es_prepare_projection('own', 'shows(es_event)')}, q{es_prepare_projection('stops', 'shows(es_event)')} ],
		es_switch_projection => [ q{es_switch_projection('own')}, q{es_switch_projection('stops')} ],
		es_cancel_rebuild => [ q{es_cancel_rebuild('own')}, q{es_cancel_rebuild('stops')} ],
		es_retry_projection_parked => [ q{es_retry_projection_parked('parks')}, q{es_retry_projection_parked('parks', 'Hid-okapi')}, q{es_retry_projection_parked('own')} ],
		es_discard_projection_parked => [ q{es_discard_projection_parked('parks', 'Hid-okapi')}, q{es_discard_projection_parked('own', 'Hid-okapi')} ],
		es_projection_backlog => [ q{event_store.es_projection_backlog('stops', false)}, q{event_store.es_projection_backlog('own', false, true)} ],
		es_projection_error_visible => ['event_store.es_projection_error_visible(current_user::text)'],
		es_is_replaying => ['es_is_replaying()'],
		es_take_over => ['es_take_over()'],

		# definitions
		es_define_upcaster => [q{es_define_upcaster('T', 1, 'up(jsonb)', NULL, 2)}],
		es_drop_upcaster => [q{es_drop_upcaster('Old', 1)}],
		es_define_aggregate => [q{es_define_aggregate('Hid', 'reduce(jsonb, es_event)', '[]')}],
		es_drop_aggregate => [q{es_drop_aggregate('Mix')}],
		es_drop_snapshots => [q{es_drop_snapshots('Hid-okapi')}],

		# figures
		es_head_status => ['event_store.es_head_status()'],
		es_transaction_status => [q{event_store.es_transaction_status('1')}],
		es_worker_status => ['event_store.es_worker_status()'],
		es_statistics => ['event_store.es_statistics()'],
		es_reset_statistics => ['es_reset_statistics()'],
		es_import_progress => ['event_store.es_import_progress()'],

		# message-db
		get_stream_messages => [
			q{message_store.get_stream_messages('Mix-1')},
			q{message_store.get_stream_messages('Mix-1', condition => 'public.leak(data::text)')},
			q{message_store.get_stream_messages('Hid-okapi')}
		],
		get_stream_messages_where => [q{message_store.get_stream_messages_where('Mix-1', 0, 9, 'public.leak(messages::text)')}],
		get_category_messages => [
			q{message_store.get_category_messages('Mix')},
			q{message_store.get_category_messages('Mix', condition => 'public.leak(data::text)')},
			q{message_store.get_category_messages('Hid')}
		],
		get_category_messages_where => [q{message_store.get_category_messages_where('Mix', 0, 9, NULL, NULL, NULL, 'public.leak(messages::text)')}],
		get_last_stream_message => [ q{message_store.get_last_stream_message('Mix-1')}, q{message_store.get_last_stream_message('Hid-okapi')},
			q{message_store.get_last_stream_message('Mix-1', 'T')} ],
		stream_version => [q{message_store.stream_version('Hid-okapi')}],
		write_message => [
			qq{message_store.write_message('$known', 'Own-1', 'T', '{}')},
			q{message_store.write_message(gen_random_uuid()::varchar, 'Mix-1', 'T', '{}', NULL, 1)}
		],
		acquire_lock => [q{message_store.acquire_lock('Mix-1')}],
		(map { $_ => ["message_store.$_('Mix-1')"] } qw(category is_category id cardinal_id hash_64)),
		message_store_version => ['message_store.message_store_version()'],
		event_metadata => [q{message_store.event_metadata('{}', '{}')}],
		stored_metadata => [q{message_store.stored_metadata('{}')}],
		stored_data => [q{message_store.stored_data('{}', '{}')}],
		data_text => [q{message_store.data_text('{}', '{}')}],
		metadata_text => [q{message_store.metadata_text('{}')}],
		is_wanted => [q{message_store.is_wanted('Mix-1', '{}', NULL, NULL, NULL)}],
		check_condition => [q{message_store.check_condition('true')}],
		check_category => [q{message_store.check_category('Mix', NULL, NULL, NULL)}],
		check_stream => [q{message_store.check_stream('Mix-1')}],
		limit_of => ['message_store.limit_of(1)'],
		count_of => ['message_store.count_of(1)']);
}

# Every way to ask; $x is what stands in FROM.
sub ways
{
	my ($x) = @_;
	my $query = $x =~ /^SELECT/;
	my $from = $query ? "($x) x" : "$x x";
	my %way = (
		rows => ["SELECT x::text FROM $from"],
		'without the scan' => [ 'SET LOCAL event_store.enable_eventscan = off', "SELECT x::text FROM $from" ],
		'a function that tells' => ["SELECT FROM $from WHERE leak(x::text)"],
		explain => ["EXPLAIN (ANALYZE, VERBOSE) SELECT x::text FROM $from"],
		copy => ["COPY (SELECT x::text FROM $from) TO STDOUT"],
		cursor => [ "DECLARE c CURSOR FOR SELECT x::text FROM $from", 'FETCH 1 FROM c', 'FETCH ALL FROM c' ],
		prepared => [ "PREPARE p AS SELECT x::text FROM $from", ('EXECUTE p') x 2, 'DEALLOCATE p' ]);
	$way{value} = ["SELECT $x"] if $x =~ /\)$/ && !$query;
	return %way;
}

# All that these statements tell, rolled back.
sub told
{
	my ($dbh, $role, @statements) = @_;
	my $told = '';
	local $SIG{__WARN__} = sub { $told .= $_[0] };
	local $dbh->{PrintWarn} = 1;
	local $dbh->{pg_errorlevel} = 2;

	$dbh->do('BEGIN');
	$dbh->do("SET LOCAL ROLE $role") if $role;
	foreach my $sql (@statements)
	{
		my $done = eval {
			my $sth = $dbh->prepare($sql, { pg_server_prepare => 0, pg_placeholder_dollaronly => 1 });
			$sth->execute;
			if ($sql =~ /^COPY/)
			{
				my $line;
				$told .= $line while $dbh->pg_getcopydata(\$line) >= 0;
			}
			elsif ($sth->{NUM_OF_FIELDS})
			{
				$told .= join(' ', map { ref $_ ? "@$_" : $_ // '' } @$_) . "\n" for @{ $sth->fetchall_arrayref };
			}
			1;
		};
		next if $done;
		$told .= $dbh->errstr // $@;
		last;
	}
	$dbh->do('ROLLBACK');
	$dbh->do('DEALLOCATE ALL') if $statements[0] =~ /^PREPARE/;
	return without_own($told, @statements);
}

# An answer without the words that the question has.
sub without_own
{
	my ($told, @statements) = @_;
	my $own = join ' ', @statements;
	$told =~ s/$_//g for grep { index($own, $_) >= 0 } qw(zebra okapi deadbeef);
	return $told;
}

# ---------------------------------------------------------------------------

# What the catalog has, with the rights of the role.
sub granted
{
	my ($dbh) = @_;
	my $of_extension = q{JOIN pg_catalog.pg_depend d ON d.objid = o.oid AND d.deptype = 'e'
		JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid AND x.extname IN ('event_store', 'event_store_message_db')};
	my $functions = $dbh->selectall_arrayref(
		qq{SELECT o.proname, has_function_privilege('es_shut', o.oid, 'EXECUTE') FROM pg_catalog.pg_proc o $of_extension
		   WHERE d.classid = 'pg_catalog.pg_proc'::regclass});
	my $relations = $dbh->selectall_arrayref(
		qq{SELECT o.relname, has_table_privilege('es_shut', o.oid, 'SELECT'), o.oid::regclass::text FROM pg_catalog.pg_class o $of_extension
		   WHERE d.classid = 'pg_catalog.pg_class'::regclass AND o.relkind IN ('r', 'v')});
	return ($functions, $relations);
}

# Ways to hide the same events, in words that EXPLAIN may show.
sub policies
{
	my $for = 'ON event_store.event FOR SELECT TO es_shut';
	return (
		'by a setting' => ["CREATE POLICY p $for USING (metadata->>'tenant' = current_setting('app.tenant'))"],
		'by the payload' => ["CREATE POLICY p $for USING (data->>'word' = 'mine')"],
		'by the name of the stream' => [
			"CREATE POLICY p $for USING (metadata->>'tenant' = 'a' AND (stream_no IS NULL OR EXISTS
				(SELECT FROM event_store.stream s WHERE s.stream_no = event.stream_no AND s.stream_id IN ('Own-1', 'Mix-1', 'Old-1'))))"],
		restrictive => [
			"CREATE POLICY p $for USING (true)",
			q{CREATE POLICY q ON event_store.event AS RESTRICTIVE FOR SELECT TO PUBLIC USING ('t:mine' = ANY (tags))},
			q{CREATE POLICY r ON event_store.event AS RESTRICTIVE FOR SELECT TO PUBLIC USING (metadata->>'tenant' = 'a')}],
		'by a table that one may not read' => [
			"CREATE POLICY p $for USING (own_tenant(metadata->>'tenant'))"]);
}

sub every_path
{
	create_store($node, 'paths');
	$node->safe_psql('paths', 'CREATE EXTENSION event_store_message_db');
	my $super = fill('paths');
	run_sql($super,
		'CREATE TABLE tenant (role name, tenant text)', q{INSERT INTO tenant VALUES ('es_shut', 'a')},
		q{CREATE FUNCTION own_tenant(t text) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
		  AS 'SELECT EXISTS (SELECT FROM public.tenant n WHERE n.tenant = t)'});

	my %calls = calls($super);
	my ($functions, $relations) = granted($super);
	my %granted = map { $_->[0] => 1 } grep { $_->[1] } @$functions;
	is("@{[ sort keys %calls ]}", "@{[ sort keys %granted ]}",
		'every function that the role may call has a line here, and no other one');
	foreach my $relation (grep { $_->[1] } @$relations)
	{
		die "$relation->[0] is a function, too" if $calls{ $relation->[0] };
		$calls{ $relation->[0] } = [ $relation->[2] ];
	}
	cmp_ok(scalar(@$relations), '>', 20, 'the relations are there');
	$calls{pg_stats} = [q{SELECT * FROM pg_catalog.pg_stats s WHERE s.schemaname = 'event_store'}];

	# the control: nothing is hidden, and all ways show it
	my %told;
	ask($super, undef, \%calls, sub {
		my ($name, $what, $told) = @_;
		$told{$name}++ if $told =~ $secret;
	});
	is("@{[ sort keys %told ]}", "@{[ sort keys %tells ]}",
		'control: whom no policy applies to is shown what is to be hidden');

	my %policy = policies();
	foreach my $how (sort keys %policy)
	{
		run_sql($super, 'ALTER TABLE event_store.event ENABLE ROW LEVEL SECURITY', @{ $policy{$how} });
		my $shut = connect_store($node, db => 'paths', user => 'es_shut');
		my ($asked, @leaks, %shown) = (0);
		my $hear = sub {
			my ($name, $what, $told) = @_;
			$asked++;
			$shown{$name}++ if $told =~ $visible && $what =~ /, rows$/;
			push @leaks, "$what: " . substr($told, 0, 400) if $told =~ $secret;
		};
		ask($shut, undef, \%calls, $hear);
		is(join("\n", @leaks), '', "policy $how: $asked questions, nothing hidden in the answers");
		my %expected = %shows;
		delete @expected{@shut_views};
		is("@{[ sort { $a cmp $b } grep { $tells{$_} } keys %shown ]}", "@{[ sort keys %expected ]}",
			"policy $how: what is visible is shown");
		$shut->disconnect;

		if ($how eq 'by a setting')
		{
			@leaks = ();
			$super->do(q{SET app.tenant = 'a'});
			ask($super, 'es_shut', \%calls, $hear);
			is(join("\n", @leaks), '', "policy $how: nor in a session that has seen everything in another role");
		}
		$super->do("DROP POLICY IF EXISTS $_ ON event_store.event") for qw(p q r);
	}
	plans_after_a_change($super, \%calls);
	$super->disconnect;
	return;
}

sub ask
{
	my ($dbh, $role, $calls, $hear) = @_;
	foreach my $name (sort keys %$calls)
	{
		foreach my $x (@{ $calls->{$name} })
		{
			my %way = ways($x);
			foreach my $way (sort keys %way)
			{
				$hear->($name, "$x, $way", told($dbh, $role, @{ $way{$way} }));
			}
		}
	}
	return;
}

# Plans that were made before a policy is changed, in a session that has read
# with them.
sub plans_after_a_change
{
	my ($super, $calls) = @_;
	my %names = map { $_ => 1 } grep { $shows{$_} } keys %$calls;
	delete @names{ qw(es_import es_fetch es_run_projection), @shut_views };
	my @names = sort keys %names;
	my $shut = connect_store($node, db => 'paths', user => 'es_shut');
	my (%plan, @open);

	$super->do("CREATE POLICY p ON event_store.event FOR SELECT TO es_shut USING (metadata->>'tenant' = 'a')");
	foreach my $name (@names)
	{
		foreach my $x (@{ $calls->{$name} })
		{
			my $from = $x =~ /^SELECT/ ? "($x) x" : "$x x";
			my $plan = 'p' . (1 + keys %plan);
			$shut->do("SET plan_cache_mode = " . (keys(%plan) % 2 ? 'force_generic_plan' : 'auto'));
			$shut->do("PREPARE $plan AS SELECT x::text FROM $from");
			$plan{$plan} = $x;
		}
	}
	my $execute = sub {
		my %told = map { $_ => told($shut, undef, ("EXECUTE $_") x 3) } keys %plan;
		return map { $plan{$_} } grep { without_own($told{$_}, $plan{$_}) =~ $secret } sort keys %told;
	};
	foreach my $round (1 .. 2)
	{
		is_deeply([ $execute->() ], [], "plans, round $round: nothing is shown");
		$super->do("ALTER POLICY p ON event_store.event USING (true)");
		@open = $execute->();
		cmp_ok(scalar(@open), '>', @names / 2, "plans, round $round, control: a policy that hides nothing");
		$super->do("ALTER POLICY p ON event_store.event USING (metadata->>'tenant' = 'a')");
	}
	is_deeply([ $execute->() ], [], 'plans: nothing again');
	$super->do('ALTER TABLE event_store.event DISABLE ROW LEVEL SECURITY');
	is_deeply([ $execute->() ], \@open, 'plans, control: switched off');
	$super->do('ALTER TABLE event_store.event ENABLE ROW LEVEL SECURITY');
	is_deeply([ $execute->() ], [], 'plans: and on again');
	$shut->disconnect;
	return;
}

# ---------------------------------------------------------------------------

# Events of two tenants in the same streams; a policy shows one tenant.
sub tenants
{
	create_store($node, 'rls');
	my $super = connect_store($node, db => 'rls');
	my @ids = map { random_uuid() } 1 .. 12;
	append($super, 'Mixed-' . (1 + $_ % 2), ANY, 'T' . $_ % 3, $ids[ $_ - 1 ],
		sprintf '{"tenant": %d}', 1 + int($_ / 2) % 2)
	  for 1 .. 12;
	$super->do("SELECT es_grant('es_$_', 'reader')") for 'reader', 'tenant';
	run_sql($super,
		'ALTER TABLE event_store.event ENABLE ROW LEVEL SECURITY',
		q{CREATE POLICY one ON event_store.event FOR SELECT TO es_reader
		  USING ((data->>'tenant')::int = 1)},
		q{CREATE POLICY two ON event_store.event FOR SELECT TO es_tenant
		  USING ((data->>'tenant')::int = 2)});

	my %tenant = (es_reader => 1, es_tenant => 2);
	foreach my $user (sort keys %tenant)
	{
		my $dbh = connect_store($node, db => 'rls', user => $user);
		sees_only($dbh, "row security, $user", $tenant{$user}, \@ids);
		$dbh->disconnect;
	}

	# One session that changes its role: nothing kept from before may leak.
	foreach my $round (1 .. 2)
	{
		foreach my $user (sort keys %tenant)
		{
			$super->do("SET ROLE $user");
			sees_only($super, "row security, SET ROLE $user, round $round",
				$tenant{$user}, \@ids);
			$super->do('RESET ROLE');
			is(sql_value($super, 'SELECT count(*) FROM es_read_all()'),
				12, "row security, round $round: the superuser sees everything");
		}
	}

	# A change of policy counts at once, in a session that has read before.
	my $dbh = connect_store($node, db => 'rls', user => 'es_reader');
	my $count = $dbh->prepare('SELECT count(*) FROM es_read_all()');
	my $counted = sub { $count->execute; return $count->fetchrow_arrayref->[0] };
	$counted->() for 1 .. 8;
	$super->do('ALTER POLICY one ON event_store.event USING (false)');
	is($counted->(), 0, 'row security: a policy that hides everything');
	is(sqlstate($dbh, 'SELECT es_head(), es_stream_version(\'Mixed-1\')'),
		'00000', 'row security: nothing stalls or fails');
	$super->do('ALTER POLICY one ON event_store.event USING (true)');
	is($counted->(), 12, 'row security: a policy that hides nothing');
	$super->do('DROP POLICY one ON event_store.event');
	is($counted->(), 0, 'row security: without a policy nothing is shown');
	$super->do('ALTER TABLE event_store.event DISABLE ROW LEVEL SECURITY');
	is($counted->(), 12, 'row security: switched off');
	$_->disconnect for $dbh, $super;
	return;
}

sub sees_only
{
	my ($dbh, $title, $tenant, $ids) = @_;
	my $per_stream = q{FROM (VALUES ('Mixed-1'), ('Mixed-2')) s(id)};
	my %read = (
		es_read_all => q{SELECT data FROM public.es_read_all()},
		'es_read_all backward' => q{SELECT data FROM public.es_read_all(backward => true)},
		'es_read_all without limit' => q{SELECT data FROM public.es_read_all(0, NULL)},
		'es_read_all by category' => q{SELECT data FROM public.es_read_all(categories => '{Mixed}')},
		'es_read_all by type' => q{SELECT data FROM public.es_read_all(event_types => '{T0,T1,T2}')},
		es_read_category => q{SELECT data FROM public.es_read_category('Mixed')},
		es_read_stream => "SELECT e.data $per_stream, public.es_read_stream(s.id) e",
		'es_read_stream backward' =>
		  "SELECT e.data $per_stream, public.es_read_stream(s.id, backward => true) e",
		es_load => "SELECT e.data $per_stream, public.es_load(s.id) l, unnest(l.events) e",
		es_read_event => 'SELECT (public.es_read_event(i::uuid)).data FROM unnest('
		  . join(',', 'ARRAY[' . join(',', map { "'$_'" } @$ids) . ']') . ') i',
		'events view' => 'SELECT data FROM event_store.events');
	foreach my $name (sort keys %read)
	{
		my $rows = eval { $dbh->selectcol_arrayref($read{$name}) };
		my %seen;
		$seen{ /(\d+)/ ? $1 : 'none' }++ for grep { defined } @{ $rows || [] };
		# Before 15 a view reads with its owner's rights; the store's view then
		# shows nothing to whom policies apply.
		my %expected = $name eq 'events view' && $major < 15 ? () : ($tenant => 6);
		is_deeply(\%seen, \%expected, "$title: $name shows its own events")
		  or diag $@;
	}
	is(sqlstate($dbh, 'SET row_security = off'), '00000', "$title: row_security = off");
	is(sqlstate($dbh, 'SELECT count(*) FROM public.es_read_all()'),
		'42501', "$title: does not help");
	$dbh->do('RESET row_security');
	return;
}
