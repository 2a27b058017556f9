#!/usr/bin/perl
# wings.pl SOURCE BUILD          which way the arrows of src/ point
# wings.pl --list SOURCE BUILD   the arrows themselves
# wings.pl --self-test           the judgement, on made-up arrows
#
# An arrow is an include of a file of ours, or a function or variable of one
# object file that another one uses (nm).  It goes to the same wing or to one
# further down, and following arrows never leads back to where one began.
# Fails when it finds one that does not, and when it finds no arrows at all.
# The guard of a header is named after its file: that is looked at, too.
#
# What is called through a pointer is no arrow: who wants to be called by a
# wing below registers himself with it.
use strict;
use warnings;

# from the bottom; the files that stand in src/ itself are a wing each
my @wings = qw(base settings log evolution read state wakeup append subscription projection event_store);
my %floor = map { $wings[$_] => $_ } 0 .. $#wings;

sub wing_of
{
	my ($file) = @_;
	my ($wing) = $file =~ m{^([^/.]+)};
	return $wing;
}

# Result: list of complaints; arrows are [from, to, why]
sub judge
{
	my @arrows = @_;
	my (@complaints, %next, %index, %low, @stack, %on_stack, $visit);
	my $count = 0;

	foreach my $arrow (@arrows)
	{
		my ($from, $to, $why) = @$arrow;
		my ($above, $below) = map { $floor{ wing_of($_) } } $from, $to;

		if (!defined $above || !defined $below)
		{
			push @complaints, "unknown wing: $from -> $to";
			next;
		}
		push @complaints, "up: $from -> $to ($why)" if $below > $above;
		$next{$from}{$to} = $why;
	}

	# strongly connected components (Tarjan)
	$visit = sub {
		my ($file) = @_;

		$index{$file} = $low{$file} = $count++;
		push @stack, $file;
		$on_stack{$file} = 1;
		foreach my $other (sort keys %{ $next{$file} || {} })
		{
			if (!defined $index{$other})
			{
				$visit->($other);
				$low{$file} = $low{$other} if $low{$other} < $low{$file};
			}
			elsif ($on_stack{$other} && $index{$other} < $low{$file})
			{
				$low{$file} = $index{$other};
			}
		}
		return if $low{$file} != $index{$file};
		my @circle;
		my $member;
		do
		{
			$member = pop @stack;
			delete $on_stack{$member};
			push @circle, $member;
		} while ($member ne $file);
		push @complaints, "circle: " . join(', ', sort @circle) if @circle > 1;
	};
	foreach my $file (sort keys %next)
	{
		$visit->($file) if !defined $index{$file};
	}
	return @complaints;
}

sub includes
{
	my ($source) = @_;
	my @arrows;

	foreach my $path (glob("$source/src/*.[ch] $source/src/*/*.[ch]"))
	{
		(my $file = $path) =~ s{^\Q$source\E/src/}{};
		open my $in, '<', $path or die "$path: $!\n";
		while (my $line = <$in>)
		{
			next if $line !~ /^\s*#\s*include\s+"([^"]+)"/ || !-e "$source/src/$1";
			push @arrows, [ $file, $1, 'include' ];
		}
		close $in;
	}
	return @arrows;
}

sub uses
{
	my ($build) = @_;
	my (%defined_in, %used_by, @arrows);

	foreach my $path (glob("$build/src/*.o $build/src/*/*.o"))
	{
		(my $file = $path) =~ s{^\Q$build\E/src/(.*)\.o$}{$1.c};
		open my $in, '-|', 'nm', '-P', $path or die "nm: $!\n";
		while (my $line = <$in>)
		{
			my ($symbol, $kind) = split ' ', $line;
			$used_by{$symbol}{$file} = 1 if $kind eq 'U';
			$defined_in{$symbol} = $file if $kind =~ /^[TDBRCVW]$/;
		}
		close $in or die "nm $path failed\n";
	}
	foreach my $symbol (sort keys %used_by)
	{
		my $to = $defined_in{$symbol} or next;
		push @arrows, map { [ $_, $to, $symbol ] } sort keys %{ $used_by{$symbol} };
	}
	return @arrows;
}

# headers whose guard has another name
sub guards
{
	my ($source) = @_;
	my @complaints;

	foreach my $path (glob("$source/src/*.h $source/src/*/*.h"))
	{
		(my $file = $path) =~ s{^\Q$source\E/src/}{};
		(my $guard = uc "ES_$file") =~ s/\W/_/g;
		open my $in, '<', $path or die "$path: $!\n";
		my @lines = <$in>;
		close $in;
		push @complaints, "guard: $file has no $guard"
		  if !grep { /^#ifndef \Q$guard\E$/ } @lines;
	}
	return @complaints;
}

if (@ARGV == 1 && $ARGV[0] eq '--self-test')
{
	my @good = ([ 'append/a.c', 'log/b.c', 'f' ], [ 'log/b.c', 'log/c.c', 'g' ]);
	my @cases = (
		[ 0, 'downward and within a wing', @good ],
		[ 1, 'upward include', @good, [ 'log/c.h', 'append/a.h', 'include' ] ],
		[ 1, 'upward call', @good, [ 'base/x.c', 'log/b.c', 'h' ] ],
		[ 1, 'circle of two', @good, [ 'log/c.c', 'log/b.c', 'h' ] ],
		[ 1, 'circle of three', @good, [ 'log/c.c', 'log/d.c', 'h' ], [ 'log/d.c', 'log/b.c', 'i' ] ],
		[ 2, 'circle over wings is an arrow up too', @good, [ 'log/c.c', 'append/a.c', 'h' ] ],
		[ 1, 'unknown wing', @good, [ 'attic/a.c', 'log/b.c', 'f' ] ]);
	my $failed = 0;

	foreach my $case (@cases)
	{
		my ($expected, $name, @arrows) = @$case;
		my @complaints = judge(@arrows);
		next if @complaints == $expected;
		print "self-test \"$name\": expected $expected complaints, got ", scalar(@complaints), "\n";
		$failed++;
	}
	print "self-test of wings.pl: ", scalar(@cases), " cases, $failed failed\n";
	exit($failed ? 1 : 0);
}

my $list = @ARGV && $ARGV[0] eq '--list' ? shift : undef;
die "usage: wings.pl [--list] SOURCE BUILD | --self-test\n" if @ARGV != 2;
my ($source, $build) = @ARGV;
my @includes = includes($source);
my @uses = uses($build);
my @complaints = (judge(@includes, @uses), guards($source));

if ($list)
{
	print "$_->[0] -> $_->[1] ($_->[2])\n" foreach @includes, @uses;
}
push @complaints, 'no includes found' if !@includes;
push @complaints, 'no object files found' if !@uses;
print "$_\n" foreach @complaints;
printf "wings: %d includes, %d uses of symbols, %d up, %d circles\n",
	scalar(@includes), scalar(@uses), scalar(grep { /^up/ } @complaints),
	scalar(grep { /^circle/ } @complaints);
exit(@complaints ? 1 : 0);
