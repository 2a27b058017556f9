# contrib/monitoring, with the real programs: prometheus-postgres-exporter and
# prometheus-sql-exporter look at a store as a login that has nothing but kind
# monitor, and Prometheus scrapes both.  In the store is everything that an alert
# is for: each must fire, and none where nothing is wrong.  Each expression of the
# dashboard must find something, by the figures of either exporter.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use File::Temp ();
use HTTP::Tiny;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $limit = 180;
my $files = "$FindBin::Bin/../../contrib/monitoring";
my $folder = File::Temp::tempdir('es_monitoring_XXXXXX', TMPDIR => 1, CLEANUP => 1);
my $http = HTTP::Tiny->new(timeout => 30);
my $json = JSON::PP->new->utf8;
my @running;

my $node = store_cluster('monitoring', preload => 'event_store',
	conf => "event_store.projection_retry_delay = 10ms\nmax_worker_processes = 16\n");
$node->safe_psql('postgres', 'CREATE DATABASE shop');
$node->safe_psql('shop', 'CREATE EXTENSION event_store');
$node->safe_psql('shop', q{CREATE ROLE watcher LOGIN; SELECT es_grant('watcher', 'monitor')});
my $dbh = connect_store($node, db => 'shop');

my ($postgres_port, $sql_port, $prometheus_port) =
  map { PostgreSQL::Test::Cluster::get_free_port() } 1 .. 3;
start_exporters();
my %by_postgres = figures($postgres_port, 'event_store_status_settled_head');
my %by_sql = figures($sql_port, 'event_store_status_settled_head');
is($by_postgres{'event_store_status_settled_head{datname="shop"}'}, 0, 'an empty store: its head');

start_prometheus();
ok(poll_until(sub { defined query('event_store_status_settled_head{job="postgres"}')
			&& defined query('event_store_status_settled_head{job="sql"}') }, $limit), 'Prometheus sees both exporters');
ok(poll_until(sub { !alerts() }, $limit), 'nothing is wrong: no alert');

make_trouble();
same_figures();
every_alert();
dashboard();

for my $program (@running)
{
	$program->kill_kill(grace => 10);
}
$dbh->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub start_program
{
	my ($name, @command) = @_;
	my $log = "$PostgreSQL::Test::Utils::log_path/060_monitoring_$name.log";

	push @running, IPC::Run::start(\@command, '<', \undef, '>', $log, '2>&1');
	return;
}

# A file of contrib/monitoring with changes, in the test's folder.
sub adapted
{
	my ($name, @changes) = @_;
	my $text = slurp_file("$files/$name");

	while (my ($from, $to) = splice @changes, 0, 2)
	{
		$text =~ s/$from/$to/g or die "$name has no $from";
	}
	open my $file, '>', "$folder/$name" or die "$folder/$name: $!";
	print $file $text;
	close $file or die "$folder/$name: $!";
	return "$folder/$name";
}

sub start_exporters
{
	my ($host, $port) = ($node->host, $node->port);

	# its name since 0.13
	my $bgwriter = qx(prometheus-postgres-exporter --help 2>&1) =~ /--collector\.stat_bgwriter/ ? 'stat_bgwriter' : 'bgwriter';

	local $ENV{DATA_SOURCE_NAME} = "user=watcher host=$host port=$port dbname=shop sslmode=disable";
	start_program('postgres_exporter', 'prometheus-postgres-exporter',
		"--web.listen-address=127.0.0.1:$postgres_port",
		'--disable-default-metrics', '--disable-settings-metrics', '--no-collector.database', "--no-collector.$bgwriter",
		'--extend.query-path=' . adapted('postgres_exporter.yaml', qr/cache_seconds: 300/ => 'cache_seconds: 1'));
	start_program('sql_exporter', 'prometheus-sql-exporter', "-web.listen-address=127.0.0.1:$sql_port",
		'-config.file=' . adapted('sql_exporter.yml',
			qr{host=/run/postgresql} => "host=$host&port=$port", qr/interval: \w+/ => 'interval: 1s'));
	return;
}

sub start_prometheus
{
	adapted('alerts.yml', qr/for: \w+/ => 'for: 0s', qr/_seconds > \d+/ => '_seconds > 0');
	my $config = adapted('prometheus.yml', qr/localhost:9187/ => "127.0.0.1:$postgres_port",
		qr/localhost:9237/ => "127.0.0.1:$sql_port",
		qr/\Arule_files:|\nrule_files:/ => "\nglobal: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files:");
	start_program('prometheus', 'prometheus', "--config.file=$config", "--storage.tsdb.path=$folder/tsdb",
		"--web.listen-address=127.0.0.1:$prometheus_port", '--log.level=warn');
	return;
}

sub get
{
	my ($url) = @_;
	my $answer = $http->get($url);
	return $answer->{success} ? $answer->{content} : undef;
}

# What an exporter shows, as name{labels} => value.
sub look
{
	my ($port) = @_;
	my $text = get("http://127.0.0.1:$port/metrics") // '';
	my %figures;

	while ($text =~ /^((?:sql_)?event_store_\w+)\{([^}]*)\} (\S+)$/mg)
	{
		my ($name, $labels, $value) = ($1, $2, $3);
		my %label = $labels =~ /(\w+)="([^"]*)"/g;

		# as prometheus.yml does
		$name =~ s/^sql_(.*)/$1_$label{col}/;
		delete @label{qw(server col sql_job driver user database host)};
		$figures{"$name\{" . join(',', map { qq($_="$label{$_}") } sort keys %label) . '}'} = $value;
	}
	return %figures;
}

# The same, once a certain figure is there.
sub figures
{
	my ($port, $expected) = @_;
	my %figures;

	ok(poll_until(sub { %figures = look($port); grep { /^\Q$expected\E\{/ } keys %figures }, $limit), "port $port shows $expected")
	  or diag(get("http://127.0.0.1:$port/metrics") // 'nothing');
	return %figures;
}

sub query
{
	my ($expression) = @_;
	my $answer = get("http://127.0.0.1:$prometheus_port/api/v1/query?" . $http->www_form_urlencode({ query => $expression }));

	return undef unless defined $answer;
	my $results = $json->decode($answer)->{data}{result};
	return @$results ? $results : undef;
}

sub alerts
{
	my $answer = get("http://127.0.0.1:$prometheus_port/api/v1/alerts");
	my %firing = map { $_->{labels}{alertname} => 1 }
	  grep { $_->{state} eq 'firing' } @{ $json->decode($answer)->{data}{alerts} };

	return sort keys %firing;
}

# One of each thing that somebody has to see to.
sub make_trouble
{
	$node->safe_psql('shop', q{
		CREATE FUNCTION picky(e es_event) RETURNS void LANGUAGE plpgsql AS
			$$BEGIN IF (e).event_type = 'Spoilt' THEN RAISE 'no'; END IF; END$$;
		SELECT es_append('Order-1', 0, 'Placed', '{}');
		SELECT es_append('Order-2', 0, 'Spoilt', '{}');
		SELECT es_append('Order-3', 0, 'Placed', '{}');
		SELECT es_create_subscription('mailer');
		SELECT es_create_subscription('packers', slots => 4);
		SELECT es_create_projection('stopping', 'picky(es_event)'::regprocedure, max_attempts => 1);
		SELECT es_create_projection('parking', 'picky(es_event)'::regprocedure, policy => 'park', max_attempts => 1);
		SELECT es_create_projection('calm', 'picky(es_event)'::regprocedure, event_types => '{Placed}');
	});
	ok(poll_until(sub { sql_value($dbh, q{SELECT count(*) FROM event_store.projections
		WHERE (name, state, lag_events) IN (('stopping', 'stopped', 2), ('parking', 'running', 0), ('calm', 'running', 0))}) == 3 }, $limit),
		'one projection has stopped, one has parked an event');

	# from here on nobody applies anything
	$node->safe_psql('postgres', 'ALTER SYSTEM SET event_store.max_projection_workers = 0');
	$node->reload;
	ok(poll_until(sub { sql_value($dbh, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'event_store projections'}) == 0 },
		$limit), 'no worker for projections');
	$dbh->do(q{SELECT es_rebuild_projection('calm', without_reset => true)});

	$dbh->do(q{SELECT count(*) FROM es_fetch('mailer', 2)});
	$dbh->do(q{SELECT es_nack('mailer', global_position, 'no', false) FROM es_read_stream('Order-2')});
	is(sqlstate($dbh, q{SELECT es_append('Order-1', 0, 'Placed', '{}')}), 'VE001', 'a conflict');

	# the head: blocked as long as the database is there
	my $slow = connect_store($node, db => 'shop');
	$slow->begin_work;
	$slow->do(q{SELECT es_append('Slow-1', 0, 'Begun', '{}')});
	$slow->do(q{PREPARE TRANSACTION 'forgotten'});
	$slow->disconnect;
	$dbh->do(q{SELECT es_append('Order-4', 0, 'Placed', '{}')});
	return;
}

# The two exporters, whose queries stand in two files, show the same.
sub same_figures
{
	my (%p, %s);
	# what is left out is not alike in two looks at different times
	my $still = sub {
		my (%all) = @_;
		return join "\n", map { "$_ $all{$_}" } grep { !/seconds|wakeups|notifications|reads|worker_running|size_bytes/ } sort keys %all;
	};
	my %expected = (
		'event_store_status_blocked{datname="shop"}' => 1,
		'event_store_statistics_conflicts{datname="shop"}' => 1,
		'event_store_statistics_events{datname="shop"}' => 5,
		'event_store_subscription_parked_streams{datname="shop",name="mailer"}' => 1,
		'event_store_subscription_lag_events{datname="shop",name="packers"}' => 3,
		'event_store_projection_stopped{datname="shop",name="stopping",version="current"}' => 1,
		'event_store_projection_events_parked{datname="shop",name="parking",version="current"}' => 1,
		'event_store_rebuild_events_to_do{datname="shop",name="calm",version="current"}' => 2,
		'event_store_category_events{category="Order",datname="shop"}' => 4);

	poll_until(sub {
		%p = look($postgres_port);
		%s = look($sql_port);
		return !(grep { ($p{$_} // '') ne $expected{$_} } keys %expected) && $still->(%p) eq $still->(%s);
	}, $limit);
	is_deeply([ sort keys %p ], [ sort keys %s ], 'both have the same figures, by name and label');
	is($still->(%p), $still->(%s), 'and those that stand still have the same values');
	cmp_ok(scalar(keys %p), '>', 60, 'there are many');

	for my $figure (sort keys %expected)
	{
		is($p{$figure}, $expected{$figure}, $figure);
	}
	return;
}

sub every_alert
{
	my $rules = slurp_file("$files/alerts.yml");
	my @names = grep { $_ ne 'EventStoreNoFigures' } sort $rules =~ /^  - alert: (\w+)$/mg;
	my @firing;

	cmp_ok(scalar(@names), '>=', 6, 'there are alerts');
	poll_until(sub { @firing = alerts(); "@firing" eq "@names" }, $limit);
	is_deeply(\@firing, \@names, 'each of them fires');
	like(get("http://127.0.0.1:$prometheus_port/api/v1/alerts"), qr/Projection stopping of shop has stopped/, 'and says of what');

	# the exporters go
	for my $exporter (splice @running, 0, 2)
	{
		$exporter->kill_kill(grace => 10);
	}
	ok(poll_until(sub { grep { $_ eq 'EventStoreNoFigures' } alerts() }, $limit), 'no exporter: there is an alert for that, too');
	start_exporters();
	ok(poll_until(sub { defined query('event_store_category_events{job="sql"}') && defined query('event_store_rebuild_events_to_do{job="postgres"}') },
		$limit), 'they are back');
	return;
}

# Each expression of the dashboard finds something, through either exporter.
sub dashboard
{
	my $dashboard = $json->decode(encode_utf8(slurp_file("$files/dashboard.json")));
	my @expressions = map { $_->{expr} } map { @{ $_->{targets} || [] } } @{ $dashboard->{panels} };
	my %figures = figures($postgres_port, 'event_store_status_settled_head');
	my %known = map { s/\{.*//r => 1 } keys %figures;

	cmp_ok(scalar(@expressions), '>', 20, 'the dashboard has expressions');
	for my $expression (@expressions)
	{
		my @unknown = grep { !$known{$_} } $expression =~ /\b(event_store_\w+)/g;
		is("@unknown", '', "$expression: by figures that are there");
		for my $job ('postgres', 'sql')
		{
			(my $filled = $expression) =~ s/datname=~"\$datname"/datname=~".*", job="$job"/g;
			ok(poll_until(sub { defined query($filled) }, $limit), "$expression: finds something, job $job");
		}
	}
	my ($variable) = grep { $_->{name} eq 'datname' } @{ $dashboard->{templating}{list} };
	like($variable->{query}{query}, qr/^label_values\(event_store_status_settled_head, datname\)$/, 'its list of databases');
	return;
}

sub encode_utf8
{
	my ($text) = @_;
	utf8::encode($text) if utf8::is_utf8($text);
	return $text;
}
