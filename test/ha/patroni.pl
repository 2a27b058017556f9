# Two nodes that Patroni runs, with etcd, on loopback.  Leaders are killed and
# switched over while clients work.  Synchronous mode: no acknowledged event is
# lost and every client goes on by itself.  Asynchronous mode: events are lost,
# and every consumer that has seen them is told.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use DBI;
use EventStoreTest;
use EventStoreTest::Failover;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

seed_random();
my $writers = 3;
my $user = (getpwuid($<))[0];
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $log = $ENV{TESTLOGDIR} || $dir;
my (%process, %node);
my $rewinds = 0;
chomp(my $bin = `$ENV{PG_CONFIG} --bindir`);

# How long anything may take: a leader's lease, a rewind, a machine that is busy.
my $patience = 240;

END
{
	my $code = $?;
	stop_process($_, 'KILL') foreach keys %process;
	kill 'KILL', $_, child_processes($_) foreach grep { $_ } map { postmaster($_) } keys %node;
	$? = $code;
}

start_etcd();
start_node($_) foreach qw(a b);
my $connect = sub { connect_primary('postgres', $user, map { [ '127.0.0.1', $node{$_}{port} ] } qw(a b)) };
ok(settled(), 'a leader and a standby');
my $dbh = $connect->();
$dbh->do('CREATE EXTENSION event_store');
$dbh->disconnect;

synchronous();
asynchronous();
done_testing();

# ---------------------------------------------------------------------------

sub start_process
{
	my ($name, @command) = @_;
	my $pid = fork();

	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		setpgrp(0, 0);
		open STDOUT, '>>', "$log/$name.log";
		open STDERR, '>&', \*STDOUT;
		exec @command or POSIX::_exit(127);
	}
	$process{$name} = $pid;
	return;
}

sub stop_process
{
	my ($name, $signal) = @_;
	my $pid = delete $process{$name} or return;

	kill $signal, $pid;
	waitpid $pid, 0;
	return;
}

sub start_etcd
{
	my ($client, $peer) = map { PostgreSQL::Test::Cluster::get_free_port() } 1, 2;

	start_process('etcd', 'etcd', '--name', 'only', '--data-dir', "$dir/etcd", '--enable-v2=true',
		'--listen-client-urls', "http://127.0.0.1:$client", '--advertise-client-urls', "http://127.0.0.1:$client",
		'--listen-peer-urls', "http://127.0.0.1:$peer", '--initial-advertise-peer-urls', "http://127.0.0.1:$peer",
		'--initial-cluster', "only=http://127.0.0.1:$peer");
	$node{$_} = { port => PostgreSQL::Test::Cluster::get_free_port(), rest => PostgreSQL::Test::Cluster::get_free_port() } foreach qw(a b);
	write_config($_, $client) foreach qw(a b);
	ok(poll_until(sub { http("http://127.0.0.1:$client/health") }, $patience), 'etcd is there');
	return;
}

# The leader's lease is as short as its loop allows.
sub write_config
{
	my ($name, $etcd) = @_;
	my ($port, $rest) = @{ $node{$name} }{qw(port rest)};

	open my $file, '>', "$dir/$name.yml" or die "$dir/$name.yml: $!";
	print $file <<"END";
scope: event_store
name: $name
restapi: {listen: '127.0.0.1:$rest', connect_address: '127.0.0.1:$rest'}
etcd: {host: '127.0.0.1:$etcd'}
bootstrap:
  dcs:
    ttl: 10
    loop_wait: 1
    retry_timeout: 4
    maximum_lag_on_failover: 1073741824
    master_start_timeout: 0
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters:
        shared_preload_libraries: event_store
        wal_level: replica
        hot_standby: 'on'
        wal_log_hints: 'on'
        wal_keep_size: 1GB
        max_wal_size: 1GB
        shared_buffers: 64MB
        max_connections: 60
  initdb: [{encoding: UTF8}, {locale: C}]
  pg_hba: ['host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust', 'local all all trust']
postgresql:
  listen: '127.0.0.1:$port'
  connect_address: '127.0.0.1:$port'
  data_dir: $dir/$name
  bin_dir: $bin
  pgpass: $dir/pgpass.$name
  authentication:
    superuser: {username: $user, password: x}
    replication: {username: replicator, password: x}
    rewind: {username: $user, password: x}
  parameters: {unix_socket_directories: $dir}
END
	close $file;
	return;
}

sub start_node
{
	my ($name) = @_;
	start_process("patroni_$name", 'patroni', "$dir/$name.yml");
	return;
}

sub http
{
	my ($url, @options) = @_;
	my $out = '';

	IPC::Run::run([ 'curl', '-sf', '-m', '5', @options, $url ], '>', \$out, '2>', '/dev/null') or return undef;
	return $out || '1';
}

# The members by role, as Patroni tells them.
sub roles
{
	foreach my $name (sort keys %node)
	{
		my $answer = http("http://127.0.0.1:$node{$name}{rest}/cluster") or next;
		my $cluster = eval { JSON::PP::decode_json($answer) } or next;
		return { map { $_->{role} => $_ } @{ $cluster->{members} } };
	}
	return {};
}

# Whether one leads and the other follows, synchronously or not, on one timeline.
sub settled
{
	my ($role) = @_;

	return poll_until(sub {
			my $roles = roles();
			my $standby = $roles->{ $role || 'sync_standby' };
			random_pause(300);
			return $roles->{leader} && $roles->{leader}{state} eq 'running' && $standby && $standby->{state} =~ /^(running|streaming)$/
			  && ($standby->{timeline} || 0) == ($roles->{leader}{timeline} || -1);
	}, $patience);
}

sub leader
{
	my $roles = roles();
	return $roles->{leader} ? $roles->{leader}{name} : '';
}

sub postmaster
{
	my ($name) = @_;
	open my $file, '<', "$dir/$name/postmaster.pid" or return undef;
	my $pid = <$file>;
	chomp $pid;
	# a file that a crash has left
	return -d "/proc/$pid" && (readlink("/proc/$pid/cwd") || '') eq "$dir/$name" ? $pid : undef;
}

# Everything of a node is gone at once.
sub kill_node
{
	my ($name) = @_;
	my $pid = postmaster($name);

	stop_process("patroni_$name", 'KILL');
	if ($pid)
	{
		my @gone = ($pid, child_processes($pid));
		kill 'KILL', @gone;
		ok(poll_until(sub { !grep { ((EventStoreTest::process($_))[0] // 'Z') ne 'Z' } @gone }, $patience), "node $name is gone");
	}
	return;
}

sub events_come
{
	my ($title) = @_;
	my ($dbh, $before);

	ok(poll_until(sub {
				$dbh ||= $connect->() or return 0;
				my $head = eval { sql_value($dbh, 'SELECT es_head()') };
				if (!defined $head) { $dbh = undef; return 0; }
				$before = $head unless defined $before;
				random_pause(100);
				return $head > $before + 20;
	}, $patience), "events come $title");
	return;
}

sub synchronous
{
	my $rounds = setting('ES_FAILOVERS', 20);

	start_failover_clients($connect, $writers);
	start_feed();
	foreach my $round (1 .. $rounds)
	{
		my $old = leader();
		my $new = $old eq 'a' ? 'b' : 'a';
		my $how = ('the node is killed', 'the server is killed', 'switchover')[ ($round - 1) % 3 ];

		events_come("before failover $round");
		if ($how eq 'the node is killed')
		{
			kill_node($old);
		}
		elsif ($how eq 'the server is killed')
		{
			# Patroni stays, and gives the lead away
			kill 'KILL', postmaster($old) || 0;
		}
		else
		{
			ok(poll_until(sub {
						http("http://127.0.0.1:$node{$old}{rest}/switchover", '-X', 'POST', '-H', 'Content-Type: application/json',
							'-d', qq({"leader": "$old", "candidate": "$new"}));
						random_pause(1000);
						return leader() eq $new;
			}, $patience), "switchover $round");
		}
		ok(poll_until(sub { random_pause(200); leader() eq $new }, $patience), "failover $round, $how: $new leads");
		start_node($old) unless $process{"patroni_$old"};
		ok(settled(), "$old follows");
	}
	events_come('after the last one');
	judge_failover_clients($connect, $writers, "$rounds failovers, synchronous");
	judge_feed("$rounds failovers, synchronous");
	chomp(my @lines = `cat $log/patroni_*.log | grep -c 'pg_rewind exit code=0'`);
	note "pg_rewind was run $lines[0] times";
	return;
}

# contrib/feed, into a file.
sub start_feed
{
	my $dbh = $connect->();

	$dbh->do(q{SELECT es_create_subscription('feed', '{Load}')});
	$dbh->disconnect;
	start_process('feed', 'event_store_feed', '--sink=lines', "--target=$dir/feed.jsonl", '--dbname', sprintf(
			'dbname=postgres user=%s host=127.0.0.1,127.0.0.1 port=%d,%d target_session_attrs=read-write connect_timeout=5', $user, map { $node{$_}{port} } qw(a b)));
	return;
}

sub judge_feed
{
	my ($title) = @_;
	my $dbh = $connect->();
	my %want = map { $_->[0] => 1 } @{ $dbh->selectall_arrayref(q{SELECT event_id FROM es_read_category('Load', NULL, NULL)}) };
	my (%seen, %version, $disordered, $again);

	ok(poll_until(sub { random_pause(500); sql_value($dbh, q{SELECT lag_events = 0 FROM event_store.subscriptions WHERE name = 'feed'}) }, $patience),
		"$title: the feed has come to the end");
	$dbh->disconnect;
	stop_process('feed', 'TERM');
	open my $file, '<', "$dir/feed.jsonl" or die "feed.jsonl: $!";
	($disordered, $again) = (0, 0);
	while (my $line = <$file>)
	{
		my $event = JSON::PP::decode_json($line);
		my ($stream, $version) = @$event{qw(subject streamversion)};
		$again++ if $seen{ $event->{id} }++;
		$disordered++ if $version > ($version{$stream} || 0) + 1;
		$version{$stream} = $version;
	}
	note "the feed has written $again events again";
	is(scalar(grep { !$seen{$_} } keys %want), 0, "$title: the feed has published all of them");
	is(scalar(grep { !$want{$_} } keys %seen), 0, "$title: and nothing else");
	is($disordered, 0, "$title: in the order of each stream");
	return;
}

# The standby is down when events are appended, and leads when it comes back.
sub asynchronous
{
	foreach my $round (1 .. setting('ES_ASYNC_FAILOVERS', 3))
	{
		my $old = leader();
		my $new = $old eq 'a' ? 'b' : 'a';

		http("http://127.0.0.1:$node{$old}{rest}/config", '-X', 'PATCH', '-d', '{"synchronous_mode": false}');
		ok(settled('replica'), "asynchronous $round: a leader and a replica");
		my $dbh = $connect->();
		my $kept = sql_value($dbh, 'SELECT es_head()');
		my $lsn = sql_value($dbh, 'SELECT pg_current_wal_flush_lsn()');
		ok(poll_until(sub { sql_value($dbh, 'SELECT bool_and(replay_lsn >= ?::pg_lsn) FROM pg_stat_replication', $lsn) }, $patience), 'it has everything');
		kill_node($new);
		$dbh->do(q{SELECT es_append('Lost-' || n, es_any(), 'Made', '1') FROM generate_series(1, 100) n});
		my $ahead = sql_value($dbh, 'SELECT es_head()');
		$dbh->disconnect;
		kill_node($old);

		start_node($new);
		ok(poll_until(sub { random_pause(200); leader() eq $new }, $patience), "$new leads, without the last events");
		ok(poll_until(sub { $dbh = $connect->() }, $patience), 'it takes connections');
		is(sql_value($dbh, 'SELECT es_head()'), $kept, 'events are lost');
		foreach my $call ('es_read_all(%s)', q{es_read_category('Lost', %s)}, q{es_wait(%s, '1 s')}, q{es_wait_projection('counted', %s)}, q{es_reset_subscription('load', %s)})
		{
			is(sqlstate($dbh, 'SELECT * FROM ' . sprintf($call, $ahead)), 'VE004', "who has seen them is told: $call");
		}
		# the procedure of doc/operations.md: back to what this server has
		my $again = append($dbh, "Found-$round", 0, 'Made');
		is(sql_value($dbh, 'SELECT string_agg(stream_id, $$,$$) FROM es_read_all(?)', $kept), "Found-$round", 'set back, a consumer goes on');
		$dbh->disconnect;
		start_node($old);
		ok(settled('replica'), "$old follows, what it had alone is taken back by pg_rewind");
		$dbh = $connect->();
		is(sql_value($dbh, 'SELECT count(*) FROM es_verify()'), 0, 'the store is sound');
		$dbh->disconnect;
	}
	return;
}
