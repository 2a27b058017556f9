# Whatever ends a call, a cancel, a timeout, an error, a termination or memory
# that is not to be had, leaves the session as it was: in autocommit the next
# statement works and is committed, inside a block the transaction is as its
# user left it, and what the session remembers is whole.
#
# First every function of the extension, with slow upcasters, reducers and
# handlers, cancelled and terminated at random moments, in autocommit, in
# PL/pgSQL that catches the error, and inside a block with and without a
# savepoint.  Then an error at every fault point, and an allocation that fails.
#
# With internal subtransactions that an error leaves open the first part finds
# 25P02, rows that were answered and never committed, and crashes at RELEASE.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use Test::More;
use Time::HiRes qw(time);

my $seconds = setting('ES_CANCEL_SECONDS', 10);
my $allocations = setting('ES_CANCEL_ALLOCATIONS', 25);    # that fail, of each call
my $victims = 4;

my $libdir = $ENV{ES_FAULTS_LIBDIR};
ok($libdir && -e "$libdir/event_store.so",
	'ES_FAULTS_LIBDIR names the folder of the library with fault points')
  or BAIL_OUT('build with FAULTS=1 and set ES_FAULTS_LIBDIR');

seed_random();

my @functions;    # [ name, returns nothing that rows are made of, [ argument, type, optional ]... ]

random_cancels();
fault_points();
# a sanitizer's allocations are its own
allocations() unless setting('ES_SANITIZER', 0);
done_testing();

# ---------------------------------------------------------------------------
# Stores

# Tables and slow functions of the test, and something for them to work on.
sub fill_store
{
	my ($dbh, $ms) = @_;
	run_sql($dbh, split(/;;\n/, <<"END"));
CREATE TABLE kept (who text, n int, PRIMARY KEY (who, n));;
CREATE TABLE seen (position bigint);;
CREATE ROLE cancel_role;;
CREATE FUNCTION slow(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS
\$\$ BEGIN PERFORM pg_sleep($ms * random() / 1000); RETURN data || '{"up": true}'; END \$\$;;
CREATE FUNCTION fold(state jsonb, e es_event) RETURNS jsonb LANGUAGE plpgsql AS
\$\$ BEGIN PERFORM pg_sleep($ms * random() / 1000);
RETURN jsonb_build_object('n', coalesce((state->>'n')::int, 0) + 1); END \$\$;;
CREATE FUNCTION apply(e es_event) RETURNS void LANGUAGE plpgsql AS
\$\$ BEGIN PERFORM pg_sleep($ms * random() / 1000);
INSERT INTO seen VALUES (e.global_position); END \$\$;;
CREATE FUNCTION start_over() RETURNS void LANGUAGE sql AS \$\$ DELETE FROM seen \$\$;;
SELECT es_append('Cancel-' || i, es_any(), CASE WHEN j % 2 = 0 THEN 'Was' ELSE 'Is' END, '{}')
FROM generate_series(1, 10) i, generate_series(1, 10) j;;
SELECT es_define_upcaster('Was', 1, 'slow(jsonb)');;
SELECT es_define_aggregate('Cancel', 'fold(jsonb, es_event)', snapshot_every => 1);;
SELECT es_create_subscription('group', slots => 8), es_create_subscription('alone');;
SELECT es_create_projection('keep', 'apply(es_event)', batch_size => 5,
	reset_handler => 'start_over()', paused => true)
END
	return;
}

sub load_functions
{
	my ($dbh) = @_;
	@functions = ();
	my $rows = $dbh->selectall_arrayref(
		q{SELECT p.oid, n.nspname || '.' || p.proname, p.pronargs - p.pronargdefaults
		  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
		  JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::regclass
			AND d.objid = p.oid AND d.deptype = 'e'
		  JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid AND e.extname = 'event_store'
		  WHERE p.prorettype NOT IN ('trigger'::regtype, 'internal'::regtype,
									 'event_trigger'::regtype)
		  ORDER BY 2, 1});
	foreach my $row (@$rows)
	{
		my ($oid, $name, $needed) = @$row;
		my $arguments = $dbh->selectall_arrayref(
			q{SELECT coalesce(p.proargnames[i], 'arg' || i), t::regtype::text
			  FROM pg_catalog.pg_proc p,
				   unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a(t, i)
			  WHERE p.oid = ? ORDER BY i}, undef, $oid);
		my $i = 0;
		push @functions, [ $name, map { [ @$_, ++$i > $needed ] } @$arguments ];
	}
	return;
}

sub any
{
	return $_[ int(rand(@_)) ];
}

# A value for an argument of a function: by its name, else by its type.
sub value_of
{
	my ($function, $name, $type) = @_;
	my $spare = $function =~ /create|drop|define|prepare|switch/;
	return any(q{'slow(jsonb)'}) if $name eq 'upcaster';
	return q{'fold(jsonb,es_event)'} if $name eq 'reducer';
	return q{'apply(es_event)'} if $name eq 'handler';
	return q{'start_over()'} if $type eq 'regprocedure';
	return any(q{'{Cancel}'}, 'NULL') if $name eq 'categories';
	return any(q{'{Is}'}, q{'{Was,Is}'}, q{'{Was}'}) if $name eq 'event_types';
	return any('es_any()', 'es_any()', '3') if $name eq 'expected_version';
	return any(q{'1 ms'}, q{'20 ms'}) if $name =~ /^(?:wait|timeout)$/;
	return any(q{'1 hour'}, q{'50 ms'}) if $type eq 'interval';
	return q{'cancel_role'} if $name eq 'role';
	return any(q{'reader'}, q{'writer'}) if $name eq 'kind';
	return any(map { qq{'m$_'} } 1 .. 4) if $name eq 'member';
	return $spare ? q{'Spare'} : q{'Cancel'} if $name eq 'category';
	return $spare ? q{'Spare'} : any(q{'Was'}, q{'Is'}) if $name eq 'event_type';
	return qq{'Cancel-} . random_int(1, 12) . q{'} if $name eq 'stream_id';

	if ($name eq 'name')
	{
		return $spare ? q{'spare'} : any(q{'keep'}, q{'keep'}, q{'spare'})
		  if $function =~ /projection|rebuild/;
		return $spare ? q{'spare'} : any(q{'group'}, q{'group'}, q{'alone'}, q{'spare'});
	}
	return any(q{'[{"event_type": "Was"}]'}, q{'[{"event_type": "Is", "data": {"n": 1}}]'})
	  if $name eq 'events';
	return q{'[{"stream_id": "Cancel-1", "expected_version": -100, "events":}
	  . q{[{"event_type": "Is"}]}, {"stream_id": "Cancel-2", "expected_version": -100,}
	  . q{"events": [{"event_type": "Was"}]}]'}
	  if $name eq 'appends';
	return q{'{Was,Is}'} if $type eq 'text[]';
	return q{ARRAY['{}', '{}']::jsonb[]} if $type eq 'jsonb[]';
	return q{'{}'} if $type eq 'jsonb';
	return q{gen_random_uuid()} if $type eq 'uuid';
	return any('true', 'false') if $type eq 'boolean';
	return any(0, 1, 2, 5, 50, 'es_head()') if $type eq 'bigint';
	return random_int(1, 8) if $type eq 'integer';
	return q{'stop'} if $name eq 'policy';
	return q{$$SELECT 'Imported-' || g % 3 AS stream_id, 'Is' AS event_type, jsonb_build_object('n', pg_sleep(0.0001)::text) AS data
				FROM generate_series(1, 600) g$$} if $name eq 'query' && $type eq 'text';
	return q{'a reason'} if $type eq 'text';
	return "NULL::$type";
}

# A call of a function of the extension, as a FROM item.
sub any_call
{
	# these are what most of the time goes to
	return any(
		q{es_import('SELECT ''Cancel-1'' AS stream_id, ''Was'' AS event_type, ''{}''::jsonb AS data')},
		q{es_check_upcasters(NULL)},
		q{es_state('Cancel-} . random_int(1, 10) . q{')},
		q{es_fetch('group', 3, member => 'm} . random_int(1, 4) . q{')},
		q{es_join('group', 'm} . random_int(1, 4) . q{')},
		q{es_leave('group', 'm} . random_int(1, 4) . q{')},
		q{es_run_projection('keep')},
		q{es_read_all(0, 1000)},
		q{es_append('Cancel-} . random_int(1, 10) . q{', es_any(), 'Was', '{}')})
	  if rand() < 0.5;
	my ($name, @arguments) = @{ any(@functions) };
	my @given;
	foreach my $argument (@arguments)
	{
		my ($argument_name, $type, $optional) = @$argument;
		next if $optional && rand() < 0.6;
		my $value = value_of($name, $argument_name, $type);
		push @given, $argument_name =~ /^arg\d/ ? $value : "$argument_name => $value";
	}
	return "$name(" . join(', ', @given) . ')';
}

# ---------------------------------------------------------------------------
# Cancels and terminations at random moments

sub random_cancels
{
	my $node = store_cluster('cancel', preload => 'event_store',
		conf => "event_store.max_projection_workers = 0\n");
	create_store($node);
	my $admin = connect_store($node);
	fill_store($admin, 2);
	load_functions($admin);
	cmp_ok(scalar(@functions), '>', 50, 'functions of the extension: ' . @functions);

	new_flags();
	start_client("victim$_", victim($node, $_)) for 1 .. $victims;
	start_client('killer', killer($node));
	my $result = wait_clients(limit => $seconds + 120, test => 'cancels: no client failed');

	my %count;
	foreach my $name (grep { /victim/ } sort keys %$result)
	{
		my $victim = $result->{$name};
		is_deeply($victim->{faults} || [], [], "$name: its session was always as it had left it");
		my %there = map { $_->[0] => 1 } @{
			$admin->selectall_arrayref('SELECT n FROM kept WHERE who = ?', undef, $name) };
		my @lost = grep { !$there{$_} } @{ $victim->{kept} || [] };
		my @back = grep { $there{$_} } @{ $victim->{undone} || [] };
		is(scalar(@lost), 0, "$name: rows that were answered are there")
		  or diag "lost: @lost[0 .. ($#lost < 9 ? $#lost : 9)]";
		is(scalar(@back), 0, "$name: rows that were rolled back are not")
		  or diag "there: @back[0 .. ($#back < 9 ? $#back : 9)]";
		$count{$_} += $victim->{count}{$_} for keys %{ $victim->{count} || {} };
	}
	note join(', ', map { "$_ $count{$_}" } sort keys %count);
	cmp_ok($count{57014} || 0, '>', 20, 'calls were cancelled');
	cmp_ok($count{terminated} || 0, '>', 0, 'sessions were terminated');
	is(lock_leftovers($admin), '', 'no lock is left');
	log_is_clean($node);
	$admin->disconnect;
	$node->stop;
	return;
}

# The server has met nothing that was not given back, and no crash.
sub log_is_clean
{
	my ($node) = @_;
	open my $log, '<', $node->logfile or die "log: $!";
	# a worker that has the installed library cannot load the fault build as well
	my @bad = grep { /PANIC:|terminated by signal|leak: |not closed|still active|still referenced|XX000/
		  && !/attempt to redefine parameter/ } <$log>;
	close $log;
	is(join('', @bad[0 .. ($#bad < 9 ? $#bad : 9)]), '', 'the log tells of no leak, no crash');
	return;
}

sub killer
{
	my ($node) = @_;
	return sub {
		my $dbh = connect_store($node, app => 'killer');
		my $until = time() + $seconds;
		while (time() < $until)
		{
			my $what = rand() < 0.03 ? 'pg_terminate_backend' : 'pg_cancel_backend';
			my $n = $what =~ /terminate/ ? 1 : 3;
			$dbh->do(qq{SELECT $what(pid) FROM (SELECT pid FROM pg_catalog.pg_stat_activity
				WHERE application_name = 'victim' AND state = 'active'
				ORDER BY random() LIMIT $n) v});
			random_pause(12);
		}
		return {};
	};
}

sub victim
{
	my ($node, $number) = @_;
	return sub {
		my %result = (kept => [], undone => [], faults => [], count => {});
		my $who = "victim$number";
		my $until = time() + $seconds;
		my $n = 0;
		my $dbh;

		# SQLSTATE of a statement; lost sessions and impossible states are noted
		my $run = sub {
			my ($sql, $about) = @_;
			my $state = sqlstate($dbh, $sql);
			return $state if $state eq '00000';
			if ($state eq '57P01' || $state eq '08006' || $state !~ /^[0-9A-Z]{5}$/
				|| $state eq 'XXXXX' || connection_lost($dbh))
			{
				$result{count}{terminated}++;
				eval { $dbh->disconnect };
				undef $dbh;
				return 'lost';
			}
			push @{ $result{faults} }, "$state in $sql after $about: " . ($dbh->errstr || '')
			  if $state =~ /^(?:25P02|25001|25P01|XX)/ && @{ $result{faults} } < 10;
			return $state;
		};
		# the same until it is not cancelled
		my $insist = sub {
			my ($sql, $about) = @_;
			my $state;
			do { $state = $run->($sql, $about) } while $state eq '57014';
			return $state;
		};

		while (time() < $until)
		{
			last if @{ $result{faults} } >= 10;
			if (!$dbh)
			{
				$dbh = connect_store($node, app => 'victim', fail_ok => 1) or next;
				eval { $dbh->do(q{SET client_min_messages = error}); 1 } or undef $dbh;
				next;
			}
			my $call = any_call();
			my $timeout = rand() < 0.4 ? random_int(1, 20) : 0;
			my $mode = any(qw(plain plain caught block savepoint));
			my $select = "SELECT count(*) FROM $call q";
			my $caught = "DO \$do\$ BEGIN PERFORM q FROM $call q; "
			  . 'EXCEPTION WHEN query_canceled OR OTHERS THEN NULL; END $do$';
			my $insert = "INSERT INTO kept VALUES ('$who', %d)";
			my $first = ++$n;
			my $second = ++$n;
			my $state;

			next if $insist->("SET statement_timeout = $timeout", 'nothing') ne '00000';
			if ($mode eq 'plain' || $mode eq 'caught')
			{
				$state = $run->($mode eq 'plain' ? $select : $caught, $call);
				$result{count}{$state}++ if $state ne 'lost';
				next if $state eq 'lost';
				next if $insist->('RESET statement_timeout', $call) ne '00000';
				next if $insist->('SELECT 1', $call) ne '00000';

				# a row that is answered is committed, and by itself
				$state = $insist->(sprintf($insert, $first), $call);
				push @{ $result{kept} }, $first if $state eq '00000';
				next if $state ne '00000';
				$state = $insist->('SELECT 1 / (pg_current_xact_id_if_assigned() IS NULL)::int',
					$call);
				push @{ $result{faults} }, "$mode $call has left a transaction open"
				  if $state eq '22012';
				next;
			}

			# inside a block, with an error that is caught
			my $commit = rand() < 0.7;
			my @steps = ('BEGIN', sprintf($insert, $first));
			push @steps, 'SAVEPOINT s' if $mode eq 'savepoint';
			push @steps, $caught;
			push @steps, 'RELEASE s' if $mode eq 'savepoint';
			push @steps, sprintf($insert, $second), $commit ? 'COMMIT' : 'ROLLBACK';
			foreach my $step (@steps)
			{
				$state = $run->($step, $call);
				$result{count}{$state}++ if $step eq $caught && $state ne 'lost';
				last if $state ne '00000';
			}
			if ($state eq '00000')
			{
				push @{ $result{ $commit ? 'kept' : 'undone' } }, $first, $second;
			}
			elsif ($state ne 'lost')
			{
				# the step itself was cancelled; a COMMIT may have got through
				$insist->('ROLLBACK', $call);
			}
		}
		return \%result;
	};
}

# ---------------------------------------------------------------------------
# An error at every fault point

# Calls that pass all points, in a session that has looked nothing up.
sub all_calls
{
	my ($n) = @_;
	return (
		qq{es_append('Cancel-$n', es_any(), 'Was', '{}')},
		qq{es_append_batch('Fresh-$n', es_any(), '{Was,Is}', ARRAY['{}', '{}']::jsonb[])},
		q{es_import('SELECT ''Cancel-1'' AS stream_id, ''Was'' AS event_type, ''{}''::jsonb AS data')},
		q{es_check_upcasters(NULL)},
		q{es_state('Cancel-1')},
		qq{es_fetch('group', 2, member => 'n$n')},
		q{es_fetch('alone', 2)},
		q{es_run_projection('keep')});
}

# A session in which nothing is remembered, with the settings of the faults.
sub fresh_session
{
	my ($node) = @_;
	my $dbh = connect_store($node, plain => 1);
	# without plpgsql's first steps, which do not survive every failed allocation
	run_sql($dbh, "LOAD '$libdir/event_store'", q{LOAD 'plpgsql'}, 'SET client_min_messages = error');
	return $dbh;
}

# The session goes on, and the call that has failed works in it.
sub check_session
{
	my ($dbh, $admin, $n, $title, $call) = @_;
	my @bad;
	push @bad, "SELECT 1: " . $dbh->errstr if sqlstate($dbh, 'SELECT 1') ne '00000';
	push @bad, 'INSERT: ' . $dbh->errstr
	  if sqlstate($dbh, "INSERT INTO kept VALUES ('fault', $n)") ne '00000';
	push @bad, 'the row is not committed'
	  if !sql_value($admin, "SELECT count(*) FROM kept WHERE who = 'fault' AND n = $n");
	push @bad, "the call again: " . $dbh->errstr
	  if sqlstate($dbh, "SELECT count(*) FROM $call q") ne '00000';
	return map { "$title, $call: $_" } @bad;
}

# What each call needs to pass all its points again.
sub refresh_store
{
	my ($dbh) = @_;
	run_sql($dbh, q{SELECT es_drop_snapshots('Cancel-1')},
		q{SELECT es_append('Cancel-1', es_any(), 'Is', '{}')},
		q{SELECT es_reset_subscription('group'), es_reset_subscription('alone')});
	return;
}

sub fault_points
{
	my $node = store_cluster('points', conf => "event_store.max_projection_workers = 0\n");
	create_store($node);
	use_fault_build($node);
	my $admin = connect_store($node);
	fill_store($admin, 0);

	my %points;
	foreach my $file (glob "$FindBin::Bin/../../src/*/*.c")
	{
		open my $source, '<', $file or die "$file: $!";
		while (<$source>)
		{
			# after the commit record no error can come any more, only a pause; for one in
			# the queue see 017, for those of workers 010
			$points{$1} = 1 if /ES_FAULT_POINT\("(\w+)"\)/ && $1 !~ /^(?:commit_|worker_|queued$)/;
		}
		close $source;
	}
	cmp_ok(scalar(keys %points), '>', 8, 'fault points: ' . join(' ', sort keys %points));

	my $n = 0;
	foreach my $point (sort keys %points)
	{
		my $reached = 0;
		my @bad;
		foreach my $action ('error', 'error=57014', 'error=53200', 'fatal')
		{
			foreach my $call (all_calls(++$n))
			{
				foreach my $mode (qw(plain caught))
				{
					my $title = "$point:$action, $mode";
					my $dbh = fresh_session($node);
					my $sql = $mode eq 'plain' ? "SELECT count(*) FROM $call q"
					  : "DO \$do\$ BEGIN PERFORM q FROM $call q; EXCEPTION "
					  . "WHEN query_canceled OR OTHERS THEN "
					  . "IF SQLERRM LIKE '%fault point%' THEN RAISE SQLSTATE 'ZZ999'; END IF; "
					  . 'END $do$';
					# the error is caught once more, so that all goes on after it
					$sql = "DO \$out\$ BEGIN EXECUTE \$sql\$$sql\$sql\$; "
					  . "EXCEPTION WHEN SQLSTATE 'ZZ999' THEN "
					  . "INSERT INTO kept VALUES ('reached', nextval('reached')); END \$out\$"
					  if $mode eq 'caught';
					my $before = reached($admin);
					refresh_store($admin);
					$dbh->do("SET event_store.fault = '$point:$action'");
					my $state = sqlstate($dbh, $sql);
					my $message = $dbh->errstr || '';
					my $hit = $message =~ /fault point "$point"/
					  || ($mode eq 'caught' && reached($admin) > $before);
					$reached++ if $hit;
					if ($action eq 'fatal' && $state ne '00000')
					{
						# a new session, no lock left
						push @bad, "$title, $call: locks " . lock_leftovers($admin)
						  if lock_leftovers($admin) ne '';
						eval { $dbh->disconnect };
						next;
					}
					if (sqlstate($dbh, 'RESET event_store.fault') ne '00000')
					{
						push @bad, "$title, $call: RESET: " . $dbh->errstr;
						$dbh->do('ROLLBACK');
						$dbh->do('RESET event_store.fault');
					}
					push @bad, check_session($dbh, $admin, ++$n, $title, $call);
					$dbh->disconnect;
				}
			}
		}
		cmp_ok($reached, '>', 0, "$point: reached $reached times");
		is_deeply(\@bad, [], "$point: every session went on");
	}
	is(lock_leftovers($admin), '', 'no lock is left');
	$admin->disconnect;
	$node->stop;
	return;
}

sub reached
{
	my ($dbh) = @_;
	$dbh->do('CREATE SEQUENCE IF NOT EXISTS reached');
	return sql_value($dbh, "SELECT count(*) FROM kept WHERE who = 'reached'");
}

# ---------------------------------------------------------------------------
# An allocation that fails

sub allocations
{
	my $node = store_cluster('memory', no_start => 1,
		conf => "event_store.max_projection_workers = 0\njit = off\n");
	my $library = $node->basedir . "/es_malloc.so";
	is(run_program('cc', '-shared', '-fPIC', '-O', '-o', $library,
			"$FindBin::Bin/../malloc.c"), 0, 'the library that lets allocations fail is built');
	$node->start;
	create_store($node);
	use_fault_build($node);
	$node->stop;
	{
		local $ENV{LD_PRELOAD} = $library;
		$node->start;
	}
	my $admin = connect_store($node);
	fill_store($admin, 0);
	$admin->do('SET client_min_messages = error');

	my $n = 0;
	my @titles = all_calls(0);
	foreach my $i (0 .. $#titles)
	{
		my (@bad, $total, %failed);
		for my $round (0 .. $allocations)
		{
			my $call = (all_calls(++$n))[$i];
			my $nth = $round == 0 ? 1_000_000 : random_int(1, $total);
			my $dbh = fresh_session($node);
			refresh_store($admin);
			# PostgreSQL 18 does not survive it where memory ends between the
			# first allocations of its own cache of types
			$dbh->do('SELECT ARRAY[1] = ARRAY[1]');
			$dbh->do("SET event_store.fault_malloc = $nth");
			my $state = sqlstate($dbh, "SELECT count(*) FROM $call q");
			if ($round == 0)
			{
				$total = $nth - sql_value($dbh, 'SHOW event_store.fault_malloc');
				push @bad, "without a fault: $state" if $state ne '00000';
			}
			else
			{
				$failed{$state}++;
				# PostgreSQL ends a session that has no memory to begin a subtransaction
				if (($dbh->errstr || '') =~ /^FATAL:  out of memory/)
				{
					$dbh->disconnect;
					next;
				}
				push @bad, "allocation $nth, $call: $state " . ($dbh->errstr || '')
				  if $state !~ /^(?:00000|53200|VE006)$/;
			}
			# it may hit this one
			sqlstate($dbh, 'SET event_store.fault_malloc = 0') for 1 .. 2;
			push @bad, check_session($dbh, $admin, $n, "allocation $nth of $total", $call);
			$dbh->disconnect;
		}
		is_deeply(\@bad, [], "$titles[$i]: every session went on, of $total allocations "
			  . join(', ', map { "$_ $failed{$_}" } sort keys %failed));
	}
	is(lock_leftovers($admin), '', 'no lock is left');
	log_is_clean($node);
	$admin->disconnect;
	$node->stop;
	return;
}
