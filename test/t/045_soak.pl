# A mixed load for as long as one likes: every form of append, readers, a
# subscription, a group, a filter, projections, rebuilds with and without a
# switch, events that are not handled at once; sessions and workers are
# terminated all the time, and backends are killed, which restarts the server.
#
# Nothing is lost, doubled or out of order, consumers reach the head, read
# models are what the events say.  In the second half of the time, in which the
# server is not restarted: memory of sessions and workers does not grow,
# bookkeeping tables do not grow, nothing holds vacuum back.
#
# Control: a session whose memory grows on purpose is noticed, and so are the
# faults that are made in the end.  "make soak" runs this for an hour and draws
# it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Consumers qw(reconnect);
use EventStoreTest::History qw(verdict);
use EventStoreTest::Soak
  qw(soak_schema soak_writer soak_follower soak_reader soak_consumer soak_operator soak_killer soak_leaker);
use EventStoreTest::SoakCheck qw(soak_caught_up soak_load soak_faults);
use EventStoreTest::SoakReport qw(take_sample memory_growth growth_of write_tables);
use List::Util qw(max min);
use Test::More;
use Time::HiRes qw(time);

my $minutes = setting('SOAK_MINUTES', 1);
my $seconds = $minutes * 60;
my $long = $minutes >= 10;
my $writers = setting('SOAK_WRITERS', $long ? 4 : 3);
my $pause = setting('SOAK_PAUSE', 20);    # ms, the longest that a writer rests after a call
my $interval = min(60, $seconds / 20);    # of the samples
my $crashes = $long ? 3 : 1;              # in the first half
my $folder = setting('SOAK_FOLDER', PostgreSQL::Test::Utils::tempdir());

# What the judgement allows, in the second half of the time.
my $memory_limit = setting('SOAK_MEMORY_KB', $long ? 2048 : 8192);    # growth of a process
my $table_limit = 4 * 1024 * 1024;                                    # a bookkeeping table with its indexes, bytes
my $patience = max(180, $seconds / 4);                                # s, for consumers to catch up

my @log_tables = qw(event stream event_type mark snapshot);

seed_random();
judgement();

my $node = store_cluster('soak', preload => 'event_store', conf => q{
autovacuum_naptime = 10s
# the least that there is: freezing has to keep up with the load
autovacuum_freeze_max_age = 100000
vacuum_freeze_table_age = 50000
vacuum_freeze_min_age = 10000
event_store.projection_retry_delay = 50ms
});
create_store($node);
my $dbh = connect_store($node, app => 'soak-v-sampler');
soak_schema($dbh);

new_flags();
my $start = time();
my @clients;
client("v-writer-1", sub { soak_writer($node, 'v-writer-1', "$folder/acknowledged.1", $pause) });
client("writer-$_", do { my $n = $_; sub { soak_writer($node, "writer-$n", "$folder/acknowledged.$n", $pause) } })
  for 2 .. $writers;
client('v-follower', sub { soak_follower($node, 'v-follower', "$folder/followed.1") });
client('follower', sub { soak_follower($node, 'follower', "$folder/followed.2") });
client('v-reader', sub { soak_reader($node, 'v-reader') });
client('reader', sub { soak_reader($node, 'reader') });
client('v-alone', sub { soak_consumer($node, 'v-alone', 'alone') });
client("filter-$_", do { my $n = $_; sub { soak_consumer($node, "filter-$n", 'filter') } }) for 1 .. 2;
client('v-member-1', sub { soak_consumer($node, 'v-member-1', 'group') });
client("member-$_", do { my $n = $_; sub { soak_consumer($node, "member-$n", 'group') } }) for 2 .. 3;
client('operator', sub { soak_operator($node, $seconds / 8) });
client('killer', sub {
	soak_killer($node, $long ? 10 : 3, $start + $seconds / 2, map { $start + $seconds / 2 * $_ / ($crashes + 1) } 1 .. $crashes);
});
client('leaker', sub { soak_leaker($node, 4 * $memory_limit / ($seconds / 2)) });

my @samples;
while (time() < $start + $seconds)
{
	my $due = $start + $interval * @samples;
	poll_until(sub { time() > $due }, 2 * $interval);
	$dbh = reconnect($node, app => 'soak-v-sampler') if connection_lost($dbh);
	my $sample = eval { take_sample($dbh, time() - $start) };
	push @samples, $sample || { second => time() - $start, broken => 1 };
}
my $ran = time() - $start;
flag_set('stop');
my $written = wait_clients(
	names => [ grep { /writer|reader|operator|killer|leaker/ } @clients ],
	limit => $patience,
	test => 'no writer, reader or operator failed');
$dbh = reconnect($node, app => 'soak-v-sampler');
is(soak_caught_up($dbh, $patience), '', 'every subscription and projection is at the head');
is(sql_value($dbh, 'SELECT es_head()'),
	sql_value($dbh, 'SELECT max(global_position) FROM event_store.event'), 'the settled head is the last event');
flag_set('end');
my $read = wait_clients(limit => $patience, test => 'no consumer failed');

note "$_: " . verdict(counts($written->{$_} || $read->{$_})) for @clients;
happened();
soak_load($dbh, [ map { "$folder/acknowledged.$_" } 1 .. $writers ], [ map { "$folder/followed.$_" } 1, 2 ]);
complete();
steady();
report();
control();
$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub client
{
	my ($name, $code) = @_;
	push @clients, $name;
	start_client($name, $code);
	return;
}

sub counts
{
	my ($result) = @_;
	return { map { ref $result->{$_} ? () : ($_ => $result->{$_}) } keys %$result } unless $result->{count};
	my $count = $result->{count};
	return { map { ref $count->{$_} ? () : ($_ => $count->{$_}) } keys %$count };
}

# The judgement itself, on made-up processes.
sub judgement
{
	my @made = map {
		{ second => $_, memory => { flat => 5000 + 200 * ($_ % 2), grows => 5000 + 100 * $_, ($_ < 3 ? (short => 100 * $_) : ()) } }
	} 0 .. 9;
	my $growth = memory_growth(@made);
	is(join(' ', sort keys %$growth), 'flat grows', 'judgement: of processes that lived long enough');
	cmp_ok(abs($growth->{flat}{growth}), '<', 200, 'judgement: what goes up and down does not grow');
	cmp_ok(abs($growth->{grows}{growth} - 900), '<', 1, 'judgement: what grows is measured');
	return;
}

# The load had everything in it.
sub happened
{
	my %total;
	foreach my $name (@clients)
	{
		my $count = counts($written->{$name} || $read->{$name});
		$total{$_} += $count->{$_} for keys %$count;
	}
	cmp_ok($total{$_} || 0, '>', 0, "there was: $_")
	  for 'es_append', 'es_append_batch', 'es_append of JSON', 'es_append_streams', 'es_append_if', 'es_import',
	  'rolled back', 'batch', 'nack', 'switched', 'rebuilt', 'terminated', 'lost';
	is($total{crashed}, $crashes, "there was: a backend killed, $crashes times");
	is(join('; ', map { @{ $written->{$_}{count}{strange} || [] } } 'v-reader', 'reader'), '', 'readers saw nothing strange');
	return;
}

sub complete
{
	my $fault = soak_faults($dbh);
	$dbh->do("SET work_mem = '64MB'");
	is(sql_value($dbh, "SELECT count(*) FROM ($fault->{$_}) q"), 0, "0: $_") for sort keys %$fault;
	is(sqlstate($dbh, "SELECT event_store.es_check_table('event_store.$_')"), '00000', "es_check_table: $_") for @log_tables;
	$dbh->do('CREATE EXTENSION amcheck');
	cmp_ok(
		sql_value(
			$dbh, q{
			SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid, LATERAL bt_index_check(c.oid, true)
			WHERE c.relnamespace = 'event_store'::regnamespace AND i.indisvalid
			  AND c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree')}),
		'>=', 9, 'every index has an entry for every row');
	return;
}

# The second half of the time.
sub steady
{
	my @second = grep { !$_->{broken} && $_->{second} > $seconds / 2 } @samples;
	my $growth = memory_growth(@second);
	my @watched = grep { !/on-purpose/ } keys %$growth;
	my ($control) = grep { /on-purpose/ } keys %$growth;

	cmp_ok(scalar(@watched), '>=', 5, 'sessions and workers that lived through the second half');
	# sanitizers keep what is freed
	@watched = () if setting('ES_SANITIZER', 0);
	cmp_ok($growth->{$_}{growth}, '<', $memory_limit,
		sprintf "memory is flat: %s, %.1f MB then %.1f MB", s/ \d+$//r, map { $_ / 1024 } @{ $growth->{$_} }{qw(first last)})
	  for sort @watched;
	ok(defined $control, 'control: the session that grows was there')
	  and cmp_ok($growth->{$control}{growth}, '>', $memory_limit, 'control: a session that grows is noticed');
	foreach my $table (sort keys %{ $second[0]{sizes} })
	{
		next if grep { $table eq $_ } @log_tables;
		cmp_ok(max(map { $_->{sizes}{$table} } @second), '<', $table_limit, "bounded: $table");
	}
	my @whole = grep { !$_->{broken} } @samples;
	cmp_ok(max(map { $_->{xid_age} } @whole), '<', 400_000, 'freezing keeps up: age of the oldest transaction id');
	cmp_ok(max(map { $_->{oldest} } @whole), '<', 60, 'nobody keeps a transaction open');
	return;
}

sub report
{
	my $latency = $dbh->selectall_arrayref(
		q{SELECT (second - $1) / $2, count(*), (percentile_cont(0.5) WITHIN GROUP (ORDER BY microseconds) / 1000)::numeric(12,3),
				 (percentile_cont(0.99) WITHIN GROUP (ORDER BY microseconds) / 1000)::numeric(12,3)
		  FROM acknowledged WHERE microseconds IS NOT NULL GROUP BY 1 ORDER BY 1},
		undef, int($start), int($interval) || 1);
	$_->[0] = sprintf '%.2f', ($_->[0] + 0.5) * (int($interval) || 1) / 60 for @$latency;
	my $quarter = sub {
		my ($from) = @_;
		return sql_value($dbh,
			q{SELECT (percentile_cont(0.99) WITHIN GROUP (ORDER BY microseconds) / 1000)::numeric(12,2)
			  FROM acknowledged WHERE microseconds IS NOT NULL AND second BETWEEN $1 AND $2},
			int($start + $from * $seconds / 4), int($start + ($from + 1) * $seconds / 4));
	};
	my @p99 = map { $quarter->($_) || 0 } 0 .. 3;
	my @whole = grep { !$_->{broken} } @samples;
	my $growth = memory_growth(grep { $_->{second} > $seconds / 2 } @whole);
	my @lines = (
		sprintf('%.1f minutes, %d events in %d streams, %d calls answered, %d sessions and workers terminated, %d restarts after kill -9',
			$ran / 60, sql_value($dbh, 'SELECT count(*) FROM event_store.event'),
			sql_value($dbh, 'SELECT count(*) FROM event_store.stream'),
			sql_value($dbh, 'SELECT count(*) FROM acknowledged WHERE microseconds IS NOT NULL'),
			@{ $written->{killer}{count} }{qw(terminated crashed)}),
		"p99 of an append in each quarter: @p99 ms; last to first: " . ($p99[0] > 0 ? sprintf('%.2f', $p99[3] / $p99[0]) : '-'),
		map({ sprintf '%s: %.2f MB, growth in the second half %+.2f MB', s/ \d+$//r, $growth->{$_}{last} / 1024,
				$growth->{$_}{growth} / 1024 } sort keys %$growth),
		map({ my $t = $_; sprintf '%s: at most %d kB', $t, max(map { $_->{sizes}{$t} } @whole) / 1024 }
			grep { my $t = $_; !grep { $t eq $_ } @log_tables } sort keys %{ $whole[-1]{sizes} }),
		sprintf('oldest transaction id: at most %d; rows dead at most %d; behind the last position at most %d',
			map { my $k = $_; max(map { $_->{$k} || 0 } @whole) } qw(xid_age dead unsettled)));
	note $_ for @lines;
	write_tables($folder, $latency, @whole);
	open my $report, '>', "$folder/report.txt" or die "$folder/report.txt: $!";
	print $report map { "$_\n" } @lines;
	close $report or die $!;
	return;
}

# Faults, made one by one: each must be found.
sub control
{
	my $fault = soak_faults($dbh);
	my %damage = (
		'acknowledged, but not there' => 'INSERT INTO acknowledged SELECT gen_random_uuid(), stream, version, position FROM acknowledged LIMIT 1',
		'there, but not acknowledged' => 'DELETE FROM acknowledged WHERE position = (SELECT min(position) FROM acknowledged)',
		'acknowledged twice' => 'INSERT INTO acknowledged SELECT * FROM acknowledged LIMIT 1',
		'follower 1: skipped, doubled or changed' => 'DELETE FROM followed WHERE seq = (SELECT min(seq) FROM followed WHERE follower = 1)',
		'follower 2: skipped, doubled or changed' =>
		  'INSERT INTO followed (follower, position, stream, version) SELECT follower, position, stream, version FROM followed WHERE follower = 2 LIMIT 1',
		'follower 1: out of order' => 'UPDATE followed SET seq = -seq WHERE seq = (SELECT max(seq) FROM followed WHERE follower = 1)',
		'group: not handled, handled twice, or what it does not want' =>
		  q{DELETE FROM handled WHERE seq = (SELECT max(seq) FROM handled WHERE consumer = 'group')},
		'alone: not handled, handled twice, or what it does not want' =>
		  q{INSERT INTO handled (consumer, position) SELECT consumer, position FROM handled WHERE consumer = 'alone' LIMIT 1},
		'group: a stream out of order' =>
		  q{UPDATE handled SET seq = -seq WHERE seq = (SELECT max(seq) FROM handled WHERE consumer = 'group' AND version > 1)},
		'projection counts' => 'UPDATE counts SET n = n + 1 WHERE ctid = (SELECT min(ctid) FROM counts)',
		'projection streams' => 'DELETE FROM streams WHERE ctid = (SELECT min(ctid) FROM streams)');
	foreach my $title (sort keys %damage)
	{
		$dbh->begin_work;
		$dbh->do($damage{$title});
		cmp_ok(sql_value($dbh, "SELECT count(*) FROM ($fault->{$title}) q"), '>', 0, "control: $title");
		$dbh->rollback;
	}
	return;
}
