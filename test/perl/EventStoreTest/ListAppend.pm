# A checker for histories of list-append transactions, after Elle (Kingsbury and
# Alvaro, 2020): a stream is a list, an append puts an element at its end, a
# read sees elements.  As every element is unique and the order of a list is
# known, who wrote before whom follows from the history, without guessing.
#
# A transaction is { state (committed, aborted), level, begun, committed,
# operations }, an operation
#
#	[ 'append', stream, element, version, position, begun, ended ]
#	[ 'read', stream, from version, [elements], begun, ended ]
#
# with version and position as the store answered.  Times are seconds of one
# clock, begun of a transaction that of its first statement (by default of its
# first operation), committed that of its end's answer.
#
# $final is what the store has in the end: stream => [[element, position], ...].

package EventStoreTest::ListAppend;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT_OK = qw(check_lists);

# Count each kind of fault.
#
#	lost		an append that was acknowledged is not where it was said to be
#	phantom		the store has an element that nobody has committed
#	doubled		the store has an element twice
#	refused		an element of an append that failed, or was rolled back, was read (G1a)
#	partial		a read ends between two elements of one transaction that is not its own (G1b)
#	divergent	a read is no part of the list
#	stale		a read does not see what was acknowledged before its snapshot
#	own			a read does not see what its own transaction has appended
#	realtime	an append has a lower position than one that had ended before it began
#	order		positions and versions of a stream do not grow together
#	cycle		transactions that write and read each other's elements in a circle (G0, G1c);
#				cycle2: also by what a SERIALIZABLE transaction did not see (G2)
sub check_lists
{
	my ($transactions, $final) = @_;
	my %count = map { $_ => 0 }
	  qw(lost phantom doubled refused partial divergent stale own realtime order cycle cycle2 appends reads transactions);
	my (%writer, %place, %acknowledged, %aborted);

	foreach my $t (@$transactions)
	{
		$count{transactions}++;
		foreach my $o (@{ $t->{operations} })
		{
			next if $o->[0] ne 'append';
			$count{appends}++;
			if ($t->{state} eq 'committed') { $writer{ $o->[2] } = $t }
			else { $aborted{ $o->[2] } = 1 }
		}
	}

	# the lists
	foreach my $stream (keys %$final)
	{
		my $last = 0;
		my $version = 0;
		foreach my $entry (@{ $final->{$stream} })
		{
			my ($element, $position) = @$entry;
			$version++;
			$count{doubled}++ if $place{$element};
			$count{phantom}++ if !$writer{$element};
			$count{order}++ if $position <= $last;
			$last = $position;
			$place{$element} = [ $stream, $version, $position ];
		}
	}

	# what was acknowledged, and when
	my @appends;
	foreach my $t (@$transactions)
	{
		next if $t->{state} ne 'committed';
		foreach my $o (@{ $t->{operations} })
		{
			next if $o->[0] ne 'append';
			my (undef, $stream, $element, $version, $position, $begun, $ended) = @$o;
			my $place = $place{$element};
			$count{lost}++
			  if !$place || $place->[0] ne $stream || $place->[1] != $version || $place->[2] != $position;
			push @{ $acknowledged{$stream} }, [ $t->{committed}, $version ];
			push @appends, [ $position, $begun, $ended ];
		}
	}
	foreach my $stream (keys %acknowledged)
	{
		my $highest = 0;
		my @steps;
		foreach my $step (sort { $a->[0] <=> $b->[0] } @{ $acknowledged{$stream} })
		{
			next if $step->[1] <= $highest;
			$highest = $step->[1];
			push @steps, [ $step->[0], $highest ];
		}
		$acknowledged{$stream} = \@steps;
	}

	# positions against the clock
	my $earliest;
	foreach my $append (sort { $b->[0] <=> $a->[0] } @appends)
	{
		$count{realtime}++ if defined $earliest && $earliest < $append->[1];
		$earliest = $append->[2] if !defined $earliest || $append->[2] < $earliest;
	}

	# reads; to stands for the version up to which a read has seen its list
	foreach my $t (@$transactions)
	{
		my $snapshot = $t->{begun};
		my %own;
		foreach my $o (@{ $t->{operations} })
		{
			if ($o->[0] eq 'append')
			{
				$own{ $o->[1] } = $o->[3];
				$snapshot = $o->[5] unless defined $snapshot;
				next;
			}
			my (undef, $stream, $from, $elements, $begun) = @$o;
			my $list = $final->{$stream} || [];
			my $to = $from + @$elements - 1;
			my $at = $from;

			$count{reads}++;
			$snapshot = $begun unless defined $snapshot;
			foreach my $element (@$elements)
			{
				my $entry = $list->[ $at++ - 1 ];
				my $mine = $t->{state} ne 'committed' && ($own{$stream} || 0) >= $at - 1;
				next if $entry && $entry->[0] eq $element;
				next if $mine;
				$count{ $aborted{$element} ? 'refused' : 'divergent' }++;
			}
			$count{own}++ if $to < ($own{$stream} || 0);
			$count{stale}++
			  if $to < acknowledged_before($acknowledged{$stream}, $t->{level} eq 'READ COMMITTED' ? $begun : $snapshot);
			next if $to < 1 || $t->{state} ne 'committed';
			my ($here, $next) = map { $list->[$_] && $writer{ $list->[$_][0] } } $to - 1, $to;
			$count{partial}++ if $here && $next && $here == $next && $here != $t;
		}
	}
	($count{cycle}, $count{cycle2}) = cycles($transactions, $final, \%writer);
	return \%count;
}

# The highest version that was acknowledged before a time.
sub acknowledged_before
{
	my ($steps, $time) = @_;
	return 0 unless $steps;
	my ($low, $high) = (0, scalar @$steps);
	while ($low < $high)
	{
		my $middle = int(($low + $high) / 2);
		if ($steps->[$middle][0] < $time) { $low = $middle + 1 }
		else { $high = $middle }
	}
	return $low ? $steps->[ $low - 1 ][1] : 0;
}

# Number of transactions in circles: by writes and reads of all, and by writes,
# reads and anti-dependencies among those that were SERIALIZABLE.
sub cycles
{
	my ($transactions, $final, $writer) = @_;
	my @committed = grep { $_->{state} eq 'committed' } @$transactions;
	my (%number, @edges, @strict);

	$number{ $committed[$_] } = $_ for 0 .. $#committed;
	my $edge = sub {
		my ($from, $to, $anti) = @_;
		return if !$from || !$to || $from == $to;
		my ($a, $b) = @number{ $from, $to };
		return unless defined $a && defined $b;
		push @{ $edges[$a] }, $b unless $anti;
		push @{ $strict[$a] }, $b if $from->{level} eq 'SERIALIZABLE' && $to->{level} eq 'SERIALIZABLE';
	};
	foreach my $list (values %$final)
	{
		my $before;
		foreach my $entry (@$list)
		{
			my $now = $writer->{ $entry->[0] };
			$edge->($before, $now, 0);
			$before = $now;
		}
	}
	foreach my $t (@committed)
	{
		foreach my $o (@{ $t->{operations} })
		{
			next if $o->[0] ne 'read';
			my $list = $final->{ $o->[1] } || [];
			my $to = $o->[2] + @{ $o->[3] } - 1;
			$edge->($writer->{ $list->[ $to - 1 ][0] }, $t, 0) if $to >= 1 && $list->[ $to - 1 ];
			$edge->($t, $writer->{ $list->[$to][0] }, 1) if $to >= 0 && $list->[$to];
		}
	}
	return map { in_circles(scalar @committed, $_) } \@edges, \@strict;
}

# Nodes that are left when those to which no edge leads are taken away, one after
# the other: none if there is no circle.
sub in_circles
{
	my ($nodes, $edges) = @_;
	my @incoming = (0) x $nodes;
	my $left = $nodes;

	foreach my $to (map { $_ ? @$_ : () } @$edges) { $incoming[$to]++ }
	my @free = grep { !$incoming[$_] } 0 .. $nodes - 1;
	while (@free)
	{
		my $node = pop @free;
		$left--;
		foreach my $to (@{ $edges->[$node] || [] })
		{
			push @free, $to unless --$incoming[$to];
		}
	}
	return $left;
}

1;
