# Crowds of consumers for the tests of subscriptions: processes that are killed
# at any moment and started again, what they handled, and its judgement.
#
# Each consumer is a process of its own below a supervisor, so that killing it
# looks to the server like a client that is gone.

package EventStoreTest::Consumers;

use strict;
use warnings;

use EventStoreTest;
use Exporter 'import';
use POSIX ();
use Time::HiRes qw(time);

our @EXPORT_OK = qw(crowd reconnect handled judge write_load lost meanwhile);

# The positions that a call of es_fetch gets which waits while $code->() is
# run; '' if it does not end in time.
sub meanwhile
{
	my ($node, $call, $code) = @_;
	my $name = 'waits ' . random_int(1, 2_000_000_000);
	my $dbh = connect_store($node);
	start_client($name, sub {
		my $conn = connect_store($node);
		$conn->do("SET application_name = '$name'");
		return { got => $conn->selectcol_arrayref("SELECT global_position FROM $call") };
	});
	my $waits = poll_until(sub {
		sql_value($dbh, q{SELECT count(*) FROM pg_catalog.pg_stat_activity
			WHERE application_name = ? AND wait_event_type = 'Extension'}, $name);
	});
	$code->() if $waits;
	my $got = wait_clients(names => [$name], test => 'the call ended')->{$name}{got};
	$dbh->do('SELECT pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity '
		  . 'WHERE application_name = ?', undef, $name);
	$dbh->disconnect;
	return $got ? "@$got" : '';
}

# Run inside a client: keep $count processes of $code->($number) going, kill
# one every now and then while the flag "drain" is not set, and return when all
# have ended by themselves.
sub crowd
{
	my ($count, $code, %opt) = @_;
	my %child;
	my ($kills, $failures) = (0, 0);
	my $interval = $opt{kill_every} || 0;
	my $next_kill = time() + $interval;
	my @start = (1 .. $count);

	while (1)
	{
		foreach my $number (@start)
		{
			my $seed = random_int(1, 2_000_000_000);
			my $pid = fork();
			die "fork: $!" unless defined $pid;
			if ($pid == 0)
			{
				srand($seed);
				my $done = eval { $code->($number); 1 };
				print STDERR "consumer: $@" unless $done;
				POSIX::_exit($done ? 0 : 1);
			}
			$child{$pid} = $number;
		}
		@start = ();
		while ((my $pid = waitpid(-1, POSIX::WNOHANG())) > 0)
		{
			my $number = delete $child{$pid};
			if ($? & 127)
			{
				push @start, $number;
			}
			elsif ($?)
			{
				# let it be seen at the end, and do not spin
				$failures++;
				push @start, $number if $failures < 20;
			}
		}
		last if !%child && !@start;
		if ($interval && time() > $next_kill && !flag_is_set('drain'))
		{
			my @pids = keys %child;
			kill 'KILL', $pids[ random_int(0, $#pids) ];
			$kills++;
			$next_kill = time() + $interval * (0.5 + rand());
		}
		random_pause(10);
	}
	return { kills => $kills, failures => $failures };
}

# A connection, when the server is there again.
sub reconnect
{
	my ($node, %opt) = @_;
	my $dbh;
	poll_until(
		sub {
			$dbh = eval { connect_store($node, fail_ok => 1, %opt) };
			return $dbh;
		},
		90) or die "the server does not come back\n";
	return $dbh;
}

# Has this error to do with a server that went away?
sub lost
{
	my ($dbh) = @_;
	my $state = $dbh ? $dbh->state : '';
	return $state =~ /^(?:57P0[123]|08...|25P0[123]|22000|S8006|)$/ || connection_lost($dbh);
}

# Write down that events were handled; one write, so that lines stay whole.
sub handled
{
	my ($file, $who, @events) = @_;
	open my $log, '>>', $file or die "$file: $!";
	syswrite $log, join('', map { "$who $_->[0] $_->[1] $_->[2]\n" } @events);
	close $log;
	return;
}

# Compare what was handled, in the order of the file, with what is committed.
# order: an event was handled for the first time before an earlier one of its
# stream had been.  Option: gap (stream => a version that need not be handled).
sub judge
{
	my ($file, $committed, %opt) = @_;
	my %truth = map { $_->[0] => $_ } @$committed;
	my (%seen, %version);
	my %count = map { $_ => 0 } qw(missing order phantom duplicate);

	open my $log, '<', $file or die "$file: $!";
	while (my $line = <$log>)
	{
		chomp $line;
		my ($who, $position, $stream, $version) = split ' ', $line;
		if (!$truth{$position} || $truth{$position}[1] ne $stream
			|| $truth{$position}[2] != $version)
		{
			$count{phantom}++;
			next;
		}
		if ($seen{$position}++)
		{
			$count{duplicate}++;
			next;
		}
		my $next = ($version{$stream} || 0) + 1;
		$next++ if $opt{gap} && $next == ($opt{gap}{$stream} || 0);
		$count{order}++ if $version != $next;
		$version{$stream} = $version;
	}
	close $log;
	$count{missing} = grep { !$seen{ $_->[0] } } @$committed;
	$count{committed} = @$committed;
	return \%count;
}

# A writer: short and slow transactions, some of which abort, until the time.
sub write_load
{
	my ($node, $deadline, %opt) = @_;
	my $dbh = reconnect($node);
	my %count = (commit => 0, rollback => 0, lost => 0);
	my $streams = $opt{streams} || 40;

	while (time() < $deadline)
	{
		my $commit = rand() < 0.85;
		my $done = eval {
			$dbh->begin_work;
			foreach (1 .. random_int(1, 3))
			{
				my $category = rand() < 0.5 ? 'Order' : 'Item';
				append($dbh, sprintf('%s-%d', $category, random_int(1, $streams)),
					ANY, 'Happened' . random_int(1, 3));
			}
			random_pause(40) if rand() < 0.2;
			$commit ? $dbh->commit : $dbh->rollback;
			1;
		};
		if ($done)
		{
			$count{ $commit ? 'commit' : 'rollback' }++;
		}
		elsif ($dbh->state eq '40P01')
		{
			$dbh->rollback;
		}
		elsif (lost($dbh))
		{
			$count{lost}++;
			eval { $dbh->disconnect };
			$dbh = reconnect($node);
		}
		else
		{
			die $@;
		}
		random_pause($opt{pause} || 5);
	}
	$dbh->disconnect;
	return \%count;
}

1;
