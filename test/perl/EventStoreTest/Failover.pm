# Clients of a store that fails over: each goes on by itself.  They get a function
# that connects to whatever server is the primary (undef: none is, now).  Writers
# end when the flag "stop" is set, readers when "written" is and nothing more comes.

package EventStoreTest::Failover;

use strict;
use warnings;

use EventStoreTest;
use Exporter 'import';
use Time::HiRes qw(time);

our @EXPORT = qw(connect_primary keep_appending keep_fetching keep_following start_failover_clients judge_failover_clients);

# Connect to the one of several servers that takes writes; [host, port] each.
sub connect_primary
{
	my ($db, $user, @servers) = @_;
	my $dsn = sprintf('dbi:Pg:dbname=%s;host=%s;port=%s;target_session_attrs=read-write;connect_timeout=5',
		$db, join(',', map { $_->[0] } @servers), join(',', map { $_->[1] } @servers));
	my $dbh = eval { DBI->connect($dsn, $user, '', { AutoCommit => 1, RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoInactiveDestroy => 1 }) };

	# a server that stops answering is found out
	return undef unless $dbh && eval { $dbh->do(q{SET statement_timeout = '30s'}); 1 };
	return $dbh;
}

# Run code with a connection until it comes through.  What a failover does to a
# statement may happen; any other error is the client's end.
sub persistently
{
	my ($connect, $dbh, $interruptions, $code) = @_;
	my $end = time() + 180;

	while (1)
	{
		my ($result, $error, $state);
		$$dbh ||= $connect->();
		if ($$dbh)
		{
			$result = eval { $code->($$dbh) };
			return $result if defined $result;
			($error, $state) = ($@, $$dbh->state || '');
			# the connection; read-only; shutting down; starting up; the
			# statement's timeout; a lost connection without a state of its own
			die "SQLSTATE $state: $error"
			  unless $state =~ /^(08...|25006|57P..|57014|55000|S8006|S1000|HY000|22000|)$/ && connection_trouble($state, $error);
			$$interruptions++;
			eval { $$dbh->disconnect };
			$$dbh = undef;
		}
		die "no primary for three minutes\n" if time() > $end;
		random_pause(100);
	}
}

sub connection_trouble
{
	my ($state, $error) = @_;
	return 1 if $state =~ /^(08...|25006|57P..|57014)$/;
	return $error =~ /server closed the connection|connection to server|terminating connection|no connection to the server|could not (?:receive|send) data|SSL|Broken pipe|Connection (?:reset|refused)/;
}

# Appends with exact versions; a call that was interrupted is repeated with the
# same ids until it is answered.
sub keep_appending
{
	my ($connect, $writer) = @_;
	my ($dbh, %version, %events);
	my ($interruptions, $duplicates, $longest) = (0, 0, 0);

	while (!flag_is_set('stop'))
	{
		my $stream = sprintf('Load-%s-%d', $writer, random_int(0, 9));
		my $before = $version{$stream} || 0;
		my @id = map { random_uuid() } 1 .. random_int(1, 3);
		my $begin = time();
		my $got = persistently($connect, \$dbh, \$interruptions, sub { append_batch($_[0], $stream, $before, 'Loaded', \@id) });

		$longest = time() - $begin if time() - $begin > $longest;
		$duplicates++ if $got->[0]{duplicate};
		foreach my $event (@$got)
		{
			die "version $event->{version} after $before\n" unless $event->{version} == ++$before;
			$events{ $event->{id} } = "$stream/$event->{version}";
		}
		$version{$stream} = $before;
		random_pause(20);
	}
	return { events => \%events, interruptions => $interruptions, duplicates => $duplicates, longest => $longest };
}

# A consumer of the subscription "load": its checkpoint is in the store.
sub keep_fetching
{
	my ($connect) = @_;
	my ($dbh, %seen, %version, @disordered);
	my ($interruptions, $again) = (0, 0);

	while (1)
	{
		my $stopped = flag_is_set('written');
		my $rows = persistently($connect, \$dbh, \$interruptions, sub {
				$_[0]->selectall_arrayref(q{SELECT event_id, stream_id, version, global_position FROM es_fetch('load', 100, '1 s')});
		});
		foreach my $row (@$rows)
		{
			my ($id, $stream, $version) = @$row;
			$again++ if $seen{$id}++;
			push @disordered, "$stream $version after " . ($version{$stream} || 0) if $version > ($version{$stream} || 0) + 1;
			$version{$stream} = $version;
		}
		if (@$rows)
		{
			# what is fetched by a new session is handed out again
			my $acknowledged = persistently($connect, \$dbh, \$interruptions, sub {
					eval { $_[0]->do(q{SELECT es_ack('load', ?)}, undef, $rows->[-1][3]); 1 } and return 1;
					return 0 if $_[0]->state eq '55000' && !connection_trouble('', $@);
					die $@;
			});
		}
		last if $stopped && !@$rows;
	}
	return { seen => \%seen, again => $again, disordered => \@disordered, interruptions => $interruptions };
}

# A reader that keeps his position himself.
sub keep_following
{
	my ($connect) = @_;
	my ($dbh, %seen, %version, @doubled, @disordered);
	my ($position, $interruptions) = (0, 0);

	while (1)
	{
		my $stopped = flag_is_set('written');
		my $rows = persistently($connect, \$dbh, \$interruptions, sub {
				$_[0]->selectall_arrayref('SELECT event_id, stream_id, version, global_position FROM es_read_all(?, 200)', undef, $position);
		});
		foreach my $row (@$rows)
		{
			my ($id, $stream, $version) = @$row;
			push @doubled, $id if $seen{$id}++;
			push @disordered, "$stream $version after " . ($version{$stream} || 0) if $version != ($version{$stream} || 0) + 1;
			$version{$stream} = $version;
			$position = $row->[3];
		}
		last if $stopped && !@$rows;
		random_pause(20) unless @$rows;
	}
	return { seen => \%seen, doubled => \@doubled, disordered => \@disordered, interruptions => $interruptions };
}

# Create what the clients need, and start them.
sub start_failover_clients
{
	my ($connect, $writers) = @_;
	my $dbh = $connect->() or die "no primary\n";

	$dbh->do($_) foreach (
		q{CREATE TABLE counted (stream_id text PRIMARY KEY, events bigint NOT NULL)},
		q{CREATE FUNCTION count_event(event es_event) RETURNS void LANGUAGE sql AS $$
			INSERT INTO counted AS c VALUES (event.stream_id, 1)
			ON CONFLICT (stream_id) DO UPDATE SET events = c.events + 1$$},
		q{SELECT es_create_projection('counted', 'count_event(es_event)', '{Load}')},
		q{SELECT es_create_subscription('load', '{Load}')});
	$dbh->disconnect;
	new_flags();
	foreach my $writer (1 .. $writers)
	{
		start_client("writer$writer", sub { keep_appending($connect, $writer) });
	}
	start_client('consumer', sub { keep_fetching($connect) });
	start_client('follower', sub { keep_following($connect) });
	return;
}

# Stop them; whether everything that was acknowledged is there, once, and has
# come to every consumer.  Runs tests.
sub judge_failover_clients
{
	my ($connect, $writers, $title) = @_;
	my (%want, @note, $longest);

	flag_set('stop');
	my $result = wait_clients(limit => 240, names => [ map { "writer$_" } 1 .. $writers ], test => "$title: all writers went on by themselves");
	flag_set('written');
	$result = { %$result, %{ wait_clients(limit => 240, test => "$title: and all readers") } };
	my $dbh = $connect->() or die "no primary\n";
	foreach my $writer (1 .. $writers)
	{
		my $got = $result->{"writer$writer"};
		%want = (%want, %{ $got->{events} || {} });
		push @note, sprintf('writer %s: %d interruptions, %d answers by a retry, longest append %.1f s', $writer, @$got{qw(interruptions duplicates longest)}) if $got->{events};
	}
	Test::More::note(join("\n", @note));
	Test::More::note(sprintf('%d events acknowledged; the consumer was interrupted %d times and got %d events again; the follower %d times',
			scalar(keys %want), $result->{consumer}{interruptions} || 0, $result->{consumer}{again} || 0, $result->{follower}{interruptions} || 0));

	my %have = map { $_->[0] => "$_->[1]/$_->[2]" } @{ $dbh->selectall_arrayref(q{SELECT event_id, stream_id, version FROM es_read_category('Load', NULL, NULL)}) };
	Test::More::is(scalar(grep { ($have{$_} || '') ne $want{$_} } keys %want), 0, "$title: no acknowledged event is lost");
	Test::More::is(scalar(keys %have), scalar(keys %want), "$title: none is doubled");
	foreach my $who (qw(consumer follower))
	{
		Test::More::is(scalar(grep { !$result->{$who}{seen}{$_} } keys %have), 0, "$title: the $who has got all of them");
		Test::More::is_deeply($result->{$who}{disordered}, [], "$title: in the order of each stream");
	}
	Test::More::is_deeply($result->{follower}{doubled}, [], "$title: the follower none twice");
	Test::More::is(sql_value($dbh, q{SELECT es_wait_projection('counted', es_head(), '120 s')}), 1, "$title: the projection has come to the end");
	Test::More::is(sql_value($dbh, 'SELECT sum(events) FROM counted'), scalar(keys %have), "$title: it has applied each event once");
	Test::More::is(sql_value($dbh, 'SELECT count(*) FROM es_verify()'), 0, "$title: the store is sound");
	$dbh->disconnect;
	return;
}

1;
