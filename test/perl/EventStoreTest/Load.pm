# The load of the stress tests: writers whose transactions end in every way that
# PostgreSQL knows, and who remember what they were told.

package EventStoreTest::Load;

use strict;
use warnings;

use EventStoreTest;
use Exporter 'import';
use Time::HiRes qw(time);

our @EXPORT_OK = qw(write_events total_of @categories);

our @categories = qw(Order Item Account);

# What all writers together know: acknowledged events, ids that were rolled
# back, how often each thing happened.
sub total_of
{
	my ($written) = @_;
	my (%acknowledged, %undone, %total);
	foreach my $result (values %$written)
	{
		@acknowledged{ keys %{ $result->{acknowledged} } } =
		  values %{ $result->{acknowledged} };
		@undone{ keys %{ $result->{undone} } } = ();
		$total{$_} += $result->{count}{$_} for keys %{ $result->{count} };
	}
	return (\%acknowledged, \%undone, \%total);
}

# One writer, to be run as a client: transactions of one or more appends, 15 %
# rolled back, 20 % with a part rolled back, 10 % prepared, until the deadline.
sub write_events
{
	my ($node, $name, $deadline) = @_;
	my $dbh = connect_store($node, app => $name);
	my (%acknowledged, %undone, %count);
	my $number = 0;

	while (time() < $deadline)
	{
		my @pending;
		my $level = rand() < 0.1 ? 'REPEATABLE READ'
		  : rand() < 0.05 ? 'SERIALIZABLE'
		  : 'READ COMMITTED';
		my $fate = rand();
		my $done = eval {
			$dbh->do("BEGIN ISOLATION LEVEL $level");
			push @pending, append_somewhere($dbh, \%count);
			random_pause(50) if rand() < 0.4;
			if (rand() < 0.2)
			{
				$dbh->do('SAVEPOINT s');
				my @lost = append_somewhere($dbh, \%count);
				$dbh->do('ROLLBACK TO SAVEPOINT s');
				$undone{ $_->[0] } = 1 for @lost;
				$count{savepoint}++;
				push @pending, append_somewhere($dbh, \%count) if rand() < 0.5;
			}
			push @pending, many_savepoints($dbh, "$categories[0]-many-$name", \%count)
			  if rand() < 0.03;
			random_pause(50) if rand() < 0.3;
			1;
		};
		if (!$done)
		{
			# A deadlock, a serialization failure or a version conflict is
			# what this load asks for; anything else is a fault.
			my ($error, $state) = ($@, $dbh->state);
			die $error unless $state =~ /^(?:40001|40P01|VE001)$/;
			$dbh->do('ROLLBACK');
			$count{$state}++;
			$undone{ $_->[0] } = 1 for @pending;
			next;
		}
		if ($fate < 0.15)
		{
			$dbh->do('ROLLBACK');
			$count{rollback}++;
			$undone{ $_->[0] } = 1 for @pending;
		}
		elsif ($fate < 0.25)
		{
			two_phase($dbh, $name, ++$number, \@pending,
				\%acknowledged, \%undone, \%count);
		}
		elsif (eval { $dbh->do('COMMIT'); 1 })
		{
			$count{commit}++;
			$acknowledged{ $_->[0] } = $_->[1] for @pending;
		}
		else
		{
			die $@ unless $dbh->state eq '40001';
			$count{40001}++;
			$undone{ $_->[0] } = 1 for @pending;
		}
	}
	$dbh->disconnect;
	return {
		acknowledged => \%acknowledged,
		undone => \%undone,
		count => \%count
	};
}

# One to five events on one stream; sometimes with a version check, sometimes
# under an event type that nobody has used before.
sub append_somewhere
{
	my ($dbh, $count) = @_;
	my $category = $categories[ random_int(0, $#categories) ];
	my $stream = sprintf '%s-%d', $category, random_int(1, 120);
	my $expected = ANY;
	my $type = 'Happened' . random_int(1, rand() < 0.1 ? 500 : 5);

	$expected = sql_value($dbh, 'SELECT es_stream_version($1)', $stream)
	  if rand() < 0.3;
	return append_to($dbh, $stream, $expected, $type, $count);
}

sub append_to
{
	my ($dbh, $stream, $expected, $type, $count) = @_;
	my $size = rand() < 0.6 ? 1 : random_int(2, 5);
	my @ids = rand() < 0.5 ? map { random_uuid() } 1 .. $size : (undef) x $size;
	my $events =
	  $size == 1
	  ? [ append($dbh, $stream, $expected, $type, $ids[0]) ]
	  : append_batch($dbh, $stream, $expected, $type, \@ids);

	die "append returned " . @$events . " rows for $size events\n"
	  unless @$events == $size;
	$count->{appended} += $size;
	foreach my $event (@$events)
	{
		die "a new event is called a duplicate\n" if $event->{duplicate};
	}
	return
	  map { [ $_->{id}, [ $_->{position}, $stream, $_->{version} ] ] } @$events;
}

# More subtransactions than a snapshot remembers, a third of them rolled back.
sub many_savepoints
{
	my ($dbh, $stream, $count) = @_;
	my @ids = map { random_uuid() } 1 .. 90;
	my $list = join ',', @ids;
	$dbh->do(
		qq{DO \$\$
		   DECLARE
			 ids uuid[] := '{$list}';
		   BEGIN
			 FOR i IN 1 .. 90 LOOP
			   BEGIN
				 PERFORM es_append('$stream', es_any(), 'Many', '1', event_id => ids[i]);
				 IF i % 3 = 0 THEN
				   RAISE division_by_zero;
				 END IF;
			   EXCEPTION WHEN division_by_zero THEN
				 NULL;
			   END;
			 END LOOP;
		   END \$\$});
	my $rows = $dbh->selectall_arrayref(
		'SELECT event_id, global_position, stream_id, version FROM event_store.events '
		  . 'WHERE event_id = ANY ($1::uuid[]) ORDER BY global_position',
		undef, \@ids);
	die 'of 90 appends ' . @$rows . " are kept\n" if @$rows != 60;
	$count->{many_savepoints}++;
	$count->{appended} += 90;
	return map { [ $_->[0], [ @$_[ 1 .. 3 ] ] ] } @$rows;
}

# Prepare, do other work in the same session, then decide.  The work in between
# uses a stream of its own: waiting for another prepared transaction, while
# that one's session waits for ours, is invisible to the deadlock detector.
sub two_phase
{
	my ($dbh, $name, $number, $pending, $acknowledged, $undone, $count) = @_;
	my $gid = "${name}_$number";

	if (!eval { $dbh->do("PREPARE TRANSACTION '$gid'"); 1 })
	{
		die $@ unless $dbh->state eq '40001';
		$undone->{ $_->[0] } = 1 for @$pending;
		return;
	}
	foreach (1 .. random_int(0, 3))
	{
		my @events = append_to($dbh, "$categories[0]-own-$name", ANY, 'Private', $count);
		$acknowledged->{ $_->[0] } = $_->[1] for @events;
		random_pause(15);
	}
	if (rand() < 0.6)
	{
		$dbh->do("COMMIT PREPARED '$gid'");
		$count->{commit_prepared}++;
		$acknowledged->{ $_->[0] } = $_->[1] for @$pending;
	}
	else
	{
		$dbh->do("ROLLBACK PREPARED '$gid'");
		$count->{rollback_prepared}++;
		$undone->{ $_->[0] } = 1 for @$pending;
	}
	return;
}

1;
