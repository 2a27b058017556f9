# Calls that nobody should make: every function of the extensions, with
# arguments that are wrong, null, extreme, huge, of another type, or written by
# somebody who means harm.

package EventStoreTest::Malformed;

use strict;
use warnings;

use EventStoreTest;
use Exporter 'import';

our @EXPORT_OK = qw(fill_malformed load_calls any_call any_setting any_of forget_settings);

my @functions;    # { name, arguments: [ [ name, type, optional ]... ], set }

sub any_of
{
	return $_[ int(rand(@_)) ];
}

# ---------------------------------------------------------------------------
# A store with something in it, and functions that nobody should give to it

sub fill_malformed
{
	my ($dbh) = @_;
	my @evil = (
		[ raise => q{BEGIN RAISE 'evil %% {}' USING ERRCODE = 'P0666'; END} ],
		[ internal => q{BEGIN RAISE 'internal' USING ERRCODE = 'XX000'; END} ],
		[ null => q{BEGIN RETURN NULL; END} ],
		[ divide => q{BEGIN PERFORM 1 / 0; RETURN NULL; END} ],
		[ again => q{BEGIN PERFORM public.es_append('Evil-1', public.es_any(), 'T1', '{}'); RETURN NULL; END} ],
		[ append => q{BEGIN PERFORM public.es_append('Order-1', public.es_any(), 'T1', '{}');
			PERFORM public.es_read_all(); RETURN NULL; END} ],
		[ drop => q{BEGIN PERFORM public.es_drop_upcaster('Was', 1); PERFORM public.es_drop_aggregate('Evil');
			PERFORM public.es_drop_projection('evil'); PERFORM public.es_drop_subscription('alone'); RETURN NULL; END} ],
		[ run => q{BEGIN PERFORM public.es_run_projection('evil'); PERFORM public.es_fetch('alone');
			PERFORM public.es_state('Evil-1'); RETURN NULL; END} ],
		[ settings => q{BEGIN SET search_path = nowhere; SET role = malformed_reader; SET row_security = off;
			RETURN NULL; END} ],
		[ temp => q{BEGIN CREATE TEMP TABLE IF NOT EXISTS event (n int); RETURN NULL; END} ],
		[ trunc => q{BEGIN TRUNCATE event_store.event; RETURN NULL; END} ],
		[ deep => q{BEGIN RETURN (repeat('[', 6000) || repeat(']', 6000))::jsonb; END} ],
		[ huge => q{BEGIN RETURN to_jsonb(repeat('x', 3000000)); END} ],
		[ catch => q{BEGIN BEGIN PERFORM public.es_append('', 0, '', NULL); EXCEPTION WHEN OTHERS THEN NULL; END;
			RETURN '[]'; END} ],
		[ commit => q{BEGIN COMMIT; RETURN NULL; END} ]);
	run_sql($dbh,
		'CREATE TABLE kept (n bigint PRIMARY KEY)',
		'CREATE TABLE model (n bigint)',
		q{CREATE FUNCTION good_up(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
			$$ SELECT data || '{"up": 1}' $$},
		q{CREATE FUNCTION good_fold(state jsonb, e es_event) RETURNS jsonb LANGUAGE sql AS
			$$ SELECT jsonb_build_object('n', (e).version) $$},
		q{CREATE FUNCTION good_apply(e es_event) RETURNS void LANGUAGE sql AS
			$$ INSERT INTO model VALUES ((e).global_position) $$},
		q{CREATE FUNCTION good_applies(e es_event[]) RETURNS void LANGUAGE sql AS
			$$ INSERT INTO model SELECT global_position FROM unnest(e) $$},
		q{CREATE FUNCTION good_reset() RETURNS void LANGUAGE sql AS $$ DELETE FROM model $$},
		q{CREATE FUNCTION good_decide(state jsonb, e es_event) RETURNS jsonb LANGUAGE sql AS
			$$ SELECT coalesce(state, '{}') $$},
		q{CREATE PROCEDURE wrong_procedure(data jsonb) LANGUAGE sql AS $$ SELECT 1 $$},
		q{CREATE FUNCTION wrong_variadic(VARIADIC data jsonb[]) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
			$$ SELECT '{}'::jsonb $$},
		q{CREATE FUNCTION wrong_set(data jsonb) RETURNS SETOF jsonb LANGUAGE sql IMMUTABLE AS
			$$ SELECT data UNION ALL SELECT data $$},
		q{CREATE FUNCTION wrong_text(data text) RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT data $$},
		q{CREATE FUNCTION wrong_any(data anyelement) RETURNS anyelement LANGUAGE sql IMMUTABLE AS
			$$ SELECT data $$});
	foreach my $evil (@evil)
	{
		my ($name, $body) = @$evil;
		my $void = $body =~ s/RETURN (?:NULL|'\[\]'|to_jsonb.*?|\(repeat.*?);( END)$/RETURN;$1/r;
		run_sql($dbh,
			"CREATE FUNCTION evil_${name}_up(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS \$f\$ $body \$f\$",
			"CREATE FUNCTION evil_${name}_fold(state jsonb, e es_event) RETURNS jsonb LANGUAGE plpgsql AS \$f\$ $body \$f\$",
			"CREATE FUNCTION evil_${name}_apply(e es_event) RETURNS void LANGUAGE plpgsql AS \$f\$ $void \$f\$",
			"CREATE FUNCTION evil_${name}_applies(e es_event[]) RETURNS void LANGUAGE plpgsql AS \$f\$ $void \$f\$",
			"CREATE FUNCTION evil_${name}_reset() RETURNS void LANGUAGE plpgsql AS \$f\$ $void \$f\$");
	}
	run_sql($dbh,
		q{SELECT es_append('Order-' || i % 5, es_any(), 'T' || i % 3, jsonb_build_object('n', i), '{"user_id": "u"}',
			tags => ARRAY['a' || i % 4, 'b']) FROM generate_series(1, 40) i},
		q{SELECT es_append('Evil-1', es_any(), 'Was', '{}') FROM generate_series(1, 5)},
		q{SELECT es_append('Mallory-1', 0, 'T0', '{}', event_id => '11111111-1111-4111-8111-111111111111')},
		q{SELECT es_append_if('[{"event_type": "Loose", "data": 1, "tags": ["c"]}]', '{"items": [{"tags": ["none"]}]}')},
		q{SELECT es_define_upcaster('Was', 1, 'good_up(jsonb)')},
		q{SELECT es_define_aggregate('Order', 'good_fold(jsonb, es_event)', snapshot_every => 5)},
		q{SELECT es_define_aggregate('Evil', 'evil_null_fold(jsonb, es_event)')},
		q{SELECT es_create_subscription('alone'), es_create_subscription('group', slots => 8)},
		q{SELECT es_create_projection('good', 'good_apply(es_event)', reset_handler => 'good_reset()'),
			es_create_projection('sets', 'good_applies(es_event[])', policy => 'skip'),
			es_create_projection('evil', 'evil_raise_apply(es_event)', policy => 'park')},
		q{CREATE EXTENSION event_store_message_db});
	return;
}

# Every function of the extensions that SQL can call at all.
sub load_calls
{
	my ($dbh) = @_;
	@functions = ();
	my $rows = $dbh->selectall_arrayref(
		q{SELECT p.oid, format('%I.%I', n.nspname, p.proname), p.pronargs - p.pronargdefaults, p.proretset
		  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
		  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::regclass
			AND d.objid = p.oid AND d.deptype = 'e'
		  JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname LIKE 'event\_store%'
		  ORDER BY 2, 1});
	foreach my $row (@$rows)
	{
		my ($oid, $name, $needed, $set) = @$row;
		my $arguments = $dbh->selectall_arrayref(
			q{SELECT coalesce(p.proargnames[i], ''), pg_catalog.format_type(t, NULL)
			  FROM pg_catalog.pg_proc p, unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a(t, i)
			  WHERE p.oid = ? ORDER BY i}, undef, $oid);
		my $i = 0;
		push @functions,
		  { name => $name, set => $set, arguments => [ map { [ @$_, ++$i > $needed ] } @$arguments ] };
	}
	return scalar @functions;
}

# ---------------------------------------------------------------------------
# Values, as SQL

sub quoted
{
	my ($text) = @_;
	return 'E\'' . $text =~ s/([\\'])/\\$1/gr . '\'';
}

my @integers = (0, 1, -1, 2, -2, 3, -3, -4, 5, 10, 100, 1000, -100, -101, 2147483647, -2147483648);
my @bigints = (@integers, 2147483648, 4294967295, 4294967296, '9223372036854775807',
	"'-9223372036854775808'::bigint", '9223372036854775806', 4611686018427387904, -4611686018427387905);

sub number
{
	my ($type) = @_;
	return any_of('public.es_any()', 'public.es_exists()', 'public.es_head()', 'public.es_head() + 1')
	  if $type eq 'bigint' && rand() < 0.2;
	return random_int(-10, 60) if rand() < 0.3;
	return $type eq 'bigint' ? any_of(@bigints) : any_of(@integers);
}

my @texts = (
	'', ' ', '-', '--', '$', '$all', '$ce-Order', '$et-T1', '$ce-', 'Order', 'Order-', '-Order', 'Order-1 ', 'order-1',
	'Order-1-2', "'", '"', '\\', '%', '%s%s%n', '%1$s', '$1', '{}', '[]', 'null', 'NULL', 'true', '0', '-1',
	"\x{1}", "a\tb", "a\nb", "\x{7f}", 'e' x 254, 'e' x 255, 'e' x 256, 'x' x 5000, '../../etc/passwd',
	"'; DROP TABLE kept; --", 'pg_catalog.now()', 'a+b', 'a:b', 'a:b+c-d', 'x' x 70000);
my @wide = ('U&\'\\0085\'', 'U&\'\\FEFF\'', 'U&\'\\00E9\'', 'U&\'e\\0301\'', 'U&\'\\202Eabc\'', 'repeat(U&\'\\00E9\', 127)',
	'repeat(U&\'\\00E9\', 128)', 'U&\'\\+01F600\'', 'chr(1114111)', 'chr(160)', 'repeat(U&\'\\+01F600\', 64)');
my @names = qw(Order-0 Order-1 Order-2 Order-3 Evil-1 Mallory-1 Nobody-1 Fresh-1 T0 T1 T2 Was Loose alone group good sets
  evil Order Evil m1 m2 reader writer monitor admin stop skip park a0 a1 b c malformed_reader malformed_nobody PUBLIC);

# A text; some are what a function of that name wants.
sub text
{
	my ($name) = @_;
	if (rand() < 0.55)
	{
		return quoted('Order-' . random_int(0, 5)) if $name =~ /^stream/ && rand() < 0.6;
		return quoted(any_of(qw(alone group good sets evil))) if $name eq 'name' && rand() < 0.7;
		return quoted(any_of(qw(T0 T1 Was))) if $name =~ /^(?:event_type|type)$/ && rand() < 0.7;
		return quoted(any_of(qw(m1 m2))) if $name eq 'member';
		return quoted(any_of(qw(stop skip park))) if $name eq 'policy';
		return quoted(any_of(qw(reader writer monitor admin))) if $name eq 'kind';
		return quoted(any_of(qw(malformed_reader malformed_writer))) if $name eq 'role';
		return import_query() if $name eq 'query';
		return quoted(any_of(@names));
	}
	return any_of(@wide) if rand() < 0.2;
	return quoted(join '', map { chr any_of(random_int(1, 127), random_int(32, 126)) } 1 .. random_int(1, 20))
	  if rand() < 0.2;
	return quoted(any_of(@texts));
}

# A query for es_import.
sub import_query
{
	my @columns = (
		[ stream_id => text('stream_id') ], [ event_type => text('event_type') ], [ data => json('data') . '::jsonb' ],
		[ version => number('bigint') ], [ event_id => id() ], [ metadata => json('metadata') . '::jsonb' ],
		[ schema_version => number('integer') ], [ created_at => moment() ], [ tags => any_array('text', 'tags') ],
		[ unknown => 1 ], [ data => 'g' ], [ stream_id => 'NULL' ], [ event_type => '1' ]);
	my $most = any_of(3, 3, 3, 4, 6, 9, 12);
	my @chosen = map { "$_->[1] AS $_->[0]" } grep { rand() < 0.97 } @columns[ 0 .. $most ];
	my $query = any_of('SELECT ' . join(', ', @chosen) . ' FROM generate_series(1, ' . any_of(0, 1, 3, 50) . ') g',
		'SELECT 1', 'SELECT', 'nonsense', 'SELECT 1; SELECT 2', 'DELETE FROM kept', 'COMMIT', 'DROP TABLE kept', '',
		'SELECT * FROM event_store.events', 'SELECT * FROM nowhere', 'VALUES (1)', 'SELECT 1 / 0 AS stream_id',
		q{SELECT 'Order-1' AS stream_id, 'T' AS event_type, to_jsonb(es_append('Order-1', es_any(), 'T', '{}')) AS data},
		q{SELECT 'I-' || g AS stream_id, 'T' AS event_type, '{}'::jsonb AS data FROM generate_series(1, 5) g},
		'EXPLAIN SELECT 1', 'SHOW search_path', 'COPY kept TO STDOUT', 'LISTEN x', 'SELECT $1');
	return quoted($query);
}

my @keys = qw(event_type data metadata event_id schema_version tags stream_id expected_version events items event_types n
  up correlation_id timestamp __proto__);
push @keys, '', ' event_type', 'Event_type', 'x' x 300;

# A JSON document; what breaks it comes at any depth.
sub json_value
{
	my ($depth) = @_;
	my $choice = rand();
	return any_of('null', 'true', '0', '-0', '1e400', '1' x 200, '-1', '2147483648', '9223372036854775808', '1.5',
		'1e-5000', '"text"', '""', '"\u0085"', '"\ud83d\ude00"', '"\u0001"', '"Order-1"', '"T1"', '"' . 'y' x 256 . '"',
		'"11111111-1111-4111-8111-111111111111"', '"00000000-0000-0000-0000-000000000000"', '"-100"', '-100', '-101',
		'"2020-01-01T00:00:00Z"', '"infinity"', '{}', '[]', '[null]', '[[]]', '["a","a"]', '["a1", 1]', '["a0", "b"]')
	  if $depth <= 0 || $choice < 0.45;
	return '[' . join(',', map { json_value($depth - 1) } 1 .. any_of(0, 1, 1, 2, 3, 33)) . ']' if $choice < 0.65;
	return '{' . join(',', map { '"' . any_of(@keys) . '":' . json_value($depth - 1) } 1 .. random_int(0, 4)) . '}';
}

# An event as it should be, with some keys replaced.
sub json_event
{
	my %event = (event_type => '"' . any_of(qw(T0 T1 Was)) . '"', data => '{"n": 1}');
	$event{metadata} = '{"user_id": "u"}' if rand() < 0.3;
	$event{tags} = any_of('["a0"]', '["a1", "b"]', '[]') if rand() < 0.4;
	$event{stream_id} = any_of('"Order-1"', '"Fresh-1"', 'null') if rand() < 0.15;
	$event{ any_of(@keys) } = json_value(2) if rand() < 0.35;
	delete $event{ any_of(keys %event) } if rand() < 0.1;
	return '{' . join(',', map { qq{"$_":$event{$_}} } sort keys %event) . '}';
}

sub json_events
{
	return json_event() if rand() < 0.1;
	return '[' . join(',', map { json_event() } 1 .. any_of(0, 1, 1, 1, 2, 5, 40)) . ']';
}

sub json_query
{
	return '{}' if rand() < 0.1;
	my @items = map {
		my %item;
		$item{event_types} = any_of('["T0"]', '["T1", "Was"]', '[]', 'null', json_value(1)) if rand() < 0.6;
		$item{tags} = any_of('["a0"]', '["a1", "b"]', '["none"]', '[]', json_value(1)) if rand() < 0.6;
		$item{ any_of(@keys) } = json_value(1) if rand() < 0.1;
		'{' . join(',', map { qq{"$_":$item{$_}} } sort keys %item) . '}'
	} 1 .. any_of(0, 1, 1, 2, 20);
	return '{"items":[' . join(',', @items) . ']' . (rand() < 0.05 ? ',"x":1' : '') . '}';
}

sub json_appends
{
	my @entries = map {
		my %entry = (stream_id => '"' . any_of(qw(Order-0 Order-1 Order-2 Fresh-1 Fresh-2 Evil-1)) . '"',
			expected_version => any_of(-100, -101, 0, 8, -1), events => json_events());
		delete $entry{ any_of(keys %entry) } if rand() < 0.15;
		$entry{ any_of(@keys) } = json_value(1) if rand() < 0.2;
		'{' . join(',', map { qq{"$_":$entry{$_}} } sort keys %entry) . '}'
	} 1 .. any_of(0, 1, 2, 3);
	return '[' . join(',', @entries) . ']';
}

sub json
{
	my ($name) = @_;
	my $choice = rand();
	return q{(repeat('[', 3000) || repeat(']', 3000))::jsonb} if $choice < 0.004;
	return any_of(q{to_jsonb(repeat('z', 1100000))}, q{(SELECT jsonb_agg(i) FROM generate_series(1, 12000) i)},
		q{(SELECT jsonb_object_agg('k' || i, i) FROM generate_series(1, 2000) i)},
		q{(SELECT jsonb_agg('{"event_type": "T", "data": 1}'::jsonb) FROM generate_series(1, 10001) i)})
	  if $choice < 0.008;
	my $text =
		$choice < 0.25 ? json_value(3)
	  : $name eq 'events' ? json_events()
	  : $name eq 'appends' ? json_appends()
	  : $name =~ /^(?:query|fail_if)$/ ? json_query()
	  : $name eq 'metadata' ? any_of('{}', '{"user_id": "u"}', json_value(1))
	  : any_of('{}', '{"n": 1}', json_value(2));
	return "'" . $text =~ s/'/''/gr . "'";
}

sub id
{
	return any_of(q{'00000000-0000-0000-0000-000000000000'}, q{'ffffffff-ffff-ffff-ffff-ffffffffffff'},
		q{'11111111-1111-4111-8111-111111111111'}, q{(SELECT event_id FROM event_store.events LIMIT 1)},
		q{gen_random_uuid()}, q{gen_random_uuid()});
}

sub moment
{
	return any_of(q{'infinity'::timestamptz}, q{'-infinity'::timestamptz}, q{'4713-01-01 BC'::timestamptz},
		q{'294276-12-31'::timestamptz}, 'now()', q{'epoch'::timestamptz});
}

sub duration
{
	return any_of(q{'0'}, q{'1 us'}, q{'1 ms'}, q{'20 ms'}) if rand() < 0.6;
	return any_of(q{'-1 s'}, q{'178000000 years'}, q{'-178000000 years'}, q{'2147483647 days'}, q{'-1 mon 1 day'},
		q{'1 hour'}, q{interval '2562047788 hours'}, q{'9999999 mons -99999999 days'}, q{'infinity'});
}

sub procedure
{
	my ($name) = @_;
	my %good = (upcaster => 'good_up(jsonb)', reducer => 'good_fold(jsonb,es_event)', handler => 'good_apply(es_event)',
		reset_handler => 'good_reset()', switch_handler => 'good_reset()');
	my $choice = rand();
	return "'$good{$name}'" if $good{$name} && $choice < 0.35;
	my %signature = (upcaster => '_up(jsonb)', reducer => '_fold(jsonb,es_event)', handler => '_apply(es_event)');
	my $signature = $signature{$name} || any_of('_reset()', '_applies(es_event[])', '_up(jsonb)', '_fold(jsonb,es_event)');
	return q{'evil_} . any_of(qw(raise internal null divide again append drop run settings temp trunc deep huge catch commit))
	  . "$signature'"
	  if $choice < 0.7;
	return any_of('0', '1', '4294967295::oid', q{'-'}, q{'now()'}, q{'good_up(jsonb)'}, q{'wrong_procedure(jsonb)'},
		q{'wrong_variadic(jsonb[])'}, q{'wrong_set(jsonb)'}, q{'wrong_text(text)'}, q{'wrong_any(anyelement)'},
		q{'count(*)'}, q{'row_number()'}, q{'public.es_append(text,bigint,jsonb)'}, q{'event_store.es_guard()'},
		q{'boolin(cstring)'}, q{'no_such(jsonb)'}, q{'jsonb_array_elements(jsonb)'}, q{'jsonb_agg(anyelement)'},
		q{'to_jsonb(anyelement)'}, q{'pg_catalog.jsonb_in(cstring)'});
}

# An event as a row.
sub row
{
	return any_of(
		'(SELECT e FROM public.es_read_all(0, 1) e)',
		'(SELECT e FROM event_store.events e LIMIT 1)',
		'NULL::public.es_event',
		'ROW(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::public.es_event',
		q{ROW(} . number('bigint') . ', ' . text('stream_id') . ', ' . number('bigint') . ', ' . id() . ', '
		  . text('event_type') . ', ' . number('integer') . ', ' . json('data') . '::jsonb, ' . json('metadata')
		  . '::jsonb, ' . moment() . ')::public.es_event',
		q{'(,,,,,,,,)'}, q{'(1,2)'}, q{'()'}, 'ROW(1)');
}

sub any_array
{
	my ($type, $name) = @_;
	my $choice = rand();
	return any_of(q{'{}'}, q{'{NULL}'}, q{'{{a,b},{c,d}}'}, q{'[3:4]={a,b}'}, q{'{{{}}}'}, q{'{a}'}, q{'{{}}'}, q{'[0:0]={T0}'})
	  if $choice < 0.2;
	return "array_fill(" . value($type, $name, 1) . "::$type, ARRAY[" . any_of(33, 300, 10001, '2, 2', 0) . '])'
	  if $choice < 0.24;
	return 'ARRAY[' . join(', ', map { value($type, $name) . "::$type" } 1 .. any_of(1, 1, 2, 2, 3, 6)) . ']';
}

# A value for an argument of a type; plain: without NULL and other types.
sub value
{
	my ($type, $name, $plain) = @_;
	my $choice = $plain ? 1 : rand();
	return 'NULL' if $choice < 0.06;
	return value(any_of('text', 'bigint', 'jsonb', 'boolean', 'uuid', 'interval', 'text[]', 'timestamp with time zone'),
		'', 1)
	  if $choice < 0.08;
	if ($type =~ /^(.*)\[\]$/)
	{
		my %singular = (event_types => 'event_type', categories => 'category');
		return any_array($1, $singular{$name} || $name);
	}
	return number($type) if $type =~ /^(?:bigint|integer|smallint)$/;
	return text($name) if $type =~ /^(?:text|character varying|name)$/;
	return json($name) if $type eq 'jsonb';
	return id() if $type eq 'uuid';
	return any_of('true', 'false') if $type eq 'boolean';
	return duration() if $type eq 'interval';
	return moment() if $type =~ /^timestamp/;
	return procedure($name) if $type eq 'regprocedure';
	return row() if $type =~ /es_event$/;
	return any_of(q{'event_store.event'}, q{'kept'}, q{'pg_class'}, '0', '4294967295::oid') if $type eq 'regclass';
	return any_of(q{'0'}, q{'1'}, q{'2'}, q{'3'}, q{'4294967295'}) if $type eq 'xid';
	return 'NULL';
}

# ---------------------------------------------------------------------------
# Calls and settings

# A statement on a table or view.  Only facts are changed: the session may be
# a superuser's, whom nothing stops elsewhere.
sub any_statement
{
	my $fact = 'event_store.' . any_of(qw(event stream event_type mark events));
	my $table = 'event_store.' . any_of(qw(event stream event_type mark snapshot upcaster aggregate projection subscription
		projection_parked events parked_events status categories subscriptions subscription_members projections
		projection_progress statistics import_progress no_such_table));
	return any_of("DELETE FROM $fact", "DELETE FROM $fact WHERE false", "TRUNCATE $fact", "INSERT INTO $fact DEFAULT VALUES",
		"INSERT INTO $fact SELECT * FROM $fact", "INSERT INTO $fact SELECT * FROM $fact ON CONFLICT DO NOTHING",
		q{UPDATE event_store.event SET version = } . number('bigint'), q{UPDATE event_store.stream SET stream_id = stream_id},
		"TABLE $table", "SELECT * FROM $table LIMIT 1", "SELECT count(*) FROM $table a, $table b",
		"SELECT * FROM $table x WHERE x::text = " . text('') . " ORDER BY x", "SELECT * FROM $table FOR UPDATE",
		"LOCK TABLE $table", "ANALYZE $table",
		q{SELECT * FROM event_store.events WHERE stream_id = } . text('stream_id') . ' AND version > ' . number('bigint'));
}

# A call as a statement.
sub any_call
{
	return any_statement() if rand() < 0.03;
	my $function = any_of(@functions);
	my $named = rand() < 0.7;
	my @given;
	foreach my $argument (@{ $function->{arguments} })
	{
		my ($name, $type, $optional) = @$argument;
		next if $named && $optional && rand() < 0.5;
		# too few
		next if $named && rand() < 0.005;
		my $value = value($type, $name);
		push @given, $named && $name ne '' ? qq{"$name" => $value} : $value;
	}
	push @given, 'NULL' if rand() < 0.003;
	my $call = "$function->{name}(" . join(', ', @given) . ')';
	my $choice = rand();
	return "SELECT * FROM $call q" if $choice < 0.55;
	return "SELECT $call" if $choice < 0.75;
	return "SELECT * FROM $call q LIMIT 1" if $choice < 0.80;
	return "SELECT count(*) FROM $call q" if $choice < 0.84;
	return "SELECT * FROM generate_series(1, 3) i, LATERAL $call q" if $choice < 0.88;
	return "SELECT ($call).*" if $choice < 0.90;
	return "SELECT q.*, r.* FROM $call q LEFT JOIN $call r ON true LIMIT 3" if $choice < 0.92;
	return "SELECT 1 WHERE EXISTS (SELECT FROM $call q)" if $choice < 0.94;
	return "DO \$do\$ BEGIN PERFORM q FROM $call q; END \$do\$" if $choice < 0.97;
	return "EXPLAIN (ANALYZE, VERBOSE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT * FROM $call q";
}

# Settings of a session, in the transaction or for good.
sub any_setting
{
	return any_of(
		'SET event_store.max_event_size = ' . any_of(q{'64B'}, q{'1kB'}, -1, 0, q{'3000MB'}, 'DEFAULT'),
		'SET event_store.max_batch_size = ' . any_of(0, 1, 2, 10001, -5, 'DEFAULT'),
		'SET event_store.hash_chain = ' . any_of('on', 'off'),
		'SET event_store.notify = ' . any_of('worker', 'transaction', 'off', q{'nothing'}),
		'SET event_store.upcast = ' . any_of('on', 'off'),
		'SET event_store.enable_eventscan = ' . any_of('on', 'off'),
		'SET event_store.force_sync_commit = ' . any_of('on', 'off'),
		'SET event_store.no_such_setting = 1',
		'SET work_mem = ' . any_of(q{'64kB'}, q{'4MB'}),
		'SET search_path = ' . any_of(q{''}, 'public', 'event_store, public', 'pg_temp, public', 'public, pg_catalog'),
		'SET client_encoding = ' . any_of('LATIN1', 'UTF8', 'SQL_ASCII'),
		'SET plan_cache_mode = ' . any_of('force_generic_plan', 'force_custom_plan', 'auto'),
		'SET row_security = ' . any_of('on', 'off'),
		'SET enable_indexscan = ' . any_of('on', 'off'),
		'SET bytea_output = escape',
		'SET DateStyle = ' . any_of(q{'German'}, q{'ISO'}),
		'DISCARD PLANS', 'DISCARD TEMP', 'DEALLOCATE ALL');
}

sub forget_settings
{
	return ('RESET ALL', 'RESET SESSION AUTHORIZATION', 'SET client_min_messages = error',
		q{SET statement_timeout = '2s'}, q{SET lock_timeout = '10s'});
}

1;
