#!/usr/bin/perl
#
# coverage.pl [--least PERCENT] FOLDER
#	  What the tests have reached of src/, in the builds below a folder.
#
# Reads what gcov says of the normal and of the fault build, adds it up, and
# prints the lines reached of each file, the share of all, and every place where
# an error, a warning or a message is raised that no test has made happen; apart
# from these, as there should be no way to them, the internal ones (elog).
# Fails when the share is below PERCENT (90).

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Find qw(find);
use File::Temp qw(tempdir);
use Getopt::Long qw(GetOptions);
use JSON::PP qw(decode_json);

my $least = 90;
GetOptions('least=f' => \$least) && @ARGV == 1
  or die "usage: $0 [--least PERCENT] folder\n";
my $folder = abs_path($ARGV[0]);

my %hits;     # file below src/ => line => how often it was run
my %text;     # the same => its lines
my @notes;
find(sub { push @notes, $File::Find::name if /\.gcda\z/ && $File::Find::name =~ m{/(?:normal|faults)/src/} }, $folder);
die "no test has run anything that was built for this below $folder\n" unless @notes;

my $scratch = tempdir(CLEANUP => 1);
foreach my $note (@notes)
{
	my ($tree) = $note =~ m{^(.*?/(?:normal|faults))/src/};
	my $json = `cd '$scratch' && gcov --json-format --stdout '$note' 2>/dev/null`;
	next if $json eq '';
	foreach my $file (@{ decode_json($json)->{files} })
	{
		my $path = $file->{file};
		$path = "$tree/$path" if $path !~ m{^/};
		next unless $path =~ m{/(?:normal|faults)/src/(.*\.[ch])\z};
		my $name = $1;
		$text{$name} ||= read_lines($path);
		# a line of a header is in many objects
		$hits{$name}{ $_->{line_number} } += $_->{count} for @{ $file->{lines} };
	}
}

my ($lines, $reached, @unraised, @internal) = (0, 0);
my $raised = 0;
foreach my $name (sort keys %hits)
{
	my $file = $hits{$name};
	my $of_file = grep { $_ } values %$file;
	$lines += keys %$file;
	$reached += $of_file;
	printf "%5.1f %%  %4d of %4d  src/%s\n", 100 * $of_file / keys %$file, $of_file, scalar(keys %$file), $name;
	foreach my $line (sort { $a <=> $b } keys %$file)
	{
		next unless $text{$name}[ $line - 1 ] =~ /\b(?:ereport|elog|es_\w*_error|es_arg_\w+_error)\s*\(/;
		next if $text{$name}[ $line - 1 ] =~ /\bDEBUG\d/ || $text{$name}[ $line - 1 ] =~ /^\w/;
		$raised++;
		next if $file->{$line};
		push @{ $text{$name}[ $line - 1 ] =~ /\belog\s*\(/ ? \@internal : \@unraised },
		  "src/$name:$line: " . statement($text{$name}, $line);
	}
}
my $share = 100 * $reached / $lines;
printf "%.1f %% of %d lines are reached; of %d places that raise something %d are not:\n",
  $share, $lines, $raised, scalar(@unraised);
print map { "  $_\n" } @unraised;
printf "and %d internal errors are not:\n", scalar(@internal);
print map { "  $_\n" } @internal;
exit($share < $least ? 1 : 0);

sub read_lines
{
	my ($path) = @_;
	open my $source, '<', $path or die "cannot read $path: $!\n";
	my @lines = <$source>;
	close $source;
	return \@lines;
}

# A statement that begins in a line, in one line.
sub statement
{
	my ($text, $line) = @_;
	my $statement = '';
	foreach my $next (@$text[ $line - 1 .. $line + 7 ])
	{
		last unless defined $next;
		$statement .= ' ' . ($next =~ s/^\s+|\s+$//gr);
		last if $next =~ /;\s*$/;
	}
	return substr($statement, 1, 160);
}
