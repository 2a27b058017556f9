# Thousands of calls that nobody should make (EventStoreTest::Malformed): every
# function, with arguments that are wrong, null, extreme, huge, of another type
# or evil, from every role, in every kind of transaction, under any settings.
#
# Whatever comes, the server and the session live on; an error has a SQLSTATE
# of the contract, or one that PostgreSQL itself gives to what cannot be an
# argument; and after an error everything is as it was before.
#
# The checker is tried out first, on functions that do what ours must not: an
# internal error, a change of state under an error, a setting that stays.
#
# The million: ES_MALFORMED_CALLS=1000000 ("make check-malformed").

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Malformed
  qw(fill_malformed load_calls any_call any_setting any_of forget_settings);
use Test::More;

my $calls = setting('ES_MALFORMED_CALLS', 6000);
my $clients = setting('ES_MALFORMED_CLIENTS', 2);
my $round = 5000;    # calls in one database; then a new one, so that it stays small
my $prepared = 0;

# 1. the contract; 2. PostgreSQL: what is no argument (not of the type, no such
# call, a row too many), what the transaction or the settings do not allow
my $contract = qr/^(?:VE00[1-7]|22004|22023|54000|42704|42710|42501|55000|55006|25001)$/;
my $postgres = qr/^(?:22009|22015|22P02|22P05|22003|22007|22008|22021|22030|42883|42725|42804|42846|42809|42601|42703|42P01|42P13
	|42P18|42P22|42602|0A000|21000|54001|54011|54023|2202E|22000|53400|39P01
	|25006|25P01|40001|57014|55P03)$/x;

# es_import's and message-db's queries and conditions are the caller's own
my $query = qr/^(?:42...|22...|0A000|2D000|25P01|P0001|21000|3F000|23...)$/;

# What of a session a call must leave as it is.
my $session_query = q{SELECT pg_catalog.concat_ws(' ', current_user, session_user, current_setting('search_path'),
	current_setting('role'), current_setting('row_security'), current_setting('transaction_isolation'))};

seed_random();
my $node = store_cluster('malformed', conf => "event_store.max_projection_workers = 0\n"
	  . "fsync = off\nautovacuum = off\nlog_error_verbosity = default\n");
my $admin = connect_store($node, plain => 1);
run_sql($admin, map { "CREATE ROLE malformed_$_" } qw(reader writer monitor admin nobody));
$admin->do('CREATE DATABASE store_template');
$admin->disconnect;
prepare_template();
checker_notices();

new_flags();
start_client("client$_", client($_)) for 1 .. $clients;
my $result = wait_clients(limit => $calls / 20 + 300, test => 'no client failed');

my (%count, %reached);
foreach my $name (sort keys %$result)
{
	my $client = $result->{$name};
	is(join("\n", @{ $client->{faults} || [] }), '', "$name: no call did what it must not");
	$count{$_} += $client->{count}{$_} for keys %{ $client->{count} || {} };
	$reached{$_} += $client->{reached}{$_} for keys %{ $client->{reached} || {} };
}
my $made = 0;
$made += $_ for values %count;
cmp_ok($made, '>=', $calls, "$made calls");
note join(', ', map { "$_ $count{$_}" } sort { $count{$b} <=> $count{$a} } keys %count);
cmp_ok($count{'00000'} || 0, '>', $made / 50, 'some were no nonsense after all');
my @wanted = (qw(VE001 VE003 VE006 22004 22023 42704 42501), $made < 50_000 ? () : qw(VE002 VE004 VE007 54000 42710 55000 25001));
my @never = grep { !$count{$_} } @wanted;
is("@never", '', 'the conditions of the contract were met') if $made >= 5000;
is(log_of_faults(), '', 'the log tells of no leak, no crash, no internal error');
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub prepare_template
{
	$node->safe_psql('store_template', 'CREATE EXTENSION event_store');
	my $dbh = connect_store($node, db => 'store_template');
	fill_malformed($dbh);
	cmp_ok(load_calls($dbh), '>', 80, 'functions of the extensions');
	$dbh->do("SELECT es_grant('malformed_$_', '$_')") for qw(reader writer monitor admin);
	$dbh->do("GRANT ALL ON kept, model TO PUBLIC");
	$dbh->disconnect;
	# its worker must be gone before it can be copied
	my $postgres = connect_store($node, plain => 1);
	$postgres->do('ALTER DATABASE store_template ALLOW_CONNECTIONS false');
	$postgres->do(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'store_template'});
	ok( poll_until(
			sub { !sql_value($postgres, q{SELECT count(*) FROM pg_stat_activity WHERE datname = 'store_template'}) },
			180),
		'the template is at rest');
	$postgres->disconnect;
	return;
}

# The end of a transaction or savepoint; when statement_timeout comes before it,
# on a busy machine, the transaction is still there.
sub finish
{
	my ($dbh, $sql) = @_;
	my $state = sqlstate($dbh, $sql);
	$state = sqlstate($dbh, 'ROLLBACK') while $state eq '57014';
	return $state;
}

# Everything that a call could change, in one value; positions that were drawn
# and not used are no state.
sub digest_query
{
	my ($dbh) = @_;
	my $tables = $dbh->selectcol_arrayref(
		q{SELECT c.oid::regclass::text FROM pg_class c
		  WHERE c.relkind = 'r' AND (c.relnamespace = 'event_store'::regnamespace OR c.oid = 'public.model'::regclass)
		  ORDER BY 1});
	return 'SELECT ' . join(" || ' ' || ",
		(map { "(SELECT coalesce(sum(hashtextextended(t::text, 0)), 0) FROM $_ t)" } @$tables),
		q{(SELECT coalesce(sum(hashtextextended(p.proacl::text, 0)), 0) FROM pg_proc p)},
		q{(SELECT count(*) FROM pg_class)}, q{(SELECT count(*) FROM pg_trigger)});
}

# A session on a database of its own; options: db.
sub open_session
{
	my ($db) = @_;
	my $dbh = connect_store($node, db => $db, plain => 1);
	run_sql($dbh, forget_settings(), 'SELECT 1 FROM public.es_head()');
	return { dbh => $dbh, watch => connect_store($node, db => $db), digest_query => digest_query($dbh) };
}

sub close_session
{
	my ($session) = @_;
	eval { $_->disconnect } for $session->{dbh}, $session->{watch};
	return;
}

sub digest
{
	my ($session) = @_;
	return sql_value($session->{watch}, $session->{digest_query});
}

# Make a call, in one of the ways in which calls are made; returns its SQLSTATE
# and what is wrong with it.
sub try_call
{
	my ($session, $call) = @_;
	my $dbh = $session->{dbh};
	my $way = $session->{way} || any_of(qw(plain plain plain block savepoint rollback read_only repeatable serializable cursor prepared));
	my %begin = (read_only => 'BEGIN READ ONLY', repeatable => 'BEGIN ISOLATION LEVEL REPEATABLE READ',
		serializable => 'BEGIN ISOLATION LEVEL SERIALIZABLE');
	my (@before, @after);
	my $statement = $call;

	@before = ($begin{$way} || 'BEGIN') if $way !~ /^(?:plain|prepared)$/;
	push @before, 'INSERT INTO public.kept SELECT coalesce(max(n), 0) + 1 FROM public.kept', 'SAVEPOINT s'
	  if $way eq 'savepoint';
	$statement = "DECLARE c SCROLL CURSOR FOR $call" if $way eq 'cursor' && $call =~ /^SELECT/;
	push @after, 'FETCH 2 FROM c', 'FETCH BACKWARD 1 FROM c', 'MOVE 1000 FROM c', 'CLOSE c'
	  if $statement =~ /^DECLARE/;
	if ($way eq 'prepared' && $call =~ /^SELECT/)
	{
		my $name = 'p' . ++$prepared;
		$statement = "PREPARE $name AS $call";
		@after = ("EXECUTE $name", "EXECUTE $name");
	}

	foreach my $sql (@before)
	{
		my $state = sqlstate($dbh, $sql);
		die "$sql\n" if $state eq '57014';
		return ($state, "$way: $sql: $state " . ($dbh->errstr || '')) if $state ne '00000';
	}
	my $known = sql_value($dbh, $session_query);
	my $state = sqlstate($dbh, $statement);
	my $message = $dbh->errstr || '';
	foreach my $sql (@after)
	{
		last if $state ne '00000';
		$state = sqlstate($dbh, $sql);
		$message = $dbh->errstr || '';
	}
	return ($state, "$way: the session is lost: $message") if !eval { $dbh->ping };

	my @wrong;
	# where there is a line, the parser has refused the call itself
	my $allowed = $state =~ $contract || $state =~ $postgres || $state eq '00000'
	  || ($message =~ /\nLINE \d+: / && $message !~ /\nQUERY: / && $state !~ /^XX/)
	  || ($call =~ /es_import|message_store/ && $state =~ $query)
	  # a view is locked with all that it reads, catalogs that other clients use
	  || ($call =~ /^LOCK TABLE/ && $state eq '40P01');
	push @wrong, "SQLSTATE $state: $message" unless $allowed;
	if ($way eq 'savepoint')
	{
		my $end = finish($dbh, $state eq '00000' && rand() < 0.5 ? 'RELEASE s' : 'ROLLBACK TO s');
		push @wrong, "the savepoint: $end " . ($dbh->errstr || '') if $end ne '00000';
		my $commit = finish($dbh, 'COMMIT');
		push @wrong, "COMMIT: $commit " . ($dbh->errstr || '') if $commit !~ /^(?:00000|VE007|40001)$/;
		# the row before the call is there, and it alone
		$session->{digest} = undef if $state eq '00000';
	}
	elsif ($way !~ /^(?:plain|prepared)$/)
	{
		finish($dbh, $state eq '00000' && $way eq 'block' ? 'COMMIT' : 'ROLLBACK');
	}
	my $now = sql_value($dbh, $session_query);
	push @wrong, "the session was '$known' and is '$now'"
	  if $way !~ /^(?:repeatable|serializable)$/ && $now ne $known;

	# what worked may have changed something
	if ($way eq 'prepared' || ($state eq '00000' && $way =~ /^(?:plain|block|savepoint)$/))
	{
		$session->{digest} = undef;
	}
	elsif (rand() < 0.1 || $session->{way})
	{
		my $digest = digest($session);
		push @wrong, "something has changed, SQLSTATE $state"
		  if defined $session->{digest} && $digest ne $session->{digest};
		$session->{digest} = $digest;
	}
	return ($state, @wrong ? "$way: " . join('; ', @wrong) : undef);
}

sub client
{
	my ($number) = @_;
	return sub {
		my (%count, @faults);
		my $last = '';
		my $left = int($calls / $clients) + 1;
		my $postgres = connect_store($node, plain => 1);
		my $n = 0;
		while ($left > 0 && @faults < 10)
		{
			my $db = "store_${number}_" . ++$n;
			$postgres->do("CREATE DATABASE $db TEMPLATE store_template");
			$postgres->do("ALTER DATABASE $db ALLOW_CONNECTIONS true");
			my $session = open_session($db);
			my $this_round = $left < $round ? $left : $round;
			for my $i (1 .. $this_round)
			{
				if ($i % 200 == 0 || !$session->{dbh}->ping)
				{
					close_session($session);
					$session = open_session($db);
				}
				run_sql($session->{dbh}, forget_settings()) if rand() < 0.05;
				sqlstate($session->{dbh}, any_setting()) if rand() < 0.02;
				sqlstate($session->{dbh}, 'SET ROLE malformed_' . any_of(qw(reader writer monitor admin nobody)))
				  if rand() < 0.01;
				my $call = any_call();
				my ($state, $wrong) = eval { try_call($session, $call) };
				if ($@)
				{
					# statement_timeout may hit what is asked beside the call
					($state, $wrong) = $session->{dbh}->state eq '57014' ? ('57014') : ('lost', "after $last: $@");
					close_session($session);
					$session = open_session($db);
				}
				$count{$state}++;
				$last = substr($call, 0, 1500);
				next unless $wrong;
				push @faults, "$wrong, in $last";
				last if @faults >= 10;
			}
			$left -= $this_round;
			close_session($session);
			$postgres->do("ALTER DATABASE $db ALLOW_CONNECTIONS false");
			eval { $postgres->do("DROP DATABASE $db WITH (FORCE)") } or push @faults, "DROP DATABASE: $@";
		}
		$postgres->disconnect;
		return { count => \%count, faults => \@faults };
	};
}

# What the log says that it must not; the control's and the evil functions' own
# internal errors are wrapped or named.
sub log_of_faults
{
	open my $log, '<', $node->logfile or die "log: $!";
	my @bad = grep {
		/PANIC:|terminated by signal|leak: |not closed|still active|still referenced|problem in alloc set|WARNING:  (?:snapshot|relcache|buffer|resource)/
	} <$log>;
	close $log;
	return join('', @bad[ 0 .. ($#bad < 9 ? $#bad : 9) ]);
}

sub checker_notices
{
	my $postgres = connect_store($node, plain => 1);
	run_sql($postgres, 'CREATE DATABASE control TEMPLATE store_template', 'ALTER DATABASE control ALLOW_CONNECTIONS true');
	my $session = open_session('control');
	run_sql(
		$session->{dbh},
		'CREATE EXTENSION dblink',
		q{CREATE FUNCTION bad_state() RETURNS void LANGUAGE plpgsql AS
			$$ BEGIN RAISE 'internal' USING ERRCODE = 'XX000'; END $$},
		q{CREATE FUNCTION bad_setting() RETURNS void LANGUAGE sql AS
			$$ SELECT set_config('search_path', 'nowhere', false) $$},
		q{CREATE FUNCTION bad_change() RETURNS void LANGUAGE plpgsql AS
			$$ BEGIN PERFORM dblink_exec('dbname=control port=' || current_setting('port') || ' host=' ||
				split_part(current_setting('unix_socket_directories'), ',', 1), 'INSERT INTO public.model VALUES (0)');
			RAISE 'changed' USING ERRCODE = '22023'; END $$},
		q{CREATE FUNCTION bad_exit() RETURNS boolean LANGUAGE sql AS
			$$ SELECT pg_terminate_backend(pg_backend_pid()) $$});
	$session->{way} = 'plain';
	$session->{digest} = digest($session);
	my ($state, $wrong) = try_call($session, q{SELECT public.es_append('Order-1', NULL, 'T', '{}')});
	is($state, '22004', 'control: a call that is refused');
	is($wrong, undef, 'control: and nothing is wrong with it');
	foreach my $case (
		[ bad_state => qr/SQLSTATE XX000/ ],
		[ bad_change => qr/something has changed/ ],
		[ bad_setting => qr/the session was/ ],
		[ bad_exit => qr/the session is lost/ ])
	{
		(undef, $wrong) = try_call($session, "SELECT public.$case->[0]()");
		like($wrong // '', $case->[1], "control: $case->[0] is noticed");
	}
	close_session($session);
	$postgres->do('DROP DATABASE control WITH (FORCE)');
	$postgres->disconnect;
	return;
}
