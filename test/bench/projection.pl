# The measurements of projection.sh.

use strict;
use warnings;

use DBI;
use POSIX ();
use Time::HiRes qw(time sleep);

my ($dir) = @ARGV;
my $repeat = $ENV{BENCH_REPEAT};
my $seconds = $ENV{BENCH_SECONDS};
my $keys = 10000;
my $each = $ENV{BENCH_EVENTS} / $keys;
my $client_events = 20000;
my %work = map { $_ => 1 } split ' ', $ENV{BENCH_WORK};

$| = 1;
my $dbh = connect_db();
setup();
print "| work | median | against | ratio | target |\n|---|---|---|---|---|\n";
catching_up() if $work{rate};
delay() if $work{delay};
beside_idle() if $work{idle};
beside_rebuild() if $work{rebuild};

# ---------------------------------------------------------------------------

sub connect_db
{
	return DBI->connect("dbi:Pg:dbname=postgres;host=$ENV{PGHOST}",
		$ENV{PGUSER} || 'postgres', '',
		{ AutoCommit => 1, RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoInactiveDestroy => 1 });
}

sub value
{
	my ($sql, @args) = @_;
	return ($dbh->selectrow_array($sql, undef, @args))[0];
}

sub median
{
	my @v = sort { $a <=> $b } @_;
	return @v % 2 ? $v[ $#v / 2 ] : ($v[ @v / 2 - 1 ] + $v[ @v / 2 ]) / 2;
}

# ratios are the medians of those of each repetition
sub row
{
	my ($work, $unit, $values, $against, $others, $target, $inverse) = @_;
	my @ratios = map { $inverse ? $others->[$_] / $values->[$_] : $values->[$_] / $others->[$_] } 0 .. $#$values;
	printf "| %s | %.0f %s | %s: %.0f %s | %.2f | %s |\n", $work, median(@$values), $unit,
	  $against, median(@$others), $unit, median(@ratios), $target;
	return;
}

sub setup
{
	$dbh->do('CREATE EXTENSION event_store');
	# the streams take turns, in another order each time round
	$dbh->do(qq{DO \$\$ BEGIN FOR i IN 1 .. $each LOOP
		PERFORM es_append('Account-' || s, i - 1, 'Added',
			jsonb_build_object('amount', i * s % 100, 'note', repeat('x', 100)))
		FROM (SELECT s FROM generate_series(1, $keys) s ORDER BY random()) x;
		COMMIT; END LOOP; END \$\$});
	foreach my $model (qw(model_each model_hand model_client model_set model_sql))
	{
		$dbh->do("CREATE TABLE $model (id text PRIMARY KEY, n bigint, total bigint) WITH (fillfactor = 50)");
	}
	my $upsert = sub {
		"ON CONFLICT (id) DO UPDATE SET n = $_[0].n + EXCLUDED.n, total = $_[0].total + EXCLUDED.total";
	};
	my $one = "(e.stream_id, 1, (e.data->>'amount')::bigint)";
	my $many = "stream_id, count(*), sum((data->>'amount')::bigint)";
	$dbh->do("CREATE FUNCTION on_each(e es_event) RETURNS void LANGUAGE plpgsql AS \$\$
		BEGIN INSERT INTO model_each VALUES $one " . $upsert->('model_each') . '; END $$');
	$dbh->do("CREATE PROCEDURE by_hand() LANGUAGE plpgsql AS \$\$
		DECLARE e es_event; p bigint := 0; n int; BEGIN
		LOOP
			n := 0;
			FOR e IN SELECT * FROM es_read_all(p, 1000) LOOP
				INSERT INTO model_hand VALUES $one " . $upsert->('model_hand') . ';
				p := e.global_position;
				n := n + 1;
			END LOOP;
			EXIT WHEN n = 0;
			COMMIT;
		END LOOP; END $$');
	$dbh->do("CREATE FUNCTION on_set(events es_event[]) RETURNS void LANGUAGE sql AS \$\$
		INSERT INTO model_set SELECT $many FROM unnest(events) GROUP BY 1 " . $upsert->('model_set') . ' $$');
	$dbh->do("CREATE PROCEDURE by_hand_set() LANGUAGE plpgsql AS \$\$
		DECLARE p bigint := 0; BEGIN
		LOOP
			WITH s AS MATERIALIZED (SELECT * FROM es_read_all(p, 1000)),
				 i AS (INSERT INTO model_sql SELECT $many FROM s GROUP BY 1 " . $upsert->('model_sql') . ")
			SELECT max(global_position) INTO p FROM s;
			EXIT WHEN p IS NULL;
			COMMIT;
		END LOOP; END \$\$");
	$dbh->do('CREATE TABLE client_checkpoint (position bigint)');
	$dbh->do('INSERT INTO client_checkpoint VALUES (0)');
	$dbh->do('VACUUM ANALYZE');
	$dbh->do('CHECKPOINT');
	return;
}

# Seconds that something takes, on an empty read model.
sub timed
{
	my ($model, $code) = @_;
	$dbh->do("TRUNCATE $model");
	$dbh->do('CHECKPOINT');
	my $begin = time();
	$code->();
	return time() - $begin;
}

sub by_worker
{
	my ($handler) = @_;
	$dbh->do('SELECT es_create_projection(?, ?::regprocedure, batch_size => 1000)', undef, 'bench', $handler);
	my $end = time() + 600;
	# a statement that waits holds back the pruning of what the handler updates
	until (value(q{SELECT es_wait_projection('bench', es_head(), '50 ms')}))
	{
		die "the projection hangs\n" if time() > $end;
	}
	return;
}

# As most projection hosts do it: read 100, one statement each, checkpoint.
sub by_client
{
	my $client = connect_db();
	my $read = $client->prepare('SELECT global_position, stream_id, data FROM es_read_all(?, 100)');
	my $write = $client->prepare(q{INSERT INTO model_client VALUES (?, 1, (?::jsonb->>'amount')::bigint)
		ON CONFLICT (id) DO UPDATE SET n = model_client.n + EXCLUDED.n, total = model_client.total + EXCLUDED.total});
	my $save = $client->prepare('UPDATE client_checkpoint SET position = ?');
	my ($position, $count) = (0, 0);
	while ($count < $client_events)
	{
		$client->begin_work;
		$read->execute($position);
		my $rows = $read->fetchall_arrayref;
		foreach my $row (@$rows)
		{
			$write->execute($row->[1], $row->[2]);
			$position = $row->[0];
			$count++;
		}
		$save->execute($position);
		$client->commit;
	}
	$_->finish for $read, $write, $save;
	$client->disconnect;
	return;
}

sub catching_up
{
	my %rate;
	foreach my $n (0 .. $repeat)
	{
		my %time = (
			each => timed('model_each', sub { by_worker('on_each(es_event)') }));
		$dbh->do(q{SELECT es_drop_projection('bench')});
		$time{hand} = timed('model_hand', sub { $dbh->do('CALL by_hand()') });
		$time{set} = timed('model_set', sub { by_worker('on_set(es_event[])') });
		$dbh->do(q{SELECT es_drop_projection('bench')});
		$time{sql} = timed('model_sql', sub { $dbh->do('CALL by_hand_set()') });
		$time{client} = timed('model_client', \&by_client);
		next if $n == 0;		# warms up, and starts the worker
		push @{ $rate{$_} }, ($_ eq 'client' ? $client_events : $ENV{BENCH_EVENTS}) / $time{$_}
		  for keys %time;
	}
	my $wrong = value(q{SELECT count(*) FROM model_each e FULL JOIN model_set s USING (id, n, total)
		WHERE e.id IS NULL OR s.id IS NULL});
	die "the read models differ\n" if $wrong;
	row('PL/pgSQL handler per event, worker', 'events/s', $rate{each},
		'PL/pgSQL loop by hand', $rate{hand}, '≥ 0.9');
	row('PL/pgSQL handler per event, worker', 'events/s', $rate{each},
		'client loop', $rate{client}, '≥ 10');
	row('SQL handler, sets of 1000, worker', 'events/s', $rate{set},
		'the same statement by hand', $rate{sql}, '≥ 0.9');
	return;
}

# 4 clients append 50/s each and wait until the read model has their event.
sub delay
{
	$dbh->do('TRUNCATE model_each');
	$dbh->do(q{SELECT es_create_projection('bench', 'on_each(es_event)', after_position => es_head())});
	my @pids;
	foreach my $n (1 .. 4)
	{
		my $pid = fork();
		if ($pid == 0)
		{
			my $own = connect_db();
			my $append = $own->prepare(q{SELECT global_position FROM es_append(?, es_any(), 'Added', '{"amount": 1}')});
			my $wait = $own->prepare(q{SELECT es_wait_projection('bench', ?)});
			open my $out, '>', "$dir/delay.$n" or die;
			my $next = time();
			my $end = $next + 3 * $seconds;
			while (time() < $end)
			{
				$append->execute('Account-' . (1 + int rand $keys));
				my ($position) = $append->fetchrow_array;
				my $begin = time();
				$append->finish;
				$wait->execute($position);
				$wait->fetchrow_array;
				printf $out "%.6f\n", (time() - $begin) * 1000;
				$wait->finish;
				$next += 0.02;
				sleep($next - time()) if $next > time();
			}
			close $out;
			POSIX::_exit(0);
		}
		push @pids, $pid;
	}
	waitpid $_, 0 for @pids;
	my @ms;
	foreach my $n (1 .. 4)
	{
		open my $in, '<', "$dir/delay.$n" or die;
		push @ms, map { chomp; $_ } <$in>;
		close $in;
	}
	@ms = sort { $a <=> $b } @ms;
	printf "| commit to visible, %.0f appends/s | p50 %.2f ms, p99 %.2f ms, max %.1f ms | | | p50 ≤ 2, p99 ≤ 20 |\n",
	  @ms / (3 * $seconds), $ms[ @ms / 2 ], $ms[ @ms * 0.99 ], $ms[-1];
	$dbh->do(q{SELECT es_drop_projection('bench')});
	return;
}

# Appends per second of 4 clients.
sub writers
{
	open my $script, '>', "$dir/append.sql" or die;
	print $script "\\set s random(1, $keys)\n"
	  . "SELECT * FROM es_append('Other-' || :s::text, es_any(), 'Happened', '{\"amount\": 1}');\n";
	close $script;
	my $text = `pgbench -n -M prepared -c 4 -j 1 -T $seconds -f $dir/append.sql postgres 2>/dev/null`;
	my ($tps) = $text =~ /^tps = ([0-9.]+)/m;
	return $tps;
}

sub worker_ticks
{
	my ($pid) = value(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_store projections'});
	return (0, 0) unless $pid;
	open my $stat, '<', "/proc/$pid/stat" or return ($pid, 0);
	my @fields = split ' ', (<$stat> =~ s/^.*\) //r);
	return ($pid, $fields[11] + $fields[12]);
}

sub beside_idle
{
	my (@with, @without);
	my $cpu;
	writers();
	foreach my $n (1 .. $repeat + 2)
	{
		push @without, writers();
		$dbh->do(qq{SELECT es_create_projection('idle_$_', 'on_each(es_event)', categories => '{Nothing}')}) for 1 .. 8;
		$dbh->do(q{SELECT es_append('Nothing-1', es_any(), 'Added', '{"amount": 1}')});
		value(qq{SELECT es_wait_projection('idle_$_', es_head())}) for 1 .. 8;
		if (!defined $cpu)
		{
			my ($pid, $before) = worker_ticks();
			sleep($seconds);
			my ($same, $after) = worker_ticks();
			$cpu = $pid && $pid == $same ? ($after - $before) / POSIX::sysconf(POSIX::_SC_CLK_TCK()) / $seconds * 100 : 'nan';
		}
		push @with, writers();
		$dbh->do(qq{SELECT es_drop_projection('idle_$_')}) for 1 .. 8;
	}
	row('appends beside 8 idle projections, 4 clients', '/s', \@with, 'none', \@without, '≥ 0.97');
	printf "| CPU of the worker of 8 idle projections, no appends | %.1f %% | | | not measurable |\n", $cpu;
	return;
}

sub beside_rebuild
{
	my (@with, @without);
	foreach my $n (1 .. $repeat)
	{
		push @without, writers();
		$dbh->do('TRUNCATE model_each');
		$dbh->do(q{SELECT es_create_projection('bench', 'on_each(es_event)', categories => '{Account}')});
		value(q{SELECT es_wait_projection('bench', 10000, '1 min')});
		push @with, writers();
		$dbh->do(q{SELECT es_drop_projection('bench')});
	}
	row("appends beside a rebuild of $ENV{BENCH_EVENTS} events, 4 clients", '/s', \@with, 'none', \@without, 'stated');
	return;
}
