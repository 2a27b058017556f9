# The checker: compares what a reader was given with what is committed.
#
# An event is [global position, stream, version, event id].  A reader's history
# is the list of events in the order in which it got them.

package EventStoreTest::History;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

our @EXPORT_OK = qw(check_delivery check_commits verdict category_of
  faultless_delivery);

sub category_of
{
	my ($stream) = @_;
	my ($category) = $stream =~ /^([^-]*)/;
	return $category;
}

# Returns a count of each kind of fault.  Options: category (the reader asked
# for it), prefix (the reader need not have reached the end: what lies behind
# the last event that it got is not missed).
sub check_delivery
{
	my ($committed, $delivered, %opt) = @_;
	my %count = map { $_ => 0 }
	  qw(skipped duplicate inversion phantom version_fault delivered committed);
	my (%expected, %seen, %version);
	my $last = 0;
	my $end = $opt{prefix} ? (@$delivered ? $delivered->[-1][0] : 0) : undef;

	foreach my $event (@$committed)
	{
		last if defined $end && $event->[0] > $end;
		next
		  if defined $opt{category}
		  && category_of($event->[1]) ne $opt{category};
		$expected{ $event->[0] } = $event;
		$count{committed}++;
	}
	foreach my $event (@$delivered)
	{
		my ($position, $stream, $version, $id) = @$event;
		my $truth = $expected{$position};

		$count{delivered}++;
		$count{duplicate}++ if $seen{$position}++;
		$count{inversion}++ if $position <= $last;
		$last = $position;
		if (  !$truth
			|| $truth->[1] ne $stream
			|| $truth->[2] != $version
			|| $truth->[3] ne $id)
		{
			$count{phantom}++;
		}
		$count{version_fault}++ if $version != ($version{$stream} || 0) + 1;
		$version{$stream} = $version;
	}
	foreach my $position (keys %expected)
	{
		$count{skipped}++ unless $seen{$position};
	}
	return \%count;
}

# Compares what the writers were told with what is committed.  The arguments:
# committed events, acknowledged events { id => [position, stream, version] },
# ids of transactions known to be rolled back.
sub check_commits
{
	my ($committed, $acknowledged, $rolled_back) = @_;
	my %count = map { $_ => 0 }
	  qw(lost changed unexpected undone_kept double_id version_fault);
	my (%stored, %version);

	foreach my $event (@$committed)
	{
		my ($position, $stream, $version, $id) = @$event;
		$count{double_id}++ if $stored{$id};
		$stored{$id} = $event;
		$count{unexpected}++ unless $acknowledged->{$id};
		push @{ $version{$stream} }, $version;
	}
	foreach my $id (keys %$acknowledged)
	{
		my $event = $stored{$id};
		my $told = $acknowledged->{$id};
		if (!$event)
		{
			$count{lost}++;
		}
		elsif ($event->[0] != $told->[0]
			|| $event->[1] ne $told->[1]
			|| $event->[2] != $told->[2])
		{
			$count{changed}++;
		}
	}
	foreach my $id (keys %$rolled_back)
	{
		$count{undone_kept}++ if $stored{$id} && !$acknowledged->{$id};
	}
	# committed comes in the order of the global position
	foreach my $stream (keys %version)
	{
		my $next = 1;
		foreach my $version (@{ $version{$stream} })
		{
			$count{version_fault}++ if $version != $next++;
		}
	}
	return \%count;
}

sub verdict
{
	my ($count) = @_;
	return join(', ', map { "$_ $count->{$_}" } sort keys %$count);
}

# The test every honest reader must pass.
sub faultless_delivery
{
	my ($name, $committed, $delivered, %opt) = @_;
	my $count = check_delivery($committed, $delivered, %opt);
	my $faults = 0;
	$faults += $count->{$_}
	  for qw(skipped duplicate inversion phantom version_fault);
	note "$name: " . verdict($count);
	ok($faults == 0 && $count->{delivered} > 0,
		"$name: 0 skipped, 0 duplicate, 0 inversions")
	  or diag "$name: " . verdict($count);
	return $count;
}

1;
