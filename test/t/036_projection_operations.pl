# What an operator, or an odd handler, does to projections while they run: dump
# and restore in every state, row-level security, an update of the extension,
# names that change, settings of roles, limits of time, handlers that append,
# listen, change the role or drop what they run for.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Projection
  qw(create_model write_amounts differences caught_up worker_pid wait_for_worker projection);
use File::Temp ();
use Test::More;

seed_random();
my $node = store_cluster('operations', preload => 'event_store',
	conf => "event_store.projection_retry_delay = 10ms\n");
my $folder = File::Temp::tempdir('es_dump_XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $dbh;

dump_and_restore();
in_database('row_security', \&row_security);
in_database('hidden_run', \&hidden_run);
in_database('update_extension', \&update_extension);
in_database('names_change', \&names_change);
in_database('role_settings', \&role_settings);
in_database('turned_off', \&turned_off);
in_database('turns', \&turns);
in_database('search_is_over', \&search_is_over);
in_database('no_connect', \&no_connect);
in_database('statistics', \&statistics);
in_database('time_limits', \&time_limits);
in_database('odd_handlers', \&odd_handlers);
in_database('dropped_handler', \&dropped_handler);
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub in_database
{
	my ($name, $code) = @_;
	create_store($node, $name);
	$dbh = connect_store($node, db => $name);
	$code->();
	$dbh->disconnect;
	$node->safe_psql('postgres', "DROP DATABASE $name WITH (FORCE)");
	return;
}

sub create_projection
{
	my ($name, $handler, %opt) = @_;
	my $options = join '', map { ", $_ => $opt{$_}" } sort keys %opt;
	$dbh->do("SELECT es_create_projection(?, ?::regprocedure$options)", undef, $name, $handler);
	return;
}

sub reaches_state
{
	my ($name, $state) = @_;
	return poll_until(sub { projection($dbh, $name)->{state} eq $state });
}

# Let nobody, or everybody, have workers for projections.
sub allow_workers
{
	my ($count) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET event_store.max_projection_workers = $count");
	$node->reload;
	return;
}

# Projections in all states: running and behind, stopped, parked events, a new
# version half-way.
sub dump_and_restore
{
	create_store($node, 'original');
	$dbh = connect_store($node, db => 'original');
	run_sql($dbh, 'CREATE TABLE cured (yes boolean)');
	my %handler = map { $_ => create_model($dbh, $_, set => /new/ ? 1 : 0) }
	  qw(running stopped parks next next_new);
	foreach my $name (qw(stopped parks))
	{
		$dbh->do("CREATE FUNCTION check_$name(e es_event) RETURNS void LANGUAGE plpgsql AS \$\$
			BEGIN
				IF jsonb_exists(e.data, 'poison') AND NOT EXISTS (SELECT FROM cured) THEN
					RAISE 'poison';
				END IF;
				PERFORM on_$name(e);
			END \$\$");
	}
	append_batch($dbh, "Acc-$_", 0, 'Added', [ map { undef } 1 .. 20 ]) for 1 .. 10;
	append($dbh, 'Acc-3', ANY, 'Added', undef, '{"n": 5, "poison": 1}');
	append_batch($dbh, "Acc-$_", ANY, 'Added', [ map { undef } 1 .. 5 ]) for 1 .. 10;
	create_projection('running', $handler{running});
	create_projection('stopped', 'check_stopped(es_event)', max_attempts => 1);
	create_projection('parks', 'check_parks(es_event)', max_attempts => 1, policy => "'park'");
	create_projection('next', $handler{next});
	caught_up($dbh, qw(running parks next));
	ok(reaches_state('stopped', 'stopped'), 'dump: one is stopped');
	$dbh->do(q{SELECT es_pause_projection('next')});
	$dbh->do(q{SELECT es_prepare_projection('next', 'on_next_new(es_event[])')});
	$dbh->do(q{SELECT es_pause_projection('running')});
	append_batch($dbh, 'Acc-1', ANY, 'Added', [ undef, undef ]);
	$dbh->do(q{UPDATE event_store.projection SET state = 'running' WHERE name = 'running'});

	my $rows = 'SELECT p::text FROM event_store.projection p ORDER BY 1';
	my $parked = 'SELECT p::text FROM event_store.projection_parked p ORDER BY 1';
	my @server = ('-h', $node->host, '-p', $node->port);
	allow_workers(0);
	ok(poll_until(sub { !worker_pid($dbh) }), 'no workers allowed: they end');
	append($dbh, 'Acc-2', ANY, 'Added');
	my @state = map { $dbh->selectcol_arrayref($_) } $rows, $parked;
	foreach my $format (qw(plain custom))
	{
		is(run_program('pg_dump', @server, "--format=$format", '-f', "$folder/$format", 'original'),
			0, "$format: dumped");
	}
	foreach my $format (qw(plain custom))
	{
		$node->safe_psql('postgres', "CREATE DATABASE restored_$format");
		my @program = $format eq 'plain' ? qw(psql -qX -v ON_ERROR_STOP=1 -f) : qw(pg_restore --exit-on-error);
		is(run_program($program[0], @server, '-d', "restored_$format", @program[ 1 .. $#program ],
				"$folder/$format"), 0, "$format: restored");
		my $copy = connect_store($node, db => "restored_$format");
		is_deeply([ map { $copy->selectcol_arrayref($_) } $rows, $parked ],
			\@state, "$format: projections and parked events are the same");
		$copy->disconnect;
	}
	$dbh->disconnect;
	allow_workers(4);

	foreach my $db (qw(original restored_plain restored_custom))
	{
		$dbh = connect_store($node, db => $db);
		append($dbh, 'Acc-2', ANY, 'Added');
		caught_up($dbh, 'running');
		is(differences($dbh, 'running'), '', "$db: the running one has gone on");
		is(projection($dbh, 'stopped')->{state}, 'stopped', "$db: the stopped one has not");
		$dbh->do('INSERT INTO cured VALUES (true)');
		$dbh->do(q{SELECT es_resume_projection('stopped')});
		caught_up($dbh, qw(stopped parks));
		is(differences($dbh, 'stopped'), '', "$db: until resumed");
		isnt(differences($dbh, 'parks'), '', "$db: parked events are not applied");
		cmp_ok(sql_value($dbh, q{SELECT es_retry_projection_parked('parks')}), '>', 5,
			"$db: they can be retried");
		is(differences($dbh, 'parks'), '', "$db: then they are");
		$dbh->do(q{SELECT es_resume_projection('next')});
		caught_up($dbh, 'next');
		$dbh->do(q{SELECT es_switch_projection('next')});
		is(differences($dbh, 'next_new'), '', "$db: the new version goes on and is switched to");
		$dbh->disconnect;
		$node->safe_psql('postgres', "DROP DATABASE $db WITH (FORCE)");
	}
	return;
}

# A tenant's projection: the worker, a superuser's session and a retry give it
# its own events only.
sub row_security
{
	run_sql($dbh,
		'CREATE ROLE tenant LOGIN',
		q{SELECT es_grant('tenant', 'admin')},
		'GRANT CREATE ON SCHEMA public TO tenant',
		'ALTER TABLE event_store.event ENABLE ROW LEVEL SECURITY',
		q{CREATE POLICY own ON event_store.event FOR SELECT TO tenant
		  USING (metadata->>'tenant' = 'a')},
		q{CREATE TABLE public.seen (position bigint)},
		'GRANT ALL ON seen TO tenant');
	my $append = sub {
		$dbh->do('SELECT es_append(?, es_any(), ?, ?, ?)', undef, 'T-' . random_int(1, 3), 'Added',
			$_[0] || '{}', qq({"tenant": "$_"}))
		  for ('a', 'b', 'b', 'a', 'b');
	};
	my $wrong = sub {
		return sql_value(
			$dbh, q{SELECT count(*) FROM
				(SELECT global_position FROM event_store.events WHERE metadata->>'tenant' = 'a') e
				FULL JOIN (SELECT position, count(*) AS n FROM seen GROUP BY 1) s ON s.position = e.global_position
				WHERE n IS DISTINCT FROM 1});
	};
	my $tenant = connect_store($node, db => 'row_security', user => 'tenant');
	$tenant->do(q{CREATE FUNCTION on_event(e es_event) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			IF jsonb_exists(e.data, 'poison') THEN RAISE 'poison'; END IF;
			INSERT INTO seen VALUES (e.global_position);
		END $$});
	$append->();
	$tenant->do(q{SELECT es_create_projection('p', 'on_event(es_event)', policy => 'park',
		batch_size => 2, max_attempts => 1)});
	caught_up($dbh, 'p');
	is($wrong->(), 0, 'row security: the worker gives the visible events');
	$dbh->do(q{SELECT es_pause_projection('p')});
	$append->();
	is(sql_value($dbh, q{SELECT es_run_projection('p')}), 2, "row security: so does a superuser's run");
	is($wrong->(), 0, 'row security: exactly these');
	$append->();
	is(sql_value($tenant, q{SELECT es_run_projection('p')}), 2, "row security: and the tenant's own");
	is($wrong->(), 0, 'row security: exactly these');

	$append->('{"poison": 1}');
	$dbh->do(q{SELECT es_resume_projection('p')});
	ok( poll_until(
			sub {
				sql_value($dbh,
					q{SELECT count(DISTINCT k.global_position)
					  FROM event_store.projection_parked k JOIN event_store.events e USING (global_position)
					  WHERE k.disposition IN ('parked', 'behind')}) == 2;
			}),
		'row security: its bad events are parked');
	caught_up($dbh, 'p');
	is(sql_value($dbh, q{SELECT count(*) FROM event_store.projection_parked}), 2,
		'row security: those of others are not');
	$tenant->do(q{CREATE OR REPLACE FUNCTION on_event(e es_event) RETURNS void LANGUAGE sql AS
		'INSERT INTO seen VALUES (e.global_position)'});
	is(sql_value($dbh, q{SELECT es_retry_projection_parked('p')}), 2, 'row security: a retry');
	is($wrong->(), 0, 'row security: in the end it has what the policy shows');
	# a policy that fails is a failure of that event
	run_sql($dbh, 'DROP POLICY own ON event_store.event',
		q{CREATE POLICY own ON event_store.event FOR SELECT TO tenant
		  USING ((metadata->>'number')::int = 1)});
	$dbh->do(q{SELECT es_append('T-4', es_any(), 'Added', '{}', jsonb_build_object('number', n))
		FROM unnest(ARRAY['1', 'abc', '1']) AS n});
	$tenant->do(q{SELECT es_create_projection('fails', 'on_event(es_event)', policy => 'park',
		after_position => es_head() - 3, max_attempts => 2)});
	caught_up($dbh, 'fails');
	is_deeply(
		$dbh->selectall_arrayref(
			q{SELECT disposition, sqlstate FROM event_store.projection_parked
			  WHERE projection = 'fails' ORDER BY global_position}),
		[ [ 'parked', '22P02' ], [ 'behind', undef ] ],
		'row security: an event whose policy fails can be parked');
	$tenant->do(q{SELECT es_drop_projection('fails')});
	$tenant->do(q{SELECT es_drop_projection('p')});
	$tenant->disconnect;
	run_sql($dbh, q{SELECT es_revoke('tenant', 'admin')}, 'DROP OWNED BY tenant', 'DROP ROLE tenant');
	return;
}

# Very many events that a projection is not to see do not make one long slice.
sub hidden_run
{
	run_sql($dbh,
		'CREATE ROLE tenant LOGIN',
		q{SELECT es_grant('tenant', 'admin')},
		'GRANT CREATE ON SCHEMA public TO tenant',
		'ALTER TABLE event_store.event ENABLE ROW LEVEL SECURITY',
		q{CREATE POLICY own ON event_store.event FOR SELECT TO tenant USING (false)});
	append_batch($dbh, 'T-1', ANY, 'Added', [ map { undef } 1 .. 6000 ]) for 1 .. 2;
	my $tenant = connect_store($node, db => 'hidden_run', user => 'tenant');
	$tenant->do(q{CREATE FUNCTION on_event(e es_event) RETURNS void LANGUAGE sql AS ''});
	$tenant->do(q{SELECT es_create_projection('p', 'on_event(es_event)', batch_size => 10, paused => true)});
	# the trigger sees each checkpoint of the worker
	run_sql($dbh,
		'CREATE TABLE checkpoints (position bigint)',
		q{CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
		  $$ BEGIN INSERT INTO public.checkpoints VALUES (NEW.position); RETURN NULL; END $$},
		'CREATE TRIGGER note AFTER UPDATE OF position ON event_store.projection
			FOR EACH ROW EXECUTE FUNCTION note()');
	$tenant->do(q{SELECT es_resume_projection('p')});
	caught_up($dbh, 'p');
	is(projection($dbh, 'p')->{events_applied}, 0, 'hidden events: none is applied');
	cmp_ok(sql_value($dbh, 'SELECT count(*) FROM checkpoints'), '>=', 2,
		'hidden events: more than one slice');
	is(sql_value($dbh, 'SELECT max(position) FROM checkpoints'), 12000, 'hidden events: all are passed');
	$tenant->disconnect;
	run_sql($dbh, q{SELECT es_revoke('tenant', 'admin')}, 'DROP OWNED BY tenant', 'DROP ROLE tenant');
	return;
}

# ALTER EXTENSION UPDATE under load, as far as a session without a second
# version on disk can do it: workers end and come back, nothing is lost.
sub update_extension
{
	create_projection('p', create_model($dbh, 'model'), batch_size => 20);
	create_projection('set', create_model($dbh, 'model_set', set => 1), batch_size => 20);
	new_flags();
	my $db = 'update_extension';
	start_client("writer_$_", sub { write_amounts($node, 20, db => $db, pause => 5) }) for 1 .. 2;
	foreach my $version (1 .. 5)
	{
		# one that has just begun may have to see the version yet
		my $pid = poll_until(
			sub {
				my $now = worker_pid($dbh) or return 0;
				my $position = append($dbh, 'Acc-1', ANY, 'Added')->{position};
				$dbh->do(q{SELECT es_wait_projection('p', ?)}, undef, $position);
				return $now == (worker_pid($dbh) || 0) && $now;
			});
		ok($pid, "update $version: a worker is at work");
		poll_until(
			sub {
				eval {
					run_sql($dbh, 'BEGIN',
						"ALTER TABLE event_store.projection ADD COLUMN extra_$version int",
						'ALTER TABLE event_store.projection_parked ALTER COLUMN message TYPE varchar(100)',
						'ALTER TABLE event_store.projection_parked ALTER COLUMN message TYPE text',
						"UPDATE pg_catalog.pg_extension SET extversion = '0.1.$version' WHERE extname = 'event_store'",
						'COMMIT');
					1;
				} or do { $dbh->do('ROLLBACK'); 0 };
			});
		ok(poll_until(sub { my $now = worker_pid($dbh); $now && $now != $pid }),
			"update $version: it ends, a new one starts");
	}
	flag_set('stop');
	wait_clients(test => 'update: no writer failed');
	caught_up($dbh, qw(p set));
	is(differences($dbh, $_), '', "update: $_ = recomputation") for qw(model model_set);
	is(sql_value($dbh, q{SELECT count(*) FROM event_store.projections
						 WHERE state <> 'running' OR error_sqlstate IS NOT NULL}),
		0, 'update: no projection has noticed');
	return;
}

# The owner or the handler gets another name: it stands still, visibly or not,
# and goes on when the name is back.
sub names_change
{
	run_sql($dbh, 'CREATE ROLE old_name LOGIN', q{SELECT es_grant('old_name', 'admin')},
		'GRANT CREATE ON SCHEMA public TO old_name', 'SET SESSION AUTHORIZATION old_name');
	create_projection('p', create_model($dbh, 'model'));
	$dbh->do('RESET SESSION AUTHORIZATION');
	append($dbh, 'Acc-1', ANY, 'Added');
	caught_up($dbh, 'p');
	$dbh->do('ALTER ROLE old_name RENAME TO new_name');
	append($dbh, 'Acc-1', ANY, 'Added');
	is(sqlstate($dbh, q{SELECT es_run_projection('p')}), '42704', 'owner renamed: it says so');
	is(sqlstate($dbh, q{SELECT es_wait_projection('p', es_head(), '1 min')}), '55000',
		'owner renamed: nobody waits for it');
	is(projection($dbh, 'p')->{reason}, 'its owner does not exist', 'owner renamed: the view says why');
	is(sql_value($dbh, q{SELECT problem FROM event_store.consumers WHERE name = 'p'}),
		'its owner does not exist', 'owner renamed: at a glance, too');
	$dbh->do('ALTER ROLE new_name RENAME TO old_name');
	caught_up($dbh, 'p');
	is(differences($dbh, 'model'), '', 'owner renamed back: it goes on');

	$dbh->do('ALTER FUNCTION on_model(es_event) RENAME TO on_other');
	append($dbh, 'Acc-1', ANY, 'Added');
	ok(reaches_state('p', 'stopped'), 'handler renamed: it stops');
	is(projection($dbh, 'p')->{error_sqlstate}, '42883', 'handler renamed: its SQLSTATE');
	$dbh->do('ALTER FUNCTION on_other(es_event) RENAME TO on_model');
	$dbh->do(q{SELECT es_resume_projection('p')});
	caught_up($dbh, 'p');
	is(differences($dbh, 'model'), '', 'handler renamed back: it goes on');
	$dbh->do(q{SELECT es_drop_projection('p')});
	run_sql($dbh, q{SELECT es_revoke('old_name', 'admin')}, 'DROP OWNED BY old_name CASCADE',
		'DROP ROLE old_name');
	return;
}

# Settings of the owner hold in the worker, but it stays what it is.
sub role_settings
{
	run_sql($dbh, 'CREATE ROLE stranger LOGIN', 'CREATE ROLE owner LOGIN IN ROLE stranger',
		q{SELECT es_grant('owner', 'admin')}, 'GRANT CREATE ON SCHEMA public TO owner',
		'ALTER ROLE owner SET role = stranger',
		q{ALTER ROLE owner SET default_transaction_isolation = 'repeatable read'},
		'ALTER ROLE owner SET default_transaction_read_only = on',
		'ALTER ROLE owner SET exit_on_error = on',
		q{ALTER ROLE owner SET work_mem = '5MB'},
		'ALTER ROLE owner SET event_store.upcast = off',
		q{CREATE FUNCTION gained(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data $$},
		q{SELECT es_define_upcaster('Gained', 1, 'gained', 'Added')},
		'SET SESSION AUTHORIZATION owner',
		'CREATE TABLE who (name text, work_mem text, type text, position bigint)',
		q{CREATE FUNCTION on_event(e es_event) RETURNS void LANGUAGE plpgsql AS $$
			BEGIN
				IF e.data ? 'poison' THEN RAISE 'poison'; END IF;
				INSERT INTO who VALUES (current_user, current_setting('work_mem'), e.event_type, e.global_position);
			END $$});
	create_projection('p', 'on_event(es_event)', batch_size => 3, event_types => q{'{Added}'},
		max_attempts => 1, policy => q{'skip'});
	$dbh->do('RESET SESSION AUTHORIZATION');
	append_batch($dbh, 'Acc-1', ANY, $_ % 2 ? 'Gained' : 'Added', [ undef, undef ]) for 1 .. 20;
	append($dbh, 'Acc-1', ANY, 'Added', undef, '{"poison": 1}');
	caught_up($dbh, 'p');
	is_deeply(
		$dbh->selectall_arrayref('SELECT name, work_mem, type, count(*) FROM who GROUP BY 1, 2, 3'),
		[ [ 'owner', '5MB', 'Added', 40 ] ],
		'settings of the owner: all events, in today\'s shape, as the owner, with his settings');
	is(projection($dbh, 'p')->{events_skipped}, 1, 'settings of the owner: his worker outlives an error');
	$dbh->do(q{SELECT es_drop_projection('p')});

	# before 17 a worker cannot connect as a role that may not
	run_sql($dbh, 'ALTER ROLE owner NOLOGIN');
	if ($dbh->{pg_server_version} < 170000)
	{
		$dbh->do(q{SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
			WHERE backend_type = 'event_store projections' AND datname = current_database()});
		ok(poll_until(sub { !worker_pid($dbh) }), 'no login: nobody runs it');
	}
	$dbh->do('SET ROLE owner');
	my @said;
	{
		local $dbh->{PrintWarn} = 1;
		local $SIG{__WARN__} = sub { push @said, @_ };
		create_projection('p', 'on_event(es_event)', after_position => sql_value($dbh, 'SELECT es_head()'));
	}
	is(scalar(grep { /no worker will run projections of role "owner"/ } @said), $dbh->{pg_server_version} < 170000 ? 1 : 0,
		'settings of the owner: who may not log in is told what that means');
	$dbh->do('RESET ROLE');
	if ($dbh->{pg_server_version} < 170000)
	{
		append($dbh, 'Acc-1', ANY, 'Added');
		my $state = projection($dbh, 'p');
		is(join(' ', map { $_ // '' } @$state{qw(state error_sqlstate error_message reason)}),
			'running 08004 its owner may not log in, so no worker runs it ', 'no login: the view says so');
		cmp_ok(sql_value($dbh, q{SELECT es_run_projection('p')}), '>', 0, 'no login: a session can run it');
		is(projection($dbh, 'p')->{error_sqlstate}, undef, 'no login: nothing to do, nothing in the way');
	}
	run_sql($dbh, q{SELECT es_drop_projection('p')}, q{SELECT es_revoke('owner', 'admin')}, 'DROP OWNED BY owner CASCADE',
		'DROP ROLE owner, stranger');
	return;
}

# max_projection_workers = 0 ends the workers that run, too.
sub turned_off
{
	create_projection('p', create_model($dbh, 'model'));
	append($dbh, 'Acc-1', ANY, 'Added');
	caught_up($dbh, 'p');
	ok(wait_for_worker($dbh), 'turned off: a worker is there');
	allow_workers(0);
	ok(poll_until(sub { !worker_pid($dbh) }), 'turned off: it ends');
	append($dbh, 'Acc-1', ANY, 'Added');
	is(sql_value($dbh, q{SELECT es_wait_projection('p', es_head(), '300 ms')::int}), 0,
		'turned off: none starts');
	my $state = projection($dbh, 'p');
	is("$state->{error_sqlstate} $state->{error_message}", '53400 event_store.max_projection_workers is 0',
		'turned off: the view says so');
	is(sql_value($dbh, q{SELECT es_run_projection('p')}), 1, 'turned off: it can be run');
	is(projection($dbh, 'p')->{error_sqlstate}, undef, 'turned off: nothing to do, nothing in the way');
	append($dbh, 'Acc-1', ANY, 'Added');
	allow_workers(4);
	caught_up($dbh, 'p');
	is(differences($dbh, 'model'), '', 'turned on: it goes on');
	return;
}

# More roles have work without end than workers are allowed: they take turns.
sub turns
{
	my @roles = map { "turn_$_" } 1 .. 3;
	allow_workers(1);
	foreach my $role (@roles)
	{
		run_sql($dbh, "CREATE ROLE $role LOGIN", "SELECT es_grant('$role', 'admin')",
			"GRANT CREATE ON SCHEMA public TO $role", "SET SESSION AUTHORIZATION $role");
		create_projection("of_$role", create_model($dbh, "model_$role"));
		$dbh->do('RESET SESSION AUTHORIZATION');
	}

	# to find its bad event takes longer than a turn
	run_sql($dbh, 'SET SESSION AUTHORIZATION turn_1',
		q{CREATE FUNCTION on_cut(events es_event[]) RETURNS void LANGUAGE plpgsql AS $$
			BEGIN
				PERFORM pg_sleep(0.25);
				IF EXISTS (SELECT FROM unnest(events) WHERE jsonb_exists(data, 'poison')) THEN
					RAISE 'poison';
				END IF;
			END $$});
	append_batch($dbh, 'Cut-1', 0, 'Added', [ map { undef } 1 .. 40 ]);
	append($dbh, 'Cut-1', 40, 'Added', undef, '{"n": 1, "poison": 1}');
	append_batch($dbh, 'Cut-1', 41, 'Added', [ map { undef } 1 .. 100 ]);
	create_projection('cut', 'on_cut(es_event[])', categories => q{'{Cut}'}, max_attempts => 1,
		policy => q{'skip'});
	$dbh->do('RESET SESSION AUTHORIZATION');
	new_flags();
	start_client('writer', sub { write_amounts($node, 50, db => 'turns', pause => 5) });
	my %turns = map { $_ => 0 } @roles;
	my $worker = '';
	poll_until(
		sub {
			my $now = sql_value($dbh,
				q{SELECT string_agg(usename, ', ' ORDER BY usename) FROM pg_catalog.pg_stat_activity
				  WHERE backend_type = 'event_store projections' AND datname = current_database()}) || '';
			$turns{$now}++ if $now && $now ne $worker;
			$worker = $now if $now;
			return keys %turns > 3 || !grep { $turns{$_} < 3 } @roles;
		});
	is(join(', ', sort keys %turns), join(', ', @roles), 'turns: one worker at a time');
	cmp_ok($turns{$_}, '>=', 3, "turns: $_ has some") for @roles;
	ok(poll_until(sub { projection($dbh, 'cut')->{events_skipped} == 1 }),
		'turns: the search for a bad event gets to its end');
	flag_set('stop');
	wait_clients(test => 'turns: the writer did not fail');
	foreach my $role (@roles)
	{
		caught_up($dbh, "of_$role");
		is(differences($dbh, "model_$role"), '', "turns: the read model of $role is complete");
		is(projection($dbh, "of_$role")->{error_sqlstate}, undef, "turns: no error noted for $role");
		$dbh->do('SELECT es_drop_projection(?)', undef, "of_$role");
	}
	$dbh->do(q{SELECT es_drop_projection('cut')});
	run_sql($dbh, "SELECT es_revoke('$_', 'admin')", "DROP OWNED BY $_ CASCADE", "DROP ROLE $_") for @roles;
	allow_workers(4);
	return;
}

# A worker does not end in the middle of its search for a bad event, but does
# when somebody else has meanwhile got past it.
sub search_is_over
{
	my @roles = qw(searcher other);
	$node->safe_psql('postgres', q{ALTER SYSTEM SET event_store.worker_idle_timeout = '1h'});
	allow_workers(1);
	run_sql($dbh, "CREATE ROLE $_ LOGIN", "SELECT es_grant('$_', 'admin')",
		"GRANT CREATE ON SCHEMA public TO $_") for @roles;
	run_sql($dbh, 'CREATE TABLE cured (yes boolean)', 'GRANT SELECT ON cured TO searcher',
		'SELECT pg_advisory_lock(1)');
	append_batch($dbh, 'Acc-1', 0, 'Added', [ map { undef } 1 .. 20 ]);

	# the first one fails, then the second one waits
	run_sql($dbh, 'SET SESSION AUTHORIZATION searcher',
		q{CREATE FUNCTION on_set(events es_event[]) RETURNS void LANGUAGE plpgsql AS $$
			BEGIN
				IF NOT EXISTS (SELECT FROM cured) THEN RAISE 'bad'; END IF;
			END $$},
		q{CREATE FUNCTION on_event(e es_event) RETURNS void LANGUAGE sql AS
			'SELECT pg_advisory_xact_lock_shared(1)'},
		'BEGIN');
	create_projection('fails', 'on_set(es_event[])');
	create_projection('waits', 'on_event(es_event)');
	run_sql($dbh, 'COMMIT', 'RESET SESSION AUTHORIZATION');
	ok(poll_until(sub {
		sql_value($dbh, q{SELECT count(*) FROM pg_catalog.pg_stat_activity
			WHERE backend_type = 'event_store projections' AND wait_event = 'advisory'});
	}), 'search: the worker is at another projection');
	$dbh->do('INSERT INTO cured VALUES (true)');
	is(sql_value($dbh, q{SELECT es_run_projection('fails')}), 20, 'search: a session gets past the event');
	$dbh->do('SET SESSION AUTHORIZATION other');
	create_projection('other', create_model($dbh, 'model'));
	run_sql($dbh, 'RESET SESSION AUTHORIZATION', 'SELECT pg_advisory_unlock(1)');
	caught_up($dbh, 'other');
	is(differences($dbh, 'model'), '', 'search: another role gets its turn');
	$dbh->do('SELECT es_drop_projection(?)', undef, $_) for qw(fails waits other);
	run_sql($dbh, "SELECT es_revoke('$_', 'admin')", "DROP OWNED BY $_ CASCADE", "DROP ROLE $_") for @roles;
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET event_store.worker_idle_timeout');
	allow_workers(4);
	return;
}

# A worker that is never idle reports its statistics, or autovacuum would not
# see what it writes.
sub statistics
{
	run_sql($dbh, 'CREATE TABLE model (position bigint)',
		q{CREATE FUNCTION on_event(e es_event) RETURNS void LANGUAGE plpgsql AS $$
			BEGIN
				PERFORM pg_sleep(0.02);
				INSERT INTO model VALUES (e.global_position);
			END $$});
	append_batch($dbh, 'Acc-1', ANY, 'Added', [ map { undef } 1 .. 6000 ]);
	create_projection('p', 'on_event(es_event)', batch_size => 5);
	ok( poll_until(
			sub {
				sql_value($dbh, q{SELECT n_tup_ins > 0 FROM pg_catalog.pg_stat_user_tables
								  WHERE relname = 'model'});
			}),
		'statistics: what is written shows');
	cmp_ok(projection($dbh, 'p')->{lag_events}, '>', 0, 'statistics: while the worker is busy');
	$dbh->do(q{SELECT es_drop_projection('p')});
	return;
}

# Slow handlers: a slice ends in time, the caller's own limit is his own.
sub time_limits
{
	run_sql($dbh, 'CREATE SEQUENCE calls',
		q{CREATE FUNCTION on_event(e es_event) RETURNS void LANGUAGE plpgsql AS $$
			BEGIN
				PERFORM nextval('calls');
				PERFORM pg_sleep(0.15);
			END $$});
	append_batch($dbh, 'Acc-1', ANY, 'Added', [ map { undef } 1 .. 12 ]);
	create_projection('p', 'on_event(es_event)', paused => 'true');
	$dbh->do(q{SET statement_timeout = '500 ms'});
	is(sqlstate($dbh, q{SELECT es_run_projection('p')}), '57014',
		"time limits: the session's own keeps its code");
	$dbh->do('RESET statement_timeout');
	is(projection($dbh, 'p')->{position}, 0, 'time limits: nothing is passed');
	$node->append_conf('postgresql.conf', 'event_store.projection_timeout = 1s');
	$node->reload;
	$dbh->do(q{SELECT setval('calls', 1000)});
	$dbh->do(q{SELECT es_resume_projection('p')});
	caught_up($dbh, 'p');
	is(sql_value($dbh, 'SELECT last_value FROM calls'), 1012,
		'time limits: a slice of slow events ends before it is cancelled');
	$dbh->do(q{SELECT es_drop_projection('p')});
	$node->append_conf('postgresql.conf', 'event_store.projection_timeout = 60s');
	$node->reload;
	return;
}

# Handlers that do more than write a read model.
sub odd_handlers
{
	run_sql($dbh, 'CREATE ROLE other', 'CREATE TABLE done (what text, position bigint)',
		'CREATE TABLE late (n int)',
		q{CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'too late'; END $$},
		'CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION fail()');
	append($dbh, 'Odd-1', ANY, 'Added') for 1 .. 5;
	my $refused = '55000';
	my %way = (
		appends => [ q{PERFORM es_append('Made-' || e.version, es_any(), 'Made', '{}');}, undef ],
		runs => [ q{PERFORM es_run_projection('runs');}, $refused ],
		drops => [ q{PERFORM es_drop_projection('drops');}, $refused ],
		pauses => [ q{PERFORM es_pause_projection('pauses');}, $refused ],
		sets_role => [ 'SET ROLE other;', undef ],
		listens => [ 'LISTEN x;', '0A000' ],
		notifies => [ 'NOTIFY x;', undef ],
		temporary => [ 'CREATE TEMPORARY TABLE t (n int) ON COMMIT DROP; INSERT INTO t VALUES (1); DROP TABLE t;', undef ],
		too_late => [ 'INSERT INTO late VALUES (1);', 'P0001' ],
		nested => [ q{BEGIN PERFORM es_run_projection('nested'); EXCEPTION WHEN OTHERS THEN NULL; END;}, undef ],
		isolates => [ 'SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;', '25001' ],
		ends => [ 'PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(10);', '57014' ]);
	foreach my $name (sort keys %way)
	{
		my ($act, $error) = @{ $way{$name} };
		# the insertion comes first, as the one who may
		$dbh->do("CREATE FUNCTION on_$name(e es_event) RETURNS void LANGUAGE plpgsql AS \$\$
			BEGIN INSERT INTO public.done VALUES ('$name', e.global_position); $act END \$\$");
		create_projection($name, "on_$name(es_event)", categories => "'{Odd}'", max_attempts => 2);
	}
	run_sql($dbh, 'GRANT INSERT ON done TO other');
	foreach my $name (sort keys %way)
	{
		my $error = $way{$name}[1];
		if ($error)
		{
			ok(reaches_state($name, 'stopped'), "$name: stops");
			is(projection($dbh, $name)->{error_sqlstate}, $error, "$name: its SQLSTATE");
			is(sql_value($dbh, 'SELECT count(*) FROM done WHERE what = ?', $name), 0, "$name: nothing is applied");
		}
		else
		{
			caught_up($dbh, $name);
			is(sql_value($dbh, 'SELECT count(*) FROM done WHERE what = ?', $name), 5, "$name: once each");
		}
	}
	is(sql_value($dbh, q{SELECT count(*) FROM event_store.events WHERE event_type = 'Made'}), 5,
		'appends: its events are there');

	# one that answers its own events goes on for ever, a bit at a time
	$dbh->do(q{CREATE FUNCTION on_echo(e es_event) RETURNS void LANGUAGE sql AS
		$$ SELECT es_append('Echo-1', es_any(), 'Said', '{}') $$});
	append($dbh, 'Echo-1', ANY, 'Said');
	create_projection('echo', 'on_echo(es_event)', categories => "'{Echo}'");
	ok(poll_until(sub { projection($dbh, 'echo')->{position} > sql_value($dbh, 'SELECT max(position) FROM done') + 50 }),
		'echo: goes on');
	$dbh->do(q{SELECT es_drop_projection('echo')});
	is(sql_value($dbh, q{SELECT count(*) FROM event_store.events WHERE stream_id = 'Echo-1'}),
		sql_value($dbh, q{SELECT es_stream_version('Echo-1')}), 'echo: ends when dropped');
	$dbh->do('SELECT es_drop_projection(?)', undef, $_) for sort keys %way;
	run_sql($dbh, 'DROP OWNED BY other', 'DROP ROLE other');
	return;
}

# The handler goes while a batch runs: the batch ends with it, the next stops.
sub dropped_handler
{
	run_sql($dbh, 'CREATE TABLE model (position bigint)',
		q{CREATE FUNCTION on_event(e es_event) RETURNS void LANGUAGE plpgsql AS $$
			BEGIN
				PERFORM pg_sleep(0.01);
				INSERT INTO model VALUES (e.global_position);
			END $$});
	append_batch($dbh, 'Acc-1', ANY, 'Added', [ map { undef } 1 .. 500 ]);
	create_projection('p', 'on_event(es_event)', policy => "'skip'", max_attempts => 1);
	ok(poll_until(sub { projection($dbh, 'p')->{position} > 0 }), 'handler dropped: it has begun');
	$dbh->do('DROP FUNCTION on_event(es_event)');
	ok(reaches_state('p', 'stopped'), 'handler dropped: it stops');
	is(projection($dbh, 'p')->{error_sqlstate}, '42883', 'handler dropped: its SQLSTATE');
	$dbh->do(q{CREATE FUNCTION on_event(e es_event) RETURNS void LANGUAGE sql AS
		'INSERT INTO model VALUES (e.global_position)'});
	$dbh->do(q{SELECT es_resume_projection('p')});
	caught_up($dbh, 'p');
	is(sql_value($dbh, q{SELECT count(*) FROM event_store.events e
			FULL JOIN (SELECT position, count(*) AS n FROM model GROUP BY 1) m ON position = global_position
			WHERE n IS DISTINCT FROM 1}), 0, 'handler made again: nothing lost, nothing twice');
	return;
}

# The owner may not connect: the view says so, until he may.  What had stopped
# another projection of his is shown all the time.
sub no_connect
{
	my $stopped = q{SELECT row(state, error_sqlstate, error_message, error_position, error_at)::text
		FROM event_store.projection WHERE name = 'bad'};
	run_sql($dbh, 'CREATE ROLE app LOGIN', q{SELECT es_grant('app', 'admin')},
		'CREATE TABLE model (position bigint)', 'GRANT INSERT ON model TO app',
		'GRANT CREATE ON SCHEMA public TO app', 'SET SESSION AUTHORIZATION app',
		q{CREATE FUNCTION on_event(e es_event) RETURNS void LANGUAGE sql AS
			'INSERT INTO model VALUES (e.global_position)'},
		q{CREATE FUNCTION on_bad(e es_event) RETURNS void LANGUAGE plpgsql AS $$
			BEGIN RAISE division_by_zero; END $$},
		q{SELECT es_create_projection('bad', 'on_bad(es_event)', max_attempts => 1)},
		'RESET SESSION AUTHORIZATION');
	append($dbh, 'Acc-1', ANY, 'Added');
	ok(reaches_state('bad', 'stopped'), 'no connection: one is stopped before');
	my $error = sql_value($dbh, $stopped);
	run_sql($dbh, 'REVOKE CONNECT ON DATABASE no_connect FROM PUBLIC',
		q{SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
		  WHERE backend_type = 'event_store projections' AND datname = current_database()},
		'SET SESSION AUTHORIZATION app', q{SELECT es_create_projection('p', 'on_event(es_event)')},
		'RESET SESSION AUTHORIZATION');
	append($dbh, 'Acc-1', ANY, 'Added');
	ok(poll_until(sub { (projection($dbh, 'p')->{error_sqlstate} || '') eq '08004' }),
		'no connection: the view says so');
	$dbh->do('GRANT CONNECT ON DATABASE no_connect TO app');
	caught_up($dbh, 'p');
	is(projection($dbh, 'p')->{error_sqlstate}, undef, '... until there is one');
	is(sql_value($dbh, $stopped), $error, '... and forgets no other error');
	run_sql($dbh, 'SELECT es_drop_projection(name) FROM event_store.projection', 'DROP OWNED BY app',
		'DROP ROLE app');
	return;
}
