# Through PgBouncer in transaction mode: every statement may run in another
# session.  Waiting is one statement, a consumer with a name is one consumer.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use DBI;
use EventStoreTest;
use EventStoreTest::Bouncer;
use Test::More;
use Time::HiRes qw(time);

my $user = (getpwuid($<))[0];

seed_random();
my $node = store_cluster('bounced', preload => 'event_store');
create_store($node);
my $direct = connect_store($node);
my ($dir, $port) = start_bouncer($node);
ok(poll_until(sub { my $dbh = bounced(1) or return 0; $dbh->disconnect; 1 }, 20),
	'pgbouncer is there');
waiting();
consuming();
many();
$direct->disconnect;
stop_bouncer();
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# A client of the pooler.
sub bounced
{
	my ($fail_ok) = @_;
	my $dbh = eval {
		DBI->connect("dbi:Pg:dbname=postgres;host=$dir;port=$port", $user, '', {
			AutoCommit => 1,
			RaiseError => 1,
			PrintError => 0,
			AutoInactiveDestroy => 1,
			pg_server_prepare => 0
		});
	};
	die $@ unless $dbh || $fail_ok;
	return $dbh;
}

# Hold server sessions, so that the next statement runs in another one.
sub occupied
{
	my ($count, $code) = @_;
	my @others = map { bounced() } 1 .. $count;
	$_->begin_work, sql_value($_, 'SELECT 1') for @others;
	my $result = $code->();
	$_->rollback, $_->disconnect for @others;
	return $result;
}

sub backend
{
	my ($dbh) = @_;
	return sql_value($dbh, 'SELECT pg_backend_pid()');
}

sub waiting
{
	my $dbh = bounced();
	my $head = sql_value($dbh, 'SELECT es_head()');
	start_client('waiter', sub {
		my $conn = bounced();
		flag_set('waiter');
		my $got = sql_value($conn, "SELECT es_wait($head, '60 s')");
		return { got => $got, at => time() };
	});
	poll_until(sub {
		sql_value($direct, q{SELECT count(*) FROM pg_catalog.pg_stat_activity
			WHERE query LIKE 'SELECT es_wait%' AND wait_event_type = 'Extension'});
	});
	my $position = append($direct, 'Bounced-1', ANY, 'Happened')->{position};
	my $at = time();
	my $result = wait_clients(names => ['waiter'])->{waiter};
	is($result->{got}, $position, 'es_wait through the pooler sees the event');
	cmp_ok($result->{at} - $at, '<', 4, '... soon');
	$dbh->disconnect;
	return;
}

sub consuming
{
	my $dbh = bounced();
	my $rival = bounced();
	my $count = q{SELECT count(*) FROM es_fetch('bounced', 2, member => 'me')};
	append($direct, 'Bounced-1', ANY, 'Happened') for 1 .. 9;
	$dbh->do(q{SELECT es_create_subscription('bounced')});
	my $first = backend($dbh);
	is(sql_value($dbh, $count), 2, 'a consumer with a name fetches');
	my $second;
	my $state = occupied(2, sub {
		$second = backend($dbh);
		return sqlstate($dbh, q{SELECT es_ack('bounced', (SELECT min(global_position) + 1
			FROM event_store.event), 'me')});
	});
	isnt($first, $second, 'the next statement runs in another session');
	is($state, '00000', '... and acknowledges');
	is(sql_value($dbh, $count), 2, 'fetched again');
	is(sql_value($rival, q{SELECT count(*) FROM es_fetch('bounced', 2, member => 'you')}),
		0, 'another consumer gets nothing');

	# fetch, work and acknowledge in one transaction needs no name
	$dbh->do(q{SELECT es_create_subscription('whole')});
	$dbh->begin_work;
	is(sql_value($dbh, q{SELECT count(*) FROM es_fetch('whole', 3)}), 3, 'in one transaction');
	$dbh->do(q{SELECT es_ack('whole', (SELECT min(global_position) + 2 FROM event_store.event))});
	$dbh->commit;
	is(sql_value($rival, q{SELECT count(*) FROM es_fetch('whole')}), 7,
		'the next one gets the next events');
	$_->disconnect for $dbh, $rival;
	return;
}

# Members of a group, all through the pooler.
sub many
{
	$direct->do(q{CREATE TABLE done (global_position bigint)});
	$direct->do(q{SELECT es_create_subscription('many', slots => 8)});
	append($direct, "Many-$_", ANY, 'Happened') for 1 .. 200;
	new_flags();
	foreach my $number (1 .. 4)
	{
		start_client("member_$number", sub {
			my $conn = bounced();
			my $handled = 0;
			while (1)
			{
				$conn->begin_work;
				my $events = $conn->selectcol_arrayref(
					"SELECT global_position FROM es_fetch('many', 10, '0', 'm$number')");
				if (@$events)
				{
					$conn->do('INSERT INTO done SELECT unnest(?::bigint[])', undef, $events);
					$conn->do("SELECT es_ack('many', $events->[-1], 'm$number')");
				}
				$conn->commit;
				$handled += @$events;
				last if !@$events && lag($conn) == 0;
			}
			$conn->disconnect;
			return { handled => $handled };
		});
	}
	my $result = wait_clients(test => 'no member failed');
	is(sql_value($direct, q{SELECT count(*) || ' ' || count(DISTINCT global_position) FROM done}),
		'210 210', 'a group through the pooler handles every event exactly once');
	return;
}

sub lag
{
	my ($conn) = @_;
	return sql_value($conn,
		q{SELECT lag_events FROM event_store.subscriptions WHERE name = 'many'});
}
