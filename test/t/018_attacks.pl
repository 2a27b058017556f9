# Nobody gains a right through the extension.
#
# What somebody has prepared before it is installed: schemas, functions and
# types of its names, default privileges.  And functions that an admin of the
# store gives it, upcasters and reducers, in which he tries everything that
# would have his code run as the superuser who reads, or whose worker does.  (As
# bob, who has no more rights than he, it does run when bob reads.)
#
# Each attack works against a victim that is naive: a script that replaces what
# is there, privileges as they come, a function that is simply called.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Projection qw(projection);
use Test::More;

seed_random();
my $node = store_cluster('attacks', preload => 'event_store',
	conf => "event_store.projection_retry_delay = 10ms\n");
my $super = connect_store($node, plain => 1);
my $superuser = sql_value($super, 'SELECT current_user');
run_sql($super, map { "CREATE ROLE $_ LOGIN" } qw(mallory bob app));

prepared_schema();
prepared_objects();
default_privileges();
given_functions();

$super->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub new_database
{
	my ($db) = @_;
	run_sql($super, "CREATE DATABASE $db", "GRANT CREATE, TEMPORARY ON DATABASE $db TO mallory");
	my $dbh = connect_store($node, db => $db, plain => 1);
	$dbh->do('GRANT CREATE ON SCHEMA public TO mallory');
	return ($dbh, connect_store($node, db => $db, user => 'mallory', plain => 1));
}

# The schema of the tables is there already, and is mallory's.
sub prepared_schema
{
	my ($dbh, $mallory) = new_database('prepared');
	$mallory->do('CREATE SCHEMA event_store');
	isnt(sqlstate($dbh, 'CREATE EXTENSION event_store'), '00000', 'a schema event_store of somebody else: not installed');
	is(sql_value($dbh, q{SELECT count(*) FROM pg_extension WHERE extname = 'event_store'}), 0, 'nothing of it is there');
	run_sql($dbh, 'CREATE SCHEMA IF NOT EXISTS event_store', 'CREATE TABLE event_store.naive (n int)');
	is(sqlstate($mallory, 'DROP SCHEMA event_store CASCADE'), '00000', 'control: what a naive script puts there is his');
	is(sqlstate($dbh, 'CREATE EXTENSION event_store'), '00000', 'without it the extension is installed');
	$_->disconnect for $dbh, $mallory;
	return;
}

# Functions and types of the extension's names are there already.
sub prepared_objects
{
	my ($dbh, $mallory) = new_database('objects');
	foreach my $object (
		[ 'FUNCTION public.es_head()' => 'CREATE FUNCTION public.es_head() RETURNS bigint LANGUAGE sql AS $$ SELECT 0::bigint $$' ],
		[ 'FUNCTION public.es_grant(text, text)' =>
			  'CREATE FUNCTION public.es_grant(role text, kind text) RETURNS void LANGUAGE sql AS $$ SELECT $$' ],
		[ 'TYPE public.es_event' => 'CREATE TYPE public.es_event AS (n int)' ],
		[ 'TABLE public.es_appended' => 'CREATE TABLE public.es_appended (n int)' ])
	{
		my ($name, $create) = @$object;
		$mallory->do($create);
		isnt(sqlstate($dbh, 'CREATE EXTENSION event_store'), '00000', "$name of somebody else: not installed");
		is(sql_value($dbh, q{SELECT count(*) FROM pg_namespace WHERE nspname = 'event_store'}), 0, "$name: nothing of it is there");
		if ($name =~ /es_head/)
		{
			$dbh->do('CREATE OR REPLACE FUNCTION public.es_head() RETURNS bigint LANGUAGE sql AS $$ SELECT 1::bigint $$');
			is(sqlstate($mallory, 'CREATE OR REPLACE FUNCTION public.es_head() RETURNS bigint LANGUAGE sql AS $$ SELECT 2::bigint $$'),
				'00000', 'control: what a naive script replaces stays his');
		}
		$mallory->do("DROP $name");
	}
	is(sqlstate($dbh, 'CREATE EXTENSION event_store'), '00000', 'without them the extension is installed');
	$_->disconnect for $dbh, $mallory;
	return;
}

# Whoever installs the extension has default privileges, as is usual for a role
# that makes the tables of an application.
sub default_privileges
{
	my ($dbh, $mallory) = new_database('defaults');
	run_sql($dbh, map { "ALTER DEFAULT PRIVILEGES GRANT ALL ON $_ TO app" } qw(TABLES SEQUENCES FUNCTIONS SCHEMAS));
	$dbh->do('CREATE TABLE control (n int)');
	ok(sql_value($dbh, q{SELECT has_table_privilege('app', 'control', 'INSERT')}), 'control: a table as it comes is open to the application');
	$dbh->do('CREATE EXTENSION event_store');
	is( sql_value(
			$dbh, q{
			SELECT coalesce(string_agg(c.oid::regclass::text, ', ' ORDER BY 1), '') FROM pg_class c
			WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'v', 'S', 'm', 'p')
			  AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege('app', c.oid, 'USAGE, SELECT, UPDATE')
				  ELSE has_table_privilege('app', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') END}),
		'', 'default privileges: no table, view or sequence of the extension is open');
	is( sql_value(
			$dbh, q{
			SELECT coalesce(string_agg(p.oid::regprocedure::text, ', '), '') FROM pg_proc p
			JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
			JOIN pg_extension x ON x.oid = d.refobjid AND x.extname = 'event_store'
			WHERE has_function_privilege('app', p.oid, 'EXECUTE')}),
		'', 'default privileges: no function is');
	is(sql_value($dbh, q{SELECT has_schema_privilege('app', 'event_store', 'CREATE, USAGE')}) ? 1 : 0, 0,
		'default privileges: nor the schema');
	$dbh->do(q{SELECT es_grant('app', 'reader')});
	my $app = connect_store($node, db => 'defaults', user => 'app');
	is(sqlstate($app, 'SELECT * FROM es_read_all()'), '00000', 'es_grant gives what it gives');
	$app->disconnect;
	$_->disconnect for $dbh, $mallory;
	return;
}

# ---------------------------------------------------------------------------

# What was gained; '' = nothing.
sub verdict
{
	my ($dbh) = @_;
	return sql_value(
		$dbh, q{
		SELECT coalesce(string_agg(x, ', '), '') FROM (
			SELECT 'mallory is a superuser' FROM pg_catalog.pg_roles WHERE rolname = 'mallory' AND rolsuper
			UNION ALL SELECT 'the treasure is gone' FROM public.treasure WHERE gold <> 100
			UNION ALL SELECT DISTINCT 'ran as ' || who || ' from ' || place FROM evil.log
			 WHERE who NOT IN ('mallory', 'bob')) f (x)});
}

# mallory, an admin of the store, defines upcasters and reducers.
sub given_functions
{
	my ($dbh, $mallory) = new_database('given');
	run_sql($dbh, 'CREATE EXTENSION event_store', q{SELECT es_grant('mallory', 'admin'), es_grant('bob', 'admin')},
		'CREATE TABLE treasure (gold int)', 'INSERT INTO treasure VALUES (100)');
	run_sql($mallory, 'CREATE SCHEMA evil', 'GRANT USAGE ON SCHEMA evil TO PUBLIC',
		'CREATE TABLE evil.log (who text, place text)', 'GRANT ALL ON evil.log TO PUBLIC',
		'CREATE TABLE evil.late (place text)', 'GRANT ALL ON evil.late TO PUBLIC',
		q{CREATE FUNCTION evil.act(place text) RETURNS void LANGUAGE plpgsql AS $$
			BEGIN
				BEGIN INSERT INTO evil.log VALUES (current_user, place); EXCEPTION WHEN OTHERS THEN NULL; END;
				BEGIN UPDATE public.treasure SET gold = 0; EXCEPTION WHEN OTHERS THEN NULL; END;
				BEGIN ALTER ROLE mallory SUPERUSER; EXCEPTION WHEN OTHERS THEN NULL; END;
			END $$},
		q{CREATE FUNCTION evil.on_late() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN PERFORM evil.act('deferred ' || new.place); RETURN NULL; END $$},
		q{CREATE CONSTRAINT TRIGGER late AFTER INSERT ON evil.late DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION evil.on_late()});

	my %way = (
		plain => '',
		reset_role => 'RESET ROLE;',
		set_role => "EXECUTE format('SET ROLE %I', '$superuser');",
		session => "EXECUTE format('SET SESSION AUTHORIZATION %I', '$superuser');",
		reset_session => 'RESET SESSION AUTHORIZATION;',
		none => q{PERFORM set_config('role', 'none', false);},
		definer => q{ALTER FUNCTION evil.act(text) SECURITY INVOKER;},
		path => q{PERFORM set_config('search_path', 'evil, public, pg_catalog', false);},
		deferred => q{INSERT INTO evil.late VALUES ('row');},
		temporary => 'CREATE TEMPORARY TABLE event (n int); CREATE TEMPORARY TABLE upcaster (n int);',
		event_trigger => q{CREATE EVENT TRIGGER t ON ddl_command_end EXECUTE FUNCTION evil.on_late();});
	my $n = 0;
	foreach my $name (sort keys %way)
	{
		my $body = "BEGIN $way{$name} EXCEPTION WHEN OTHERS THEN NULL; END; PERFORM evil.act('$name');";
		run_sql($mallory,
			"CREATE FUNCTION evil.up_$name(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS
				\$f\$ BEGIN $body RETURN data; END \$f\$",
			"CREATE FUNCTION evil.fold_$name(state jsonb, e public.es_event) RETURNS jsonb LANGUAGE plpgsql AS
				\$f\$ BEGIN $body RETURN '{}'; END \$f\$");

		# and what the planner inlines, and executes since it is immutable and has no arguments
		run_sql($mallory,
			"CREATE FUNCTION evil.boom_$name() RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS
				\$f\$ BEGIN $body RETURN '{}'; END \$f\$",
			"CREATE FUNCTION evil.up_planned_$name(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
				\$f\$ SELECT data || evil.boom_$name() \$f\$",
			"CREATE FUNCTION evil.up_planned_$name(data jsonb, metadata jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
				\$f\$ SELECT data || evil.boom_$name() || metadata \$f\$",
			"CREATE FUNCTION evil.fold_planned_$name(state jsonb, e public.es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
				\$f\$ SELECT state || evil.boom_$name() \$f\$");
		foreach my $kind ('', 'planned_')
		{
			append($dbh, "Up$n-1", ANY, "Up$kind$name") for 1 .. 2;
			append($dbh, "Fold$n-1", ANY, 'T') for 1 .. 2;
			my $arguments = $kind && $n % 4 == 3 ? 'jsonb, jsonb' : 'jsonb';
			$mallory->do(q{SELECT public.es_define_upcaster(?, 1, ?::regprocedure)}, undef, "Up$kind$name",
				"evil.up_$kind$name($arguments)");
			$mallory->do(q{SELECT public.es_define_aggregate(?, ?::regprocedure)}, undef, "Fold$n",
				"evil.fold_$kind$name(jsonb, public.es_event)");
			$n++;
		}
	}

	# handlers of his projections, which a superuser runs, rebuilds and switches
	run_sql($mallory,
		q{CREATE FUNCTION evil.handle(e public.es_event) RETURNS void LANGUAGE sql AS
			$$ SELECT evil.boom_plain(); SELECT evil.act('handler') $$},
		q{CREATE FUNCTION evil.reset() RETURNS void LANGUAGE sql AS $$ SELECT evil.boom_plain(); SELECT evil.act('reset handler') $$},
		q{CREATE FUNCTION evil.switch() RETURNS void LANGUAGE sql AS $$ SELECT evil.boom_plain(); SELECT evil.act('switch handler') $$},
		q{SELECT public.es_create_projection('his', 'evil.handle(public.es_event)', '{Fold0}', paused => true,
			reset_handler => 'evil.reset()')},
		q{SELECT public.es_prepare_projection('his', 'evil.handle(public.es_event)', 'evil.reset()')});

	# the same in the worker of a superuser's projection
	run_sql($dbh, 'CREATE TABLE public.supers (n bigint)',
		q{CREATE FUNCTION public.supers(e es_event) RETURNS void LANGUAGE sql AS
			$$ INSERT INTO public.supers SELECT (e).global_position WHERE (e).data IS NOT NULL $$},
		q{SELECT es_create_projection('supers', 'public.supers(es_event)')});

	# control: what anybody calls himself, runs as himself
	$dbh->begin_work;
	$dbh->do(q{SELECT evil.up_plain('{}')});
	isnt(verdict($dbh), '', 'control: a function of his that a superuser simply calls does harm');
	$dbh->rollback;
	is(verdict($dbh), '', 'control: and is undone');

	# a superuser reads in every way
	run_sql($dbh, q{SELECT es_create_subscription('s')}, 'ALTER DATABASE given SET search_path = evil, public, pg_catalog');
	my $reader = connect_store($node, db => 'given', plain => 1);
	my @reads = (
		'EXPLAIN (VERBOSE) SELECT data FROM event_store.events',
		(map { "SELECT data FROM event_store.events WHERE stream_id = 'Up$_-1'" } reverse 0 .. $n - 1),
		'SELECT count(*) FROM public.es_read_all(0, NULL)', 'SELECT data FROM event_store.events',
		q{SELECT count(*) FROM public.es_read_category('Up0')}, q{SELECT * FROM public.es_read_stream('Up1-1')},
		q{SELECT * FROM public.es_load('Up2-1')}, q{SELECT * FROM public.es_fetch('s')},
		'SELECT * FROM public.es_check_upcasters(NULL)', 'SELECT * FROM public.es_preview_upcasters()',
		q{SELECT * FROM public.es_read_query('{}', 0, NULL)},
		(map { "SELECT * FROM public.es_state('Fold$_-1')" } 0 .. $n - 1),
		q{SELECT * FROM public.es_decide('{"items": [{"streams": ["Fold1-1"]}]}', 'evil.fold_planned_plain(jsonb, public.es_event)', '[]')},
		q{SELECT * FROM event_store.parked_events}, q{SELECT event_store.es_upcast_data('Upplanned_plain', 1, '{}',
			'00000000-0000-4000-8000-000000000001', '', 0, '{}')},
		q{SELECT public.es_run_projection('his')}, q{SELECT public.es_switch_projection('his', 'evil.switch()')},
		q{SELECT public.es_rebuild_projection('his')}, q{SELECT public.es_run_projection('his')},
		(map { "SELECT * FROM public.es_read_stream('Up$_-1')" } 0 .. $n - 1));
	foreach my $read (@reads)
	{
		note "$read: " . sqlstate($reader, $read);
		is(sql_value($reader, q{SELECT current_user || ' ' || current_setting('role')}), "$superuser none", "$read: the reader is himself");
		is(verdict($dbh), '', "$read: nothing gained");
	}
	$reader->disconnect;

	# somebody else's projection, in the worker
	my $bob = connect_store($node, db => 'given', user => 'bob');
	run_sql($dbh, 'GRANT CREATE ON SCHEMA public TO bob');
	run_sql($bob, 'SET search_path = public', 'CREATE TABLE public.seen (n bigint)',
		q{CREATE FUNCTION public.see(e public.es_event) RETURNS void LANGUAGE sql AS
			$$ INSERT INTO public.seen VALUES ((e).global_position) $$},
		q{SELECT public.es_create_projection('bobs', 'public.see(public.es_event)')});
	ok( poll_until(
			sub {
				my $now = projection($dbh, 'bobs');
				return $now->{state} eq 'stopped' || $now->{lag_events} == 0;
			}, 180),
		'the worker is done with it');
	ok( poll_until(sub { my $now = projection($dbh, 'supers'); $now->{state} eq 'stopped' || $now->{lag_events} == 0 }, 180),
		q{and a superuser's worker});
	is(verdict($dbh), '', 'nothing gained in the workers');
	my $ran = $dbh->selectcol_arrayref('SELECT DISTINCT who FROM evil.log');
	is_deeply([ sort @$ran ], [qw(bob mallory)], 'his functions ran: as himself for a superuser, as bob for bob');
	cmp_ok(sql_value($dbh, 'SELECT count(DISTINCT place) FROM evil.log'), '>=', 8, 'and most got as far as acting');
	$_->disconnect for $dbh, $mallory, $bob;
	return;
}
