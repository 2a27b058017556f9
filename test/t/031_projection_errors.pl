# Events that a handler cannot digest: back-off, the policies stop, park and
# skip, resume after repair, the time limit, and what the others feel.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Projection
  qw(create_model differences caught_up worker_pid wait_for_worker projection);
use Test::More;
use Time::HiRes qw(time);

my $poisoned = setting('ES_POISON', 12);
my $per_stream = 20;
my $streams = 25;

seed_random();
my $node = store_cluster('errors', preload => 'event_store',
	conf => "event_store.projection_retry_delay = 10ms\n"
	  . "event_store.projection_timeout = 1s\n");
create_store($node);
my $dbh = connect_store($node);

# Streams of $per_stream events each, interleaved, some of them poison.
my %poison;
while (keys %poison < $poisoned)
{
	$poison{ random_int(1, $streams) . ' ' . random_int(1, $per_stream) } = 1;
}
foreach my $version (1 .. $per_stream)
{
	foreach my $stream (1 .. $streams)
	{
		append($dbh, "Acc-$stream", $version - 1, 'Added', undef,
			$poison{"$stream $version"} ? '{"n": 1, "poison": true}' : '{"n": 1}');
	}
}
my %first_poison;
foreach my $key (keys %poison)
{
	my ($stream, $version) = split / /, $key;
	$first_poison{$stream} = $version
	  if !$first_poison{$stream} || $first_poison{$stream} > $version;
}

$dbh->do('CREATE TABLE cured (yes boolean)');
foreach my $kind (qw(each set))
{
	stop_and_resume($kind);
	park_poison($kind);
	skip_poison($kind);
}
time_limit();
others_go_on();
deferred_check();
not_an_event();
own_codes();
no_longer_wanted();
clock_set_back();
loop_of_upcasters();
$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# A model whose handler fails at poison, unless it was cured.
sub poison_model
{
	my ($table, $kind) = @_;
	my $handler = create_model($dbh, $table, set => $kind eq 'set');
	if ($kind eq 'set')
	{
		$dbh->do("CREATE FUNCTION check_$table(events es_event[]) RETURNS void LANGUAGE plpgsql AS \$\$
			BEGIN
				IF NOT EXISTS (SELECT FROM cured)
				   AND EXISTS (SELECT FROM unnest(events) e WHERE jsonb_exists(e.data, 'poison')) THEN
					RAISE 'poison' USING ERRCODE = 'P0666';
				END IF;
				PERFORM on_$table(events);
			END \$\$");
	}
	else
	{
		$dbh->do("CREATE FUNCTION check_$table(e es_event) RETURNS void LANGUAGE plpgsql AS \$\$
			BEGIN
				PERFORM on_$table(e);
				IF jsonb_exists(e.data, 'poison') AND NOT EXISTS (SELECT FROM cured) THEN
					RAISE 'poison' USING ERRCODE = 'P0666';
				END IF;
			END \$\$");
	}
	$handler =~ s/^on_/check_/;
	return $handler;
}

sub create_projection
{
	my ($name, $handler, %opt) = @_;
	my $options = join '', map { ", $_ => $opt{$_}" } sort keys %opt;
	$dbh->do("SELECT es_create_projection(?, ?::regprocedure$options)", undef, $name, $handler);
	return;
}

sub wait_for_state
{
	my ($name, $state) = @_;
	return poll_until(sub { projection($dbh, $name)->{state} eq $state });
}

# Stops at each poison event in turn, with nothing after it applied; an
# operator lets each pass.
sub stop_and_resume
{
	my ($kind) = @_;
	my $name = "stop_$kind";
	create_projection($name, poison_model($name, $kind), max_attempts => 3, batch_size => 64);
	my $expected = $dbh->selectcol_arrayref(
		q{SELECT global_position FROM event_store.events WHERE jsonb_exists(data, 'poison') ORDER BY 1});

	ok(wait_for_state($name, 'stopped'), "$name: stops");
	my $state = projection($dbh, $name);
	is($state->{error_position}, $expected->[0], "$name: at the first poison event");
	is($state->{position}, $expected->[0] - 1, "$name: right after the event before");
	is($state->{error_sqlstate}, 'P0666', "$name: its SQLSTATE");
	is($state->{error_message}, 'poison', "$name: its message");
	is($state->{attempts}, 3, "$name: after three attempts");
	ok($state->{error_at}, "$name: and when");
	like(PostgreSQL::Test::Utils::slurp_file($node->logfile),
		qr/WARNING:.*projection "$name" has stopped after 3 attempts.*\n.*DETAIL:  sqlstate=P0666 position=$expected->[0]: poison.*\n.*HINT:.*es_resume_projection/,
		"$name: the log says so, and what to do");
	is( differences($dbh, $name, "global_position < $expected->[0]"),
		'', "$name: everything before it is applied, nothing of it or after it");

	# resume without repair: it stops again in the same place
	$dbh->do('SELECT es_resume_projection(?)', undef, $name);
	ok( poll_until(
			sub {
				my $now = projection($dbh, $name);
				return $now->{state} eq 'stopped' && $now->{error_at} gt $state->{error_at};
			}),
		"$name: stops again");
	is(projection($dbh, $name)->{error_position}, $expected->[0], "$name: in the same place");

	$dbh->do('INSERT INTO cured VALUES (true)');
	$dbh->do('SELECT es_resume_projection(?)', undef, $name);
	caught_up($dbh, $name);
	is(differences($dbh, $name), '', "$name: repaired, nothing lost, nothing twice");
	$dbh->do('TRUNCATE cured');
	$dbh->do('SELECT es_drop_projection(?)', undef, $name);
	return;
}

# The poisoned streams stand still, in order; all others are complete.
sub park_poison
{
	my ($kind) = @_;
	my $name = "park_$kind";
	create_projection($name, poison_model($name, $kind),
		max_attempts => 2, batch_size => 64, policy => "'park'");
	caught_up($dbh, $name);
	my $where = join ' AND ',
	  map { "NOT (stream_id = 'Acc-$_' AND version >= $first_poison{$_})" } keys %first_poison;
	is(differences($dbh, $name, $where), '', "$name: streams stop before their poison event");
	my %count = map { @$_ } @{ $dbh->selectall_arrayref(
		'SELECT disposition, count(*) FROM event_store.projection_parked
		 WHERE projection = ? GROUP BY 1', undef, $name) };
	is($count{parked}, scalar(keys %first_poison), "$name: one event parked per stream");
	my $told = () = PostgreSQL::Test::Utils::slurp_file($node->logfile) =~
	  /WARNING:.*projection "$name" has parked an event/g;
	is($told, $count{parked}, "$name: each is told in the log");
	my $behind = 0;
	$behind += sql_value($dbh, 'SELECT es_stream_version(?)', "Acc-$_") - $first_poison{$_}
	  for keys %first_poison;
	is($count{behind} || 0, $behind, "$name: what comes after waits behind it");

	# a new event of a parked stream queues up, too
	my ($stream) = sort keys %first_poison;
	append($dbh, "Acc-$stream", ANY, 'Added', undef, '{"n": 1}');
	caught_up($dbh, $name);
	is(projection($dbh, $name)->{events_parked}, $behind + 1 + keys %first_poison,
		"$name: a later event queues up");

	is(sqlstate($dbh, 'SELECT es_retry_projection_parked(?)', $name),
		'VE006', "$name: a retry without repair fails");
	$dbh->do('INSERT INTO cured VALUES (true)');
	my $waiting = sql_value($dbh, 'SELECT es_stream_version(?)', "Acc-$stream")
	  - $first_poison{$stream} + 1;
	is( sql_value($dbh, 'SELECT es_retry_projection_parked(?, ?)', $name, "Acc-$stream"),
		$waiting, "$name: one stream is retried");
	cmp_ok(sql_value($dbh, 'SELECT es_retry_projection_parked(?)', $name),
		'>', 0, "$name: then the others");
	is(differences($dbh, $name), '', "$name: repaired, nothing lost, in order");
	append($dbh, "Acc-$stream", ANY, 'Added', undef, '{"n": 1}');
	caught_up($dbh, $name);
	is(differences($dbh, $name), '', "$name: the stream goes on");
	$dbh->do('TRUNCATE cured');
	$dbh->do('SELECT es_drop_projection(?)', undef, $name);
	is(sql_value($dbh, 'SELECT count(*) FROM event_store.projection_parked'),
		0, "$name: nothing is left of it");
	return;
}

sub skip_poison
{
	my ($kind) = @_;
	my $name = "skip_$kind";
	my $handler = poison_model($name, $kind);

	# what follows a skipped event is not in sequence
	$dbh->do("CREATE OR REPLACE FUNCTION on_$name(e es_event) RETURNS void LANGUAGE sql AS \$\$
		INSERT INTO $name VALUES ((e).stream_id, 1, ((e).data->>'n')::bigint, (e).version)
		ON CONFLICT (id) DO UPDATE SET n = $name.n + 1,
			total = $name.total + EXCLUDED.total, last = EXCLUDED.last \$\$")
	  if $kind eq 'each';
	create_projection($name, $handler, max_attempts => 2, batch_size => 64, policy => "'skip'");
	caught_up($dbh, $name);
	is(differences($dbh, $name, "NOT jsonb_exists(data, 'poison')"), '', "$name: all but the poison events");
	is_deeply(
		$dbh->selectcol_arrayref(
			q{SELECT global_position FROM event_store.projection_parked
			  WHERE projection = ? AND disposition = 'skipped' AND sqlstate = 'P0666' ORDER BY 1},
			undef, $name),
		$dbh->selectcol_arrayref(
			q{SELECT global_position FROM event_store.events WHERE jsonb_exists(data, 'poison') ORDER BY 1}),
		"$name: each is recorded");
	is(projection($dbh, $name)->{events_skipped}, $poisoned, "$name: and counted");
	$dbh->do('SELECT es_drop_projection(?)', undef, $name);
	return;
}

# A handler that hangs is ended, although no statement_timeout is set, and
# nothing else ends its worker.
sub time_limit
{
	if (pg_major($node) >= 17)
	{
		$dbh->do('SET transaction_timeout = 0');
		$dbh->do(q{ALTER SYSTEM SET transaction_timeout = '200ms'});
		$node->reload;
	}
	$dbh->do('CREATE FUNCTION hang(e es_event) RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN PERFORM pg_sleep(600); END $$');
	my $begin = time();
	create_projection('hang', 'hang(es_event)', max_attempts => 1, batch_size => 1);
	ok(wait_for_state('hang', 'stopped'), 'time limit: the handler is ended');
	cmp_ok(time() - $begin, '<', 10, 'time limit: soon');
	is(projection($dbh, 'hang')->{error_sqlstate}, '57014', 'time limit: its SQLSTATE');
	$dbh->do('ALTER SYSTEM RESET ALL');
	$node->reload;
	$dbh->do(q{SELECT es_drop_projection('hang')});
	return;
}

# One projection fails all the time, another of the same owner does not wait
# for it.
sub others_go_on
{
	$dbh->do('CREATE FUNCTION always_fails(e es_event) RETURNS void LANGUAGE plpgsql AS
		$$ BEGIN RAISE division_by_zero; END $$');
	create_projection('fails', 'always_fails(es_event)', max_attempts => 1000);
	create_projection('works', create_model($dbh, 'works', set => 1));
	ok(poll_until(sub { projection($dbh, 'fails')->{attempts} > 2 }), 'one keeps failing');
	is(projection($dbh, 'fails')->{state}, 'retrying', 'and its state says so');
	my $slowest = 0;
	foreach my $n (1 .. 50)
	{
		my $event = append($dbh, 'Acc-1', ANY, 'Added');
		my $begin = time();
		ok(0, 'the other is late')
		  unless sql_value($dbh, q{SELECT es_wait_projection('works', ?, '20 s')::int},
			$event->{position});
		$slowest = time() - $begin if time() - $begin > $slowest;
	}
	cmp_ok($slowest, '<', 2, 'the other does not wait for it');
	ok(projection($dbh, 'fails')->{next_attempt_at}, 'the next attempt is planned');
	is(differences($dbh, 'works'), '', 'the other is right');
	$dbh->do('SELECT es_drop_projection(?)', undef, $_) for qw(fails works);
	return;
}

# A check that fails at commit belongs to the handler, too.
sub deferred_check
{
	$dbh->do('CREATE TABLE deferred_model (n bigint, UNIQUE (n) DEFERRABLE INITIALLY DEFERRED)');
	$dbh->do(q{CREATE FUNCTION on_deferred(e es_event) RETURNS void LANGUAGE sql AS
		$$ INSERT INTO deferred_model VALUES (CASE WHEN jsonb_exists((e).data, 'twice') THEN 1 ELSE (e).global_position END) $$});
	append($dbh, 'Deferred-1', ANY, 'Added', undef, '{"n": 1}') for 1 .. 5;
	my $bad = append($dbh, 'Deferred-1', ANY, 'Added', undef, '{"twice": 1}');
	$bad = append($dbh, 'Deferred-1', ANY, 'Added', undef, '{"twice": 1}');
	append($dbh, 'Deferred-1', ANY, 'Added', undef, '{"n": 1}') for 1 .. 5;
	create_projection('deferred', 'on_deferred(es_event)',
		categories => "'{Deferred}'", max_attempts => 2, policy => "'skip'");
	caught_up($dbh, 'deferred');
	is(sql_value($dbh, 'SELECT count(*) FROM deferred_model'), 11, 'deferred check: all but one');
	is( sql_value($dbh, q{SELECT global_position FROM event_store.projection_parked
			WHERE projection = 'deferred'}),
		$bad->{position}, 'deferred check: the event is found');
	$dbh->do(q{SELECT es_drop_projection('deferred')});
	return;
}

# A handler that is gone must not make every event be skipped.
sub not_an_event
{
	create_projection('gone', create_model($dbh, 'gone'), max_attempts => 2, policy => "'skip'",
		categories => "'{Acc}'", paused => 'true');
	$dbh->do('ALTER FUNCTION on_gone(es_event) RENAME TO on_gone_away');
	$dbh->do(q{SELECT es_resume_projection('gone')});
	ok(wait_for_state('gone', 'stopped'), 'no handler: stops whatever the policy');
	my $state = projection($dbh, 'gone');
	is($state->{error_sqlstate}, '42883', 'no handler: SQLSTATE');
	is($state->{error_position}, undef, 'no handler: no event is blamed');
	is($state->{position}, 0, 'no handler: nothing is passed');
	$dbh->do('ALTER FUNCTION on_gone_away(es_event) RENAME TO on_gone');
	$dbh->do(q{SELECT es_resume_projection('gone')});
	caught_up($dbh, 'gone');
	is(differences($dbh, 'gone', "stream_id LIKE 'Acc-%'"), '', 'no handler: goes on when it is back');
	return;
}

# A handler raises what a note about a missing worker has for a code, too: the
# owner's next worker does not take it for one, nor does the view.
sub own_codes
{
	foreach my $code (qw(08004 53400))
	{
		my $name = "code_$code";
		$dbh->do("CREATE FUNCTION on_$name(e es_event) RETURNS void LANGUAGE plpgsql AS
			\$\$ BEGIN RAISE 'remote refused' USING ERRCODE = '$code'; END \$\$");
		create_projection($name, "on_$name(es_event)", categories => "'{Own}'", max_attempts => 1);
	}
	create_projection('beside', create_model($dbh, 'beside'), categories => "'{Own}'");
	append($dbh, 'Own-1', ANY, 'Added');
	ok(wait_for_state('code_08004', 'stopped'), 'own code: stopped');
	ok(poll_until(sub { projection($dbh, 'code_53400')->{attempts} > 0 }), 'own code: a lack of resources is retried');
	my $pid = worker_pid($dbh);
	$dbh->do('SELECT pg_terminate_backend(?)', undef, $pid);
	append($dbh, 'Own-1', ANY, 'Added');
	ok(poll_until(sub { (worker_pid($dbh) || $pid) != $pid }), 'own code: another worker');
	caught_up($dbh, 'beside');
	my $state = projection($dbh, 'code_08004');
	is(join(' ', map { $_ // '-' } @$state{qw(state error_sqlstate error_message last_error_sqlstate)}),
		'stopped 08004 remote refused 08004', 'own code: what has stopped it stays');

	foreach my $name (qw(code_08004 code_53400))
	{
		$dbh->do("CREATE OR REPLACE FUNCTION on_$name(e es_event) RETURNS void LANGUAGE sql AS ''");
		$dbh->do('SELECT es_resume_projection(?)', undef, $name);
		caught_up($dbh, $name);
		$state = projection($dbh, $name);
		is($state->{error_sqlstate}, undef, "$name: what is overcome is not in the way");
		is("code_$state->{last_error_sqlstate}", $name, "$name: but can be looked up");
	}
	$dbh->do('SELECT es_drop_projection(?)', undef, $_) for qw(code_08004 code_53400 beside);
	return;
}

# An upcaster makes the failing event one that the filter does not want.
sub no_longer_wanted
{
	$dbh->do(q{CREATE FUNCTION renamed(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT data'});
	$dbh->do(q{CREATE FUNCTION on_wanted(e es_event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$});
	create_projection('wanted', 'on_wanted(es_event)', event_types => "'{Wanted}'", max_attempts => 1000);
	append($dbh, 'Wanted-1', ANY, 'Wanted');
	ok(poll_until(sub { projection($dbh, 'wanted')->{attempts} > 1 }), 'no longer wanted: it fails');
	$dbh->do(q{SELECT es_define_upcaster('Wanted', 1, 'renamed', 'Unwanted', 1)});
	ok(wait_for_state('wanted', 'running'), 'no longer wanted: it goes on');
	my $state = projection($dbh, 'wanted');
	is($state->{attempts}, 0, 'no longer wanted: without attempts');
	is($state->{error_sqlstate}, undef, 'no longer wanted: nothing is in the way');
	$dbh->do(q{SELECT es_drop_projection('wanted'), es_drop_upcaster('Wanted', 1)});
	return;
}

# The next attempt was planned by a clock that was ahead.
sub clock_set_back
{
	create_projection('clock', create_model($dbh, 'clock'), categories => "'{Clock}'", paused => 'true');
	append($dbh, 'Clock-1', ANY, 'Added');
	$dbh->do(q{UPDATE event_store.projection SET state = 'running', attempts = 1,
		next_attempt_at = now() + '1 hour' WHERE name = 'clock'});
	caught_up($dbh, 'clock');
	is(projection($dbh, 'clock')->{attempts}, 0, 'clock set back: it does not wait for the clock');
	$dbh->do(q{SELECT es_drop_projection('clock')});
	return;
}

# A loop that got in by hand: its events fail, the workers and all others go on.
sub loop_of_upcasters
{
	my $worker = q{SELECT pid FROM pg_catalog.pg_stat_activity
		WHERE backend_type = 'event_store worker' AND datname = current_database()};
	$dbh->do(q{SELECT es_define_upcaster('Round', 1, 'renamed', 'About', 1),
		es_define_upcaster('About', 1, 'renamed', 'Round', 2)});
	append($dbh, 'Loop-1', ANY, 'Added');
	append($dbh, 'Loop-2', ANY, 'Round');
	append($dbh, 'Loop-1', ANY, 'Added');
	$dbh->do(q{UPDATE event_store.upcaster SET to_schema_version = 1 WHERE event_type = 'About'});
	my $pid = poll_until(sub { sql_value($dbh, $worker) });
	create_projection('loop', create_model($dbh, 'loop'), categories => "'{Loop}'",
		event_types => "'{Added,Round}'", max_attempts => 2);
	ok(wait_for_state('loop', 'stopped'), 'loop: it stops');
	my $state = projection($dbh, 'loop');
	is("$state->{error_sqlstate} $state->{error_message}", 'VE006 the upcasters of event type "Round" form a loop',
		'loop: the view says why');
	is($state->{error_position}, $state->{position} + 1, 'loop: and where');
	is(sql_value($dbh, 'SELECT count(*) FROM loop'), 1, 'loop: what comes before is applied');
	create_projection('beside', create_model($dbh, 'beside_loop'), event_types => "'{Added}'",
		categories => "'{Loop}'");
	caught_up($dbh, 'beside');
	is(sql_value($dbh, $worker), $pid, 'loop: the worker of the database is the same');
	$dbh->do(q{DELETE FROM event_store.upcaster WHERE event_type = 'About'});
	$dbh->do(q{SELECT es_resume_projection('loop')});
	caught_up($dbh, 'loop');
	$dbh->do('SELECT es_drop_projection(?)', undef, $_) for qw(loop beside);
	return;
}
