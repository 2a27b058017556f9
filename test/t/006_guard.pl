# Events are facts: no role changes, removes or forges one, by no statement and
# not through replication.  Only a superuser who switches the guard off on
# purpose can; that is the control which shows that a change would be noticed.
#
# Also: who may call what, and callers whose search_path is full of traps.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use Test::More;

seed_random();
my $node = store_cluster('guard', streaming => 'logical');
my $major = pg_major($node);
my $admin = connect_store($node, plain => 1);
my @kinds = qw(reader writer admin);

run_sql($admin, map { "CREATE ROLE es_$_ LOGIN" } @kinds, 'nobody', 'owner');

append_only();
replication_is_refused();
role_matrix();
hostile_search_path();
planted_before();

$admin->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub fill
{
	my ($db) = @_;
	create_store($node, $db);
	my $dbh = connect_store($node, db => $db);
	append_batch($dbh, "Order-$_", 0, 'Placed', [ map { random_uuid() } 1 .. 5 ])
	  for 1 .. 4;
	$dbh->do(q{SELECT es_snapshot('Order-1', 5, '{"sum": 5}')});
	$dbh->do("SELECT es_grant('es_$_', '$_')") for @kinds;
	return $dbh;
}

# Statement name => SQL, for each table of facts.
sub attacks_on
{
	my ($table, $column) = @_;
	my $name = "event_store.$table";
	my %attack = (
		'update' => "UPDATE $name SET $column = $column",
		'update nothing' => "UPDATE $name SET $column = $column WHERE false",
		'update from' => "UPDATE $name t SET $column = o.$column FROM $name o WHERE t.$column = o.$column",
		'delete' => "DELETE FROM $name",
		'delete nothing' => "DELETE FROM $name WHERE false",
		'delete only' => "DELETE FROM ONLY $name",
		'delete in with' => "WITH d AS (DELETE FROM $name RETURNING 1) SELECT count(*) FROM d",
		'truncate' => "TRUNCATE $name",
		'truncate cascade' => "TRUNCATE ONLY $name RESTART IDENTITY CASCADE",
		'truncate all' => 'TRUNCATE event_store.event, event_store.stream',
		'insert' => "INSERT INTO $name SELECT * FROM $name LIMIT 1",
		'insert nothing' => "INSERT INTO $name SELECT * FROM $name WHERE false",
		'insert on conflict' => "INSERT INTO $name SELECT * FROM $name ON CONFLICT DO NOTHING",
		'insert in with' => "WITH i AS (INSERT INTO $name SELECT * FROM $name RETURNING 1) SELECT count(*) FROM i",
		'copy' => "COPY $name FROM STDIN");
	$attack{'insert or update'} =
	  "INSERT INTO $name SELECT * FROM $name ON CONFLICT ($column) DO UPDATE SET $column = excluded.$column"
	  if $table eq 'event';
	if ($major >= 15)
	{
		my $merge = "MERGE INTO $name t USING $name o ON t.$column = o.$column";
		$attack{'merge update'} = "$merge WHEN MATCHED THEN UPDATE SET $column = t.$column";
		$attack{'merge delete'} = "$merge WHEN MATCHED THEN DELETE";
		$attack{'merge nothing'} = "$merge AND false WHEN MATCHED THEN DELETE";
		$attack{'merge insert'} =
		  "MERGE INTO $name t USING (SELECT 1 WHERE false) o ON false WHEN NOT MATCHED THEN INSERT DEFAULT VALUES";
	}
	return %attack;
}

# SQLSTATE of an attack; what it managed to do is rolled back.
sub attack
{
	my ($dbh, $sql, @before) = @_;
	my $state;
	$dbh->do('BEGIN');
	foreach my $setting (@before)
	{
		$state = sqlstate($dbh, $setting);
		last if $state ne '00000';
	}
	if (defined $state && $state ne '00000')
	{
		# the preparation itself was refused
	}
	elsif ($sql =~ /^COPY/)
	{
		# an empty COPY is an attack too: statement triggers must refuse it
		$state = eval {
			$dbh->do($sql);
			$dbh->pg_putcopyend;
			'00000';
		} || $dbh->state;
	}
	else
	{
		$state = sqlstate($dbh, $sql);
	}
	$dbh->do('ROLLBACK');
	return $state;
}

sub append_only
{
	my $super = fill('guard');
	my $before = fingerprint($super);
	my %column = (
		event => 'global_position',
		stream => 'stream_no',
		event_type => 'type_no',
		mark => 'global_position');
	# the restore of a dump looks like this; it must not be a way in for others
	my @restore = ('SET LOCAL check_function_bodies = off', 'SET LOCAL row_security = off');
	my @replica = ('SET LOCAL session_replication_role = replica');

	foreach my $who (qw(superuser owner reader writer admin nobody))
	{
		my $dbh =
		  $who eq 'superuser'
		  ? $super
		  : connect_store($node, db => 'guard', user => "es_$who");
		if ($who eq 'owner')
		{
			$super->do("ALTER TABLE event_store.$_ OWNER TO es_owner") for keys %column;
			$super->do('GRANT ALL ON SCHEMA event_store TO es_owner');
		}
		my $tried = 0;
		my @let_in;
		foreach my $table (sort keys %column)
		{
			my %attack = attacks_on($table, $column{$table});
			foreach my $name (sort keys %attack)
			{
				my %state = (plain => attack($dbh, $attack{$name}),
					replica => attack($dbh, $attack{$name}, @replica));
				# a superuser's restore may insert, and do nothing else
				$state{restore} = attack($dbh, $attack{$name}, @restore)
				  unless $who eq 'superuser' && $name =~ /insert|copy/;
				foreach my $how (sort keys %state)
				{
					$tried++;
					push @let_in, "$table, $name, $how: $state{$how}"
					  unless $state{$how} =~ /^(?:VE003|42501)$/;
				}
			}
		}
		is(join("\n", @let_in), '', "$who: $tried attacks are refused with VE003 or 42501");
		is(sql_value($super, 'SELECT count(*) FROM event_store.events'),
			20, "$who: all events are there");
		if ($who eq 'owner')
		{
			$super->do("ALTER TABLE event_store.$_ OWNER TO CURRENT_USER")
			  for keys %column;
		}
		$dbh->disconnect unless $who eq 'superuser';
	}
	is(fingerprint($super), $before, 'nothing has changed');

	# The others cannot reach the sequences, the snapshots or the guard either.
	foreach my $who (qw(reader writer nobody))
	{
		my $dbh = connect_store($node, db => 'guard', user => "es_$who");
		foreach my $sql (
			q{SELECT setval('event_store.event_global_position_seq', 1)},
			q{SELECT nextval('event_store.event_global_position_seq')},
			'DELETE FROM event_store.snapshot',
			'INSERT INTO event_store.snapshot SELECT * FROM event_store.snapshot',
			'ALTER TABLE event_store.event DISABLE TRIGGER ALL',
			'CREATE INDEX ON event_store.event (version)',
			'CREATE TABLE event_store.mine ()',
			'LOCK TABLE event_store.event IN ACCESS EXCLUSIVE MODE',
			'DROP TABLE event_store.event')
		{
			is(attack($dbh, $sql), '42501', "$who: $sql: 42501");
		}
		$dbh->disconnect;
	}

	# The views do not lead around the guard.
	foreach my $sql ('UPDATE event_store.events SET version = 0',
		'DELETE FROM event_store.events', 'INSERT INTO event_store.events SELECT * FROM event_store.events')
	{
		like(attack($super, $sql), qr/^(?:VE003|42501|55000)$/, "view: $sql is refused");
	}

	# Control: a superuser who means it.
	$super->do('BEGIN');
	$super->do('ALTER TABLE event_store.event DISABLE TRIGGER USER');
	is(sqlstate($super, q{UPDATE event_store.event SET data = '"forged"' WHERE version = 1}),
		'00000', 'control: with the guard switched off an event can be forged');
	isnt(fingerprint($super), $before, 'control: and the change is noticed');
	$super->do('ROLLBACK');
	is(fingerprint($super), $before, 'control: rolled back');
	my $next = append($super, 'Order-1', 5, 'Placed', undef);
	is($next->{version}, 6, 'appending still works');
	$super->disconnect;
	return;
}

# ---------------------------------------------------------------------------

sub log_count
{
	my ($pattern) = @_;
	my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
	return scalar(() = $log =~ /$pattern/g);
}

# The initial copy and the apply of a subscription are writers that skip ordinary
# triggers.  Changes and removals must be refused.  So must new events; or else
# the subscriber, which gets them in the order of commits, must refuse to read
# them in the global order (VE005), because its readers would skip events.
sub replication_is_refused
{
	my $source = fill('source');
	create_store($node, 'empty');
	my %target = (empty => connect_store($node, db => 'empty'), full => fill('filled'));
	my $dsn = $node->connstr('source');
	$dsn =~ s/'/''/g;

	$source->do('CREATE PUBLICATION facts FOR TABLE event_store.event');
	foreach my $what ('copy', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
	{
		my $target = $target{ $what eq 'copy' ? 'empty' : 'full' };
		my $slot = lc "slot_$what";
		my $copy = $what eq 'copy' ? 'true' : 'false';
		my $before = raw_events($target);
		my $refusals = log_count('ERROR:  (?:VE003|42501)');
		my $refused = sub { log_count('ERROR:  (?:VE003|42501)') > $refusals };
		my $arrived = sub { raw_events($target) ne $before };

		$source->do("SELECT pg_create_logical_replication_slot('$slot', 'pgoutput')");
		$target->do("CREATE SUBSCRIPTION facts CONNECTION '$dsn' PUBLICATION facts "
			  . "WITH (create_slot = false, slot_name = $slot, copy_data = $copy)");
		$what eq 'INSERT'
		  ? append($source, 'Replicated-1', ANY, 'T', undef)
		  : unguarded($source, $what);
		poll_until(sub { $refused->() || $arrived->() }, 30);
		if ($what =~ /copy|INSERT/ && $arrived->())
		{
			foreach my $read ('es_read_all()', q{es_read_category('Order')}, 'es_head()')
			{
				is(sqlstate($target, "SELECT count(*) FROM $read"),
					'VE005', "subscription, $what: $read is refused");
			}
		}
		else
		{
			ok(!$arrived->() && $refused->(), "subscription: $what is refused");
		}

		$target->do('ALTER SUBSCRIPTION facts DISABLE');
		$target->do('ALTER SUBSCRIPTION facts SET (slot_name = NONE)');
		$target->do('DROP SUBSCRIPTION facts');
		ok( poll_until(
				sub {
					sql_value($source,
						'SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE active') == 0;
				},
				30),
			'its worker is gone');
		$source->do("SELECT pg_drop_replication_slot('$slot')");
	}
	$_->disconnect for $source, values %target;
	return;
}

sub raw_events
{
	my ($dbh) = @_;
	return sql_value($dbh,
		q{SELECT count(*) || ' ' || md5(coalesce(string_agg(t::text, ','), ''))
		  FROM (SELECT * FROM event_store.event ORDER BY global_position) t});
}

# A superuser changes the source on purpose, so that there is something to apply.
sub unguarded
{
	my ($dbh, $what) = @_;
	my %sql = (
		copy => 'SELECT 1',
		UPDATE => q{UPDATE event_store.event SET data = '"forged"' WHERE version = 1},
		DELETE => 'DELETE FROM event_store.event WHERE version = 5',
		TRUNCATE => 'TRUNCATE event_store.event');
	run_sql($dbh,
		'BEGIN',
		'ALTER TABLE event_store.event DISABLE TRIGGER USER',
		$sql{$what},
		(map { "ALTER TABLE event_store.event ENABLE ALWAYS TRIGGER $_" }
			qw(es_guard_statement es_guard_row)),
		'COMMIT');
	return;
}

# ---------------------------------------------------------------------------

# Every function, called so that it works for whoever may call it.
sub calls
{
	return (
		read => {
			es_read_stream => q{SELECT * FROM public.es_read_stream('Order-1')},
			es_stream_version => q{SELECT public.es_stream_version('Order-1')},
			es_head => q{SELECT public.es_head()},
			es_read_event => q{SELECT public.es_read_event('00000000-0000-0000-0000-000000000001')},
			es_envelope => q{SELECT public.es_envelope(e) FROM public.es_read_stream('Order-1') e},
			es_load => q{SELECT * FROM public.es_load('Order-1')},
			es_read_snapshot => q{SELECT * FROM public.es_read_snapshot('Order-1')}
		},
		log => {
			es_read_all => q{SELECT * FROM public.es_read_all()},
			es_read_category => q{SELECT * FROM public.es_read_category('Order')},
			events => q{SELECT * FROM event_store.events}
		},
		write => {
			es_append => q{SELECT public.es_append('Order-1', public.es_any(), 'T', '{}')},
			es_append_json => q{SELECT public.es_append('Order-1', public.es_any(), '[{"event_type": "T", "data": 1}]'::jsonb)},
			es_append_batch => q{SELECT public.es_append_batch('Order-1', public.es_any(), '{T}', '{"1"}')},
			es_snapshot => q{SELECT public.es_snapshot('Order-1', 1, '{}')}
		},
		grant => {
			es_grant => q{SELECT public.es_grant('es_nobody', 'reader')},
			es_revoke => q{SELECT public.es_revoke('es_nobody', 'reader')}
		});
}

sub role_matrix
{
	my $super = fill('roles');
	my %call = calls();
	my %allowed = (
		nobody => {},
		reader => { read => 1, log => 1 },
		writer => { read => 1, write => 1 },
		admin => { read => 1, log => 1, write => 1 });

	foreach my $who (sort keys %allowed)
	{
		check_role($who, \%call, $allowed{$who}, "es_$who");
	}
	# what is granted can be taken back
	$super->do("SELECT es_revoke('es_$_', '$_')") for @kinds;
	check_role("$_ after es_revoke", \%call, {}, "es_$_") for @kinds;

	is(sqlstate($super, q{SELECT es_grant('es_reader', 'king')}),
		'22023', 'es_grant: an unknown kind is 22023');
	is(sqlstate($super, q{SELECT es_grant('no_such_role', 'reader')}),
		'42704', 'es_grant: an unknown role is 42704');
	is(sqlstate($super, q{SELECT es_grant(NULL, 'reader')}),
		'22004', 'es_grant: NULL is 22004');

	is( sql_value(
			$super, q{
			SELECT coalesce(string_agg(p.oid::regprocedure::text, ', '), '')
			FROM pg_catalog.pg_proc p
			JOIN pg_catalog.pg_depend d ON d.objid = p.oid
				AND d.classid = 'pg_catalog.pg_proc'::regclass AND d.deptype = 'e'
			JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid AND x.extname = 'event_store'
			WHERE has_function_privilege('es_nobody', p.oid, 'EXECUTE')}),
		'', 'PUBLIC may call no function');
	is( sql_value(
			$super, q{
			SELECT coalesce(string_agg(c.relname, ', '), '') FROM pg_catalog.pg_class c
			WHERE c.relnamespace = 'event_store'::regnamespace
			  AND c.relkind IN ('r', 'v', 'm', 'p')
			  AND has_table_privilege('es_nobody', c.oid,
				'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')}),
		'', 'PUBLIC has no right on any table');
	ok(!sql_value($super, q{SELECT has_schema_privilege('es_nobody', 'event_store', 'CREATE')}),
		'PUBLIC may create nothing in the schema');
	$super->disconnect;
	return;
}

sub check_role
{
	my ($title, $call, $allowed, $user) = @_;
	my $dbh = connect_store($node, db => 'roles', user => $user);
	foreach my $group (sort keys %$call)
	{
		foreach my $name (sort keys %{ $call->{$group} })
		{
			my $state = attack($dbh, $call->{$group}{$name});
			is($state, $allowed->{$group} ? '00000' : '42501',
				"$title: $name is " . ($allowed->{$group} ? 'allowed' : 'refused'));
		}
	}
	$dbh->disconnect;
	return;
}

# ---------------------------------------------------------------------------

# Names that shadow the catalog's and the store's, first in the search path:
# nothing of them may ever be used.
sub hostile_search_path
{
	my $dbh = fill('path');
	my %call = calls();
	run_sql(
		$dbh,
		'CREATE SCHEMA evil',
		'CREATE TABLE evil.trapped (what text)',
		q{CREATE FUNCTION evil.trap(what text) RETURNS void LANGUAGE plpgsql AS $$
		  BEGIN
			RAISE EXCEPTION 'trapped by %', what USING ERRCODE = 'ZZ001';
		  END $$});
	foreach my $type (qw(bigint text uuid integer jsonb))
	{
		run_sql(
			$dbh,
			qq{CREATE FUNCTION evil.same(a $type, b $type) RETURNS boolean
			   LANGUAGE plpgsql AS \$\$
			   BEGIN PERFORM evil.trap('operator'); RETURN true; END \$\$},
			map {
				qq{CREATE OPERATOR evil.$_ (LEFTARG = $type, RIGHTARG = $type, PROCEDURE = evil.same)}
			} '=', '<', '<=', '>', '>=', '<>');
	}
	foreach my $function (
		'now() RETURNS timestamptz', 'clock_timestamp() RETURNS timestamptz',
		'nextval(regclass) RETURNS bigint', 'jsonb_typeof(jsonb) RETURNS text',
		'jsonb_build_object(text, anyelement) RETURNS jsonb', 'to_jsonb(anyelement) RETURNS jsonb',
		'es_head() RETURNS bigint', 'es_any() RETURNS bigint',
		'es_stream_version(text) RETURNS bigint', 'format(text, anyelement) RETURNS text',
		'lower(text) RETURNS text', 'gen_random_uuid() RETURNS uuid',
		'unnest(anyarray) RETURNS anyelement', 'to_char(timestamptz, text) RETURNS text',
		'to_jsonb(timestamptz) RETURNS jsonb', 'quote_ident(text) RETURNS text',
		'array_agg(anyelement) RETURNS anyarray', 'jsonb_exists(jsonb, text) RETURNS boolean')
	{
		$dbh->do("CREATE FUNCTION evil.$function LANGUAGE plpgsql AS "
			  . "\$\$ BEGIN PERFORM evil.trap('function'); RETURN NULL; END \$\$");
	}
	run_sql($dbh,
		(map { "CREATE TABLE evil.$_ (trap int)" }
			qw(event stream event_type mark snapshot events pg_class pg_proc)),
		'CREATE DOMAIN evil.es_event AS int',
		'CREATE DOMAIN evil.jsonb AS text',
		'CREATE TEMP TABLE event (trap int)',
		'CREATE TEMP TABLE stream (trap int)');

	foreach my $path (q{''}, 'evil, pg_temp, pg_catalog, public', 'pg_temp, evil, pg_catalog')
	{
		my $user_dbh = connect_store($node, db => 'path');
		$user_dbh->do("SET search_path = $path");
		foreach my $group (sort keys %call)
		{
			foreach my $name (sort keys %{ $call{$group} })
			{
				my $sql = $call{$group}{$name};
				# the caller's own literals have to find their type
				$sql =~ s/::jsonb/::pg_catalog.jsonb/g;
				is(attack($user_dbh, $sql), '00000', "search_path $path: $name");
			}
		}
		foreach my $attack ('UPDATE event_store.event SET version = version',
			'DELETE FROM event_store.event', 'TRUNCATE event_store.event')
		{
			is(attack($user_dbh, $attack), 'VE003', "search_path $path: $attack is refused");
		}
		$user_dbh->disconnect;
	}
	is(sqlstate($dbh, q{SET search_path = evil, pg_catalog; SELECT 1 = 1}),
		'ZZ001', 'control: the traps are set');
	$dbh->disconnect;
	return;
}

# ---------------------------------------------------------------------------

# A function in the target schema that matches an argument's type better than
# the catalog's, there before the extension is: nothing of that uses it.
sub planted_before
{
	$admin->do('CREATE DATABASE planted');
	my $dbh = connect_store($node, db => 'planted', plain => 1);
	run_sql(
		$dbh,
		q{CREATE FUNCTION public.row_security_active(regclass) RETURNS boolean
		  LANGUAGE sql AS 'SELECT false'},
		'CREATE EXTENSION event_store');
	my $users = q{
		SELECT coalesce(string_agg(pg_describe_object(d.classid, d.objid, 0), ', '), '')
		FROM pg_catalog.pg_depend d
		WHERE d.refobjid = 'public.row_security_active(regclass)'::regprocedure};
	is(sql_value($dbh, $users), '', 'planted before: nothing of the extension uses it');
	$dbh->do(q{CREATE VIEW control AS SELECT row_security_active('pg_class'::regclass)});
	like(sql_value($dbh, $users), qr/view control/, 'control: a use would be seen');
	$dbh->disconnect;
	return;
}
