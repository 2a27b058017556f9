# event_store_top against a real server: in batch mode, and on a terminal, which
# is tmux: keys are sent, and the screen is read until it shows what it should.
#
# ES_TOP is the program; the default is the build folder beside this one.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::Bin/../../../test/perl";
use EventStoreTest;
use Encode qw(decode encode);
use File::Temp ();
use IPC::Run ();
use Test::More;

my $top = $ENV{ES_TOP} || "$FindBin::Bin/../build/event_store_top";
my $limit = $ENV{ES_TEST_LIMIT} || 180;
my $folder = File::Temp::tempdir('es_top_XXXXXX', TMPDIR => 1, CLEANUP => 1);
# functions are in a schema that is on nobody's search path
my $node = store_cluster('top', preload => 'event_store',
	conf => "event_store.projection_retry_delay = 10ms\nmax_worker_processes = 16\n");
my @connection = ('-h', $node->host, '-p', $node->port, '-d', 'shop');
my $dbh;

$ENV{LC_ALL} = 'C.UTF-8';
$ENV{TERM} = 'xterm-256color';
$ENV{TMUX_TMPDIR} = $folder;
delete @ENV{qw(TMUX LINES COLUMNS PGAPPNAME)};

ok(-x $top, "$top is there") or BAIL_OUT('build contrib/top first');
create_shop();
options();
who_may_see_what();
the_head();
terminal();
END { my $status = $?; tmux('kill-server') if defined $folder && -d $folder; $? = $status }
$SIG{$_} = sub { exit 1 } for qw(INT TERM HUP);
$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub create_shop
{
	$node->safe_psql('postgres', 'CREATE DATABASE shop');
	$node->safe_psql('postgres', 'CREATE DATABASE empty');
	$node->safe_psql('postgres', 'CREATE DATABASE old');
	$node->safe_psql('old', "CREATE EXTENSION event_store VERSION '0.1'");
	$node->safe_psql('shop', q{
		CREATE SCHEMA store;
		CREATE EXTENSION event_store SCHEMA store;
		CREATE ROLE watcher LOGIN; SELECT store.es_grant('watcher', 'monitor');
		CREATE ROLE looker LOGIN; SELECT store.es_grant('looker', 'reader');
		CREATE ROLE boss LOGIN; SELECT store.es_grant('boss', 'admin');
		CREATE ROLE nobody_here LOGIN;
		CREATE TABLE seen (position bigint PRIMARY KEY);
		CREATE TABLE mended (ok boolean);
		-- found by the search path, as in most applications
		CREATE FUNCTION fine(e store.es_event) RETURNS void LANGUAGE plpgsql AS
			$$BEGIN INSERT INTO seen VALUES ((e).global_position) ON CONFLICT DO NOTHING; END$$;
		CREATE FUNCTION picky(e store.es_event) RETURNS void LANGUAGE plpgsql AS
			$$BEGIN IF (e).event_type = 'OrderSpoilt' AND NOT EXISTS (SELECT FROM mended) THEN
				RAISE 'cannot bear %', (e).event_type; END IF; END$$;
		CREATE FUNCTION broken(e store.es_event) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE 'never works'; END$$;
		GRANT ALL ON seen, mended TO boss;
		-- a handler runs as who made its projection, and only he, or a superuser, can pause it
		ALTER ROLE boss SET search_path = public;
	});
	$dbh = connect_store($node, db => 'shop', plain => 1);
	run_sql($dbh,
		q{SET search_path = store, public},
		q{SELECT es_append('Order-1', 0, 'OrderPlaced', '{"sum": 42, "to": "Zoë 李"}')},
		q{SELECT es_append('Order-2', 0, 'OrderSpoilt', '{"secret": "hush"}')},
		q{SELECT es_append('Order-2', 1, 'OrderPaid', '{}')},
		q{SELECT es_append('Order-3', 0, 'OrderPlaced', '{}')},
		q{SELECT es_create_subscription('mailer')},
		q{SELECT es_create_subscription('packers', slots => 8)},
		q{SELECT es_join('packers', 'Anna')},
		q{SET ROLE boss},
		q{SELECT es_create_projection('fine', 'fine(es_event)'::regprocedure)},
		q{SELECT es_create_projection('picky', 'picky(es_event)'::regprocedure, policy => 'park', max_attempts => 1)},
		q{SELECT es_create_projection('broken', 'broken(es_event)'::regprocedure, max_attempts => 1)},
		q{RESET ROLE},
		q{SELECT count(*) FROM es_fetch('mailer')});
	# what a consumer says of a failure may be anything
	my ($position) = $dbh->selectrow_array(q{SELECT global_position FROM es_read_stream('Order-2') WHERE version = 1});
	$dbh->do(q{SELECT es_nack('mailer', ?, ?, false)}, undef, $position, "no mail\e[31m red\nand more\x{9b}2J");
	$dbh->do(q{SELECT es_ack('mailer', max(global_position)) FROM es_fetch('mailer')});
	ok(poll_until(sub {
		sql_value($dbh, q{SELECT count(*) FROM event_store.projections
			WHERE (name, state) IN (('broken', 'stopped'), ('picky', 'running'), ('fine', 'running'))
			  AND (state = 'stopped' OR lag_events = 0)}) == 3 }, $limit), 'projections are where they should be');
	return;
}

# What the program prints, what it says on standard error, its status.
sub run_top
{
	my @arguments = @_;
	my ($out, $error) = ('', '');
	IPC::Run::run([ $top, @arguments ], '<', \undef, '>', \$out, '2>', \$error, IPC::Run::timeout($limit));
	return (decode('UTF-8', $out), decode('UTF-8', $error), $? >> 8);
}

sub once
{
	my ($user, @options) = @_;
	my ($out, $error, $status) = run_top('--once', '--interval=0.1', '-U', $user, @options, @connection);
	is($error, '', "@options as $user: nothing on standard error");
	is($status, 0, "@options as $user: status 0");
	return $out;
}

sub options
{
	my ($out, $error, $status) = run_top('--help');
	like($out, qr/^Usage:\n  event_store_top \[OPTION\]/m, '--help');
	is($status, 0, '--help is no error');
	($out, $error, $status) = run_top('-?');
	is($status, 0, 'nor is -?');
	($out, $error, $status) = run_top('--version');
	like($out, qr/^event_store_top \d+\.\d+\n\z/, '--version');

	for my $wrong (['--nonsense'], ['-n'], ['--count=0', '-b'], ['--interval=soon'], ['--page=nowhere'], [qw(a b c)])
	{
		($out, $error, $status) = run_top(@$wrong);
		is("$out$status", '2', "@$wrong: refused");
		like($error, qr/^event_store_top: /, "@$wrong: said why");
	}
	for my $case (
		[ 'no terminal', qr/this is no terminal: use --batch/, @connection ],
		[ 'no server', qr/such file|could not connect|connection to server/, '-1', '-h', "$folder/nowhere" ],
		[ 'no extension', qr/database "empty" has no event store: CREATE EXTENSION/, '-1', @connection[0 .. 3], 'empty' ],
		[ 'version 0.1', qr/ALTER EXTENSION event_store UPDATE/, '-1', @connection[0 .. 3], '-d', 'old' ],
		[ 'no rights', qr/role "nobody_here" may not look .* es_grant\('nobody_here', 'monitor'\)/, '-1', @connection, '-U', 'nobody_here' ])
	{
		my ($name, $expected, @arguments) = @$case;
		($out, $error, $status) = run_top(@arguments);
		is("$out$status", '1', "$name: status 1");
		like($error, qr/^event_store_top: .*$expected/, "$name: said why");
	}
	($out, $error, $status) = run_top('-1', '-i', '0.1', '-d',
		sprintf("host=%s port=%d dbname=shop user=watcher", $node->host, $node->port));
	is($status, 0, 'a connection string');
	($out, $error, $status) = run_top('-1', '-i', '0.1', @connection[0 .. 3], 'shop', 'watcher');
	is($status, 0, 'database and user as arguments');
	return;
}

sub who_may_see_what
{
	my $out = once('watcher');
	like($out, qr/\Aevent store 0\.2 in shop, PostgreSQL \d+/, 'the first line');
	like($out, qr/^a second   appends 0\.0  events 0\.0  reads /m, 'rates');
	like($out, qr/^head       (\d+)   last position \1   worker \d+$/m, 'the head');
	unlike($out, qr/^blocked/m, 'which nothing blocks');
	like($out, qr/^NAME +CHECKPOINT +BEHIND +SECONDS +MEMBERS +IN HAND/m, 'subscriptions: heading');
	like($out, qr/^mailer +4 +\d+ +[\d.]+ .* 0 +1 */m, 'a subscription with a parked stream');
	like($out, qr/^packers +0 +4 +[\d.]+ +1 of 8 /m, 'a group');
	like($out, qr/^packers +Anna +8 +0 /m, 'its member');
	like($out, qr/^fine +running +\d+ +0 +0\.0 /m, 'a projection');
	like($out, qr/^picky +running +\d+ .* 2 +0 +/m, 'one with parked events');
	like($out, qr/^broken +stopped .* P0001/m, 'one that has stopped');
	unlike($out, qr/never works/, 'monitor: no message of a handler');
	unlike($out, qr/Order/, 'monitor: no name of a stream');
	like(once('boss'), qr/^broken +stopped .* P0001: never works/m, 'admin: the message');

	$out = once('watcher', '--page=parked');
	like($out, qr/^needs the kind reader, see es_grant$/m, 'monitor: no failed events');
	$out = once('boss', '--page=parked');
	like($out, qr/^mailer +\d+ +Order-2 +OrderSpoilt +parked +1 .* no mail\?\[31m red and more\?2J$/m,
		'admin: failed events; what would move the cursor is not printed');
	like($out, qr/^mailer +\d+ +Order-2 +OrderPaid +queued/m, 'and what waits behind');
	like($out, qr/^picky +\d+ +Order-2 +parked +1 .* P0001 +cannot bear OrderSpoilt$/m, 'of projections');
	like($out, qr/^picky +\d+ +Order-2 +behind/m, 'and what waits behind');

	like(once('watcher', '--page=categories'), qr/^Order +3 +4 +3 +\d+ +\d{4}-/m, 'categories');
	like(once('watcher', '--page=follow'), qr/^needs the kind reader/m, 'monitor: no events');
	$out = once('looker', '--page=follow');
	like($out, qr/Order-1 .*Order-2 .*Order-2 .*Order-3/s, 'reader: events in order');
	like($out, qr/\{"to": "Zoë 李", "sum": 42\}/, 'with their data');
	$out = once('looker');
	like($out, qr/^a second   not seen by readers/m, 'reader: no statistics');
	like($out, qr/^mailer /m, 'reader: subscriptions');

	my ($pages, undef, $status) = run_top('-b', '-n', 3, '-i', '0.1', '-U', 'watcher', @connection);
	is(scalar(() = $pages =~ /^event store 0/mg), 3, 'three pages');
	return;
}

sub the_head
{
	my $slow = connect_store($node, db => 'shop', plain => 1);
	$slow->begin_work;
	$slow->do(q{SELECT store.es_append('Slow-1', 0, 'Begun', '{}')});
	$dbh->do(q{SELECT es_append('Fast-1', 0, 'Done', '{}')});
	my ($pid) = $slow->selectrow_array('SELECT pg_backend_pid()');
	like(once('watcher'), qr/^blocked    at \d+ by process $pid, transaction \d+, open for \d\d:\d\d:\d\d$/m, 'who blocks the head');
	$slow->do(q{PREPARE TRANSACTION 'forgotten'});
	like(once('watcher'), qr/^blocked    at \d+ by prepared transaction forgotten, transaction/m, 'a prepared one');
	$dbh->do(q{ROLLBACK PREPARED 'forgotten'});
	$slow->disconnect;
	return;
}

# --- the terminal -----------------------------------------------------------

sub tmux
{
	my ($out, $error) = ('', '');
	IPC::Run::run([ 'tmux', '-f', '/dev/null', '-L', 'top', @_ ], '<', \undef, '>', \$out, '2>', \$error, IPC::Run::timeout($limit));
	return decode('UTF-8', $out);
}

sub start_top
{
	my ($user, @options) = @_;
	my $command = join ' ', map { "'$_'" } $top, '-U', $user, '-i', '0.2', @options, @connection;
	tmux('new-session', '-d', '-s', 'main', '-x', 140, '-y', 40, "$command 2>$folder/stderr; echo \$? >$folder/status");
	return;
}

sub screen { return tmux('capture-pane', '-p', '-t', 'main') }
sub press { tmux('send-keys', '-t', 'main', @_); return }

# Reads the screen until it shows what it should.
sub shows
{
	my ($expected, $name) = @_;
	my $screen;
	my $found = poll_until(sub { $screen = screen(); $screen =~ $expected }, $limit);
	ok($found, $name) or diag(encode('UTF-8', "the screen does not show $expected:\n$screen"));
	return $screen;
}

# Moves the cursor, which is the line in reverse video, to the line with that text.
sub cursor_to
{
	my ($text, $line) = @_;
	$line = qr/\Q$text\E/ unless defined $line;
	press('Home');
	press('/');
	shows(qr/^find:/m, '/ asks');
	press('-l', $text);
	press('Enter');
	ok(poll_until(sub { tmux('capture-pane', '-p', '-e', '-t', 'main') =~ /^((?:\e\[[\d;]*m)+)$line/m && $1 =~ /(?<!\d)7(?!\d)/ }, $limit),
		"the cursor is on $text") or diag(encode('UTF-8', screen()));
	return;
}

# Waits until the program has ended, for its status.
sub ended
{
	my ($expected, $name) = @_;
	ok(poll_until(sub { -s "$folder/status" }, $limit), "$name: it has ended");
	open my $file, '<', "$folder/status" or die "no status: $!";
	chomp(my $status = <$file> // '');
	is($status, $expected, "$name: its status");
	open my $errors, '<', "$folder/stderr" or die "no standard error: $!";
	is(join('', <$errors>), '', "$name: nothing on standard error");
	poll_until(sub { tmux('has-session', '-t', 'main'); $? != 0 }, $limit);
	unlink "$folder/status", "$folder/stderr";
	return;
}

sub projection_state { return sql_value($dbh, 'SELECT state FROM event_store.projections WHERE name = ?', shift) }

sub terminal
{
	start_top('boss');
	shows(qr/^event store 0\.2 in shop/m, 'the overview');
	my $n = 0;
	ok(poll_until(sub { $dbh->do(q{SELECT es_append('Busy-1', es_any(), 'Ticked', '{}')}); screen() =~ /appends [1-9]/ }, $limit),
		'appends a second');
	press('?');
	shows(qr/^Keys\n.*^follow|f +follow all events/ms, 'help');
	press('q');

	# a projection
	cursor_to('fine');
	press('p');
	shows(qr/^pause of fine\? \(y\/n\)/m, 'p asks');
	press('n');
	shows(qr/^nothing was changed/m, 'n changes nothing');
	is(projection_state('fine'), 'running', 'nothing at all');
	press('p');
	shows(qr/^pause of fine\? \(y\/n\)/m, 'p asks again');
	press('y');
	shows(qr/^fine +paused/m, 'it is paused');
	is(projection_state('fine'), 'paused', 'really');
	cursor_to('fine');
	press('r');
	shows(qr/^resume of fine\?/m, 'r asks');
	press('y');
	shows(qr/^fine +running/m, 'and it goes on');
	cursor_to('mailer');
	press('p');
	shows(qr/^put the cursor on a projection first/m, 'a subscription cannot be paused');

	# its parked events, through the handler, which is found by the role's search path
	cursor_to('picky');
	press('Enter');
	shows(qr/^policy +park$/m, 'a projection: its columns');
	shows(qr/cannot bear OrderSpoilt/, 'and its parked events');
	$dbh->do('INSERT INTO mended VALUES (true)');
	cursor_to('Order-2  parked', qr/picky +\d+ +Order-2 +parked/);
	press('t');
	shows(qr/^try again Order-2 of picky\?/m, 't asks');
	press('y');
	shows(qr/^try again: 2$/m, 'both were applied');
	is(sql_value($dbh, q{SELECT events_parked FROM event_store.projections WHERE name = 'picky'}), 0, 'really');

	# and those that belong to no stream, by their first tag
	run_sql($dbh, 'DELETE FROM mended',
		q{SELECT count(*) FROM es_append_if('[{"event_type": "OrderSpoilt", "data": {}, "tags": ["late"]}]',
			'{"items": [{"tags": ["none"]}]}')});
	shows(qr/^picky +\d+ +\(no stream\) late +parked/m, 'an event of no stream');
	$dbh->do('INSERT INTO mended VALUES (true)');
	cursor_to('(no stream) late', qr/picky +\d+ +\(no stream\) late/);
	press('t');
	shows(qr/^try again \(no stream\) late of picky\?/m, 't asks');
	press('y');
	shows(qr/^try again: 1$/m, 'it was applied');
	press('Escape');

	# a subscription's
	cursor_to('mailer');
	press('Enter');
	shows(qr/^parked_streams +1$/m, 'a subscription: its columns');
	cursor_to('OrderSpoilt', qr/mailer +\d+ +Order-2 +OrderSpoilt/);
	press('t');
	shows(qr/^try again Order-2 of mailer\?/m, 't asks');
	press('y');
	shows(qr/^try again: 1$/m, 'one stream');
	shows(qr/^parked_streams +0$/m, 'nothing is parked');
	is(scalar(@{ $dbh->selectall_arrayref(q{SELECT * FROM es_fetch('mailer')}) }) > 0, 1, 'they are delivered again');
	my ($position) = $dbh->selectrow_array(q{SELECT global_position FROM es_read_stream('Order-2') WHERE version = 1});
	$dbh->do(q{SELECT es_nack('mailer', ?, 'still not', false)}, undef, $position);
	shows(qr/still not/, 'it fails again, and is seen');
	cursor_to('OrderSpoilt', qr/mailer +\d+ +Order-2 +OrderSpoilt/);
	press('d');
	shows(qr/^discard $position of mailer\?/m, 'd asks');
	press('y');
	shows(qr/^discard: t$/m, 'it is given up');
	ok(poll_until(sub { screen() !~ /still not/ }, $limit), 'and gone');
	press('q');

	# a stream, an event
	press('s');
	shows(qr/^stream:/m, 's asks');
	press('-l', 'Order-1');
	press('Enter');
	shows(qr/^Stream, the newest first: Order-1/m, 'the stream');
	shows(qr/Order-1 +1 +OrderPlaced .*Zoë 李/, 'its event');
	cursor_to('Order-1', qr/ *\d+ +Order-1/);
	press('Enter');
	shows(qr/^data +\{\n +"to": "Zoë 李",\n +"sum": 42\n +\}/m, 'the event, with its data');
	press('q');
	press('q');
	shows(qr/^event store 0\.2 in shop/m, 'back');

	# live; at another size
	press('f');
	shows(qr/^All events, live/m, 'follow');
	$dbh->do(q{SELECT es_append('Live-' || g, 0, 'Happened', '{}') FROM generate_series(1, 60) AS g});
	shows(qr/Live-60 +1 +Happened/, 'the last of many events is seen');
	tmux('resize-window', '-t', 'main', '-x', 60, '-y', 12);
	shows(qr/Live-60/, 'in a small window');
	$dbh->do(q{SELECT es_append('Live-61', 0, 'Happened', '{}')});
	shows(qr/Live-61/, 'and on it goes');
	tmux('resize-window', '-t', 'main', '-x', 140, '-y', 40);
	press('q');

	# the server goes, and comes back
	$dbh->disconnect;
	$node->stop('fast');
	shows(qr/connection|server|terminat|No such file/, 'no server, and it says so');
	$node->start;
	$dbh = connect_store($node, db => 'shop', plain => 1);
	$dbh->do('SET search_path = store, public');
	shows(qr/^event store 0\.2 in shop/m, 'there it is again');
	shows(qr/^mailer /m, 'with everything');
	press('x');
	press('c');
	shows(qr/^Busy +1 /m, 'categories');
	press('q');
	press('q');
	press('q');
	ended(0, 'q on the overview');

	# a mere watcher can change nothing
	start_top('watcher');
	cursor_to('fine');
	press('p');
	shows(qr/^pause of fine\?/m, 'p asks a watcher, too');
	press('y');
	shows(qr/^permission denied for function es_pause_projection/m, 'the server refuses');
	press('C-c');
	ended(0, 'Ctrl-C');

	# while a statement waits for a lock
	start_top('boss');
	shows(qr/^mailer /m, 'the overview');
	my $locker = connect_store($node, db => 'shop', plain => 1);
	$locker->begin_work;
	$locker->do('LOCK TABLE event_store.subscription');
	ok(poll_until(sub { sql_value($dbh, q{SELECT count(*) FROM pg_stat_activity
		WHERE application_name = 'event_store_top' AND wait_event_type = 'Lock'}) }, $limit), 'a look waits for a lock');
	press('C-c');
	ended(0, 'Ctrl-C during a look');
	$locker->rollback;
	$locker->disconnect;
	return;
}
