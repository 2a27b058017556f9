# A projection's handler has its owner's rights and no others, in the worker
# and when a superuser runs the projection.
#
# A role that may make projections tries everything it can think of to have
# its code run by somebody else: search_path, planted functions, operators and
# casts, SET ROLE, SET SESSION AUTHORIZATION, deferred triggers, temporary
# tables, settings left behind.  The code notes who runs it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Projection qw(caught_up projection);
use Test::More;

seed_random();
my $node = store_cluster('security', preload => 'event_store',
	conf => "event_store.projection_retry_delay = 10ms\n");
create_store($node);
my $super = connect_store($node);
my $superuser = sql_value($super, 'SELECT current_user');
run_sql($super,
	'CREATE ROLE mallory LOGIN',
	'CREATE ROLE bystander',
	q{SELECT es_grant('mallory', 'admin')},
	'GRANT CREATE ON SCHEMA public TO mallory',
	'GRANT CREATE, TEMPORARY ON DATABASE postgres TO mallory',
	'CREATE TABLE treasure (gold int)',
	'INSERT INTO treasure VALUES (100)');

my $mallory = connect_store($node, user => 'mallory');
plant();
attack_works_when_run_by_a_superuser();
in_the_worker();
run_by_a_superuser();
tables_are_closed();
nothing_was_gained();
$_->disconnect for $super, $mallory;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub plant
{
	run_sql($mallory,
		'CREATE SCHEMA evil',
		'GRANT USAGE ON SCHEMA evil TO PUBLIC',
		'CREATE TABLE evil.log (who text, place text)',
		'GRANT INSERT, SELECT ON evil.log TO PUBLIC',
		q{CREATE FUNCTION evil.act(place text) RETURNS void LANGUAGE plpgsql AS $$
			BEGIN
				BEGIN
					INSERT INTO evil.log VALUES (current_user, place);
				EXCEPTION WHEN OTHERS THEN NULL;
				END;
				BEGIN
					UPDATE public.treasure SET gold = 0;
				EXCEPTION WHEN OTHERS THEN NULL;
				END;
				BEGIN
					ALTER ROLE mallory SUPERUSER;
				EXCEPTION WHEN OTHERS THEN NULL;
				END;
			END $$});

	# what an unqualified name or operator in the store's SQL would meet
	foreach my $schema (qw(evil public))
	{
		foreach my $name (qw(= <> < > <= >= + -))
		{
			my $function = 'op_' . unpack('H*', $name);
			foreach my $type (qw(text bigint boolean timestamptz))
			{
				my $result = $name =~ /[+-]/ ? $type : 'boolean';
				my $value = $name =~ /[+-]/ ? '$1' : 'true';
				run_sql($mallory,
					"CREATE FUNCTION $schema.$function($type, $type) RETURNS $result LANGUAGE plpgsql AS
						\$\$ BEGIN PERFORM evil.act('operator $name'); RETURN $value; END \$\$",
					"CREATE OPERATOR $schema.$name (LEFTARG = $type, RIGHTARG = $type, FUNCTION = $schema.$function)");
			}
		}
		foreach my $function (
			'now() RETURNS timestamptz', 'clock_timestamp() RETURNS timestamptz',
			'count(bigint) RETURNS bigint', 'max(bigint) RETURNS bigint',
			'current_database() RETURNS name')
		{
			my ($type) = $function =~ /RETURNS (\w+)/;
			eval {
				run_sql($mallory, "CREATE FUNCTION $schema.$function LANGUAGE plpgsql AS
					\$\$ BEGIN PERFORM evil.act('function'); RETURN NULL::$type; END \$\$");
			};
		}
		eval {
			run_sql($mallory, "CREATE TABLE $schema.projection (name text)",
				"CREATE TABLE $schema.projection_parked (name text)");
		};
	}

	# a trigger that fires at commit
	run_sql($mallory,
		'CREATE TABLE evil.late (n int)',
		q{CREATE FUNCTION evil.on_late() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN PERFORM evil.act('deferred trigger'); RETURN NULL; END $$},
		'CREATE CONSTRAINT TRIGGER late AFTER INSERT ON evil.late
			DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION evil.on_late()',
		'ALTER ROLE mallory SET search_path = evil, public, pg_catalog');

	# each handler tries one way out and then acts
	my %way = (
		plain => '',
		reset_role => 'RESET ROLE;',
		set_role => "EXECUTE format('SET ROLE %I', '$superuser');",
		session => "EXECUTE format('SET SESSION AUTHORIZATION %I', '$superuser');",
		reset_session => 'RESET SESSION AUTHORIZATION;',
		config_role => "PERFORM set_config('role', '$superuser', false);",
		config_none => "PERFORM set_config('role', 'none', false);",
		path => "PERFORM set_config('search_path', 'evil, public, pg_catalog', false);",
		late => 'INSERT INTO evil.late VALUES (1);',
		temporary => 'CREATE TEMPORARY TABLE projection (name text); '
		  . 'CREATE TEMPORARY TABLE event (n int);',
		everybody => 'CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE sql AS '
		  . "'SELECT NULL::timestamptz';");
	foreach my $name (sort keys %way)
	{
		$mallory->do("CREATE FUNCTION evil.on_$name(e es_event) RETURNS void LANGUAGE plpgsql AS \$\$
			BEGIN
				BEGIN
					$way{$name}
				EXCEPTION WHEN OTHERS THEN NULL;
				END;
				PERFORM evil.act('$name');
			END \$\$");
		$mallory->do('SELECT public.es_create_projection(?, ?::regprocedure, max_attempts => 1, paused => true)',
			undef, $name, "evil.on_$name(public.es_event)");
	}
	return;
}

# The control: the planted code does harm when a superuser runs it.
sub attack_works_when_run_by_a_superuser
{
	$super->begin_work;
	$super->do(q{SELECT evil.act('control')});
	isnt(verdict(), '', 'control: the attack works for a superuser');
	$super->rollback;
	is(verdict(), '', 'control: and is undone');
	return;
}

# What was gained; '' = nothing.
sub verdict
{
	return sql_value(
		$super, q{
		SELECT coalesce(string_agg(x, ', '), '') FROM (
			SELECT 'mallory is a superuser' FROM pg_catalog.pg_roles
			 WHERE rolname = 'mallory' AND rolsuper
			UNION ALL SELECT 'the treasure is gone' FROM public.treasure WHERE gold <> 100
			UNION ALL SELECT DISTINCT 'ran as ' || who || ' from ' || place FROM evil.log
			 WHERE who <> 'mallory') AS f (x)});
}

sub names
{
	return @{ $super->selectcol_arrayref(
		'SELECT name FROM event_store.projections ORDER BY 1') };
}

sub in_the_worker
{
	my @names = names();
	append($super, 'Evil-1', ANY, 'Happened') for 1 .. 3;
	$super->do(q{ALTER DATABASE postgres SET search_path = evil, public, pg_catalog});
	$super->do('SELECT es_resume_projection(?)', undef, $_) for @names;
	foreach my $name (@names)
	{
		ok( poll_until(
				sub {
					my $now = projection($super, $name);
					return $now->{state} eq 'stopped' || $now->{lag_events} == 0;
				}),
			"$name: the worker is done with it");
		is(verdict(), '', "$name: nothing gained in the worker");
	}
	my $users = $super->selectcol_arrayref('SELECT DISTINCT who FROM evil.log');
	is_deeply($users, ['mallory'], 'the handlers ran, as mallory');
	cmp_ok(sql_value($super, 'SELECT count(DISTINCT place) FROM evil.log'),
		'>=', scalar(@names) - 2, 'most of them got as far as acting');
	return;
}

# The superuser's session has the planted schemas in its path, too.
sub run_by_a_superuser
{
	my $session = connect_store($node, plain => 1);
	$super->do('TRUNCATE evil.log');
	foreach my $name (names())
	{
		$session->do('SELECT public.es_pause_projection(?)', undef, $name);
		append($super, 'Evil-1', ANY, 'Happened');
		my $state = sqlstate($session, 'SELECT public.es_run_projection(?)', $name);
		note "$name: $state";
		is(sql_value($session, 'SELECT current_user'), $superuser, "$name: the user is back");
		is(sql_value($session, 'SHOW role'), 'none', "$name: the role is back");
		is(verdict(), '', "$name: nothing gained from a superuser's session");
		$session->do('DISCARD TEMP');
	}
	is_deeply($super->selectcol_arrayref('SELECT DISTINCT who FROM evil.log'),
		['mallory'], 'the handlers ran, as mallory');
	$session->disconnect;

	# the other functions that call handlers
	$mallory->do(q{CREATE FUNCTION evil.reset() RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO evil.late VALUES (2); PERFORM evil.act('reset'); END $$});
	$mallory->do(q{SELECT public.es_create_projection('r', 'evil.on_plain(public.es_event)',
		reset_handler => 'evil.reset()', paused => true)});
	foreach my $call (
		q{SELECT public.es_rebuild_projection('r')},
		q{SELECT public.es_prepare_projection('r', 'evil.on_late(public.es_event)', 'evil.reset()')},
		q{SELECT public.es_switch_projection('r', 'evil.reset()')},
		q{SELECT public.es_retry_projection_parked('r')})
	{
		note sqlstate($super, $call);
		is(verdict(), '', "nothing gained: $call");
	}
	return;
}

sub tables_are_closed
{
	foreach my $statement (
		q{UPDATE event_store.projection SET owner = 'bystander'},
		q{INSERT INTO event_store.projection SELECT * FROM event_store.projection},
		q{DELETE FROM event_store.projection},
		q{DELETE FROM event_store.projection_parked},
		q{CREATE TRIGGER t AFTER UPDATE ON event_store.projection FOR EACH ROW EXECUTE FUNCTION evil.on_late()},
		q{SELECT * FROM event_store.projection},
		q{SELECT event_store.es_projection_worker_main()})
	{
		isnt(sqlstate($mallory, $statement), '00000', "refused: $statement");
	}

	# somebody else's projection
	run_sql($super,
		q{SELECT public.es_create_projection('mine', 'evil.on_plain(public.es_event)', paused => true)});
	is(sqlstate($mallory, "SELECT public.$_('mine')"), '42501', "refused: $_")
	  for qw(es_run_projection es_drop_projection es_pause_projection es_resume_projection
		es_rebuild_projection es_switch_projection es_cancel_rebuild
		es_retry_projection_parked es_discard_projection_parked);
	run_sql($super, q{SELECT public.es_drop_projection('mine')});
	return;
}

sub nothing_was_gained
{
	is(verdict(), '', 'nothing was gained');
	is(sql_value($super, 'SELECT gold FROM public.treasure'), 100, 'the treasure is there');
	return;
}
