#!/usr/bin/perl
#
# prove.pl --tally FILE [--include FOLDER]... [--logs FOLDER]
#		[--psql PROGRAM --dbname NAME] test file...
#	  Run TAP test files, as prove and pg_prove do, and count.
#
# After each file "passed failed" so far is written to the tally's file, and at
# the end, in lines of their own, what each failed test has said.  A file
# that passes all of its tests and yet ends badly, or against its plan, counts as
# one failed test, and so does one that runs no test at all: what is skipped as a
# whole has not been tested.  Of a failed file's logs the ends are shown.

use strict;
use warnings;

use File::Basename qw(basename fileparse);
use Getopt::Long qw(GetOptions);
use TAP::Harness;

my ($tally_file, $logs, $psql, $dbname);
my @include;

GetOptions(
	'tally=s' => \$tally_file,
	'include=s' => \@include,
	'logs=s' => \$logs,
	'psql=s' => \$psql,
	'dbname=s' => \$dbname) && defined $tally_file
  or die "usage: $0 --tally FILE [option]... test file...\n";

my ($passed, $failed, $skipped) = (0, 0, 0);
my @said;

# what PostgreSQL::Test::Utils puts before a line
my $stamp = qr/(?:\[[\d:.]+\]\([\d.]+s\) )?/;

sub write_tally
{
	open my $tally, '>', $tally_file or die "cannot write $tally_file: $!\n";
	print $tally "$passed $failed\n", @said;
	close $tally or die "cannot write $tally_file: $!\n";
	return;
}

# What failed tests have said, a few lines of each.
sub failures
{
	my $left = 0;
	my @lines;

	for my $line (@_)
	{
		$left = 10 if $line =~ /^${stamp}not ok \d+/;
		push @lines, substr($line, 0, 500) =~ s/\n?\z/\n/r
		  if $left-- > 0 && $line =~ /^$stamp(?:not ok|#)/;
	}
	return @lines;
}

# Of a file that keeps no log of its own: what comes after a failed test.
sub listen
{
	my ($parser, $job) = @_;
	my $name = basename(ref $job ? $job->[0] : $job);
	my $left = 0;

	$parser->callback(
		ALL => sub {
			my $line = shift;

			if ($line->is_test)
			{
				$left = $line->is_ok ? 0 : 10;
				push @said, "$name: " . $line->as_string . "\n" unless $line->is_ok;
			}
			elsif ($line->is_bailout)
			{
				push @said, "$name: " . $line->as_string . "\n";
			}
			elsif ($line->is_comment && $left-- > 0)
			{
				push @said, "$name: " . substr($line->as_string, 0, 500) . "\n";
			}
		});
	return;
}

# The end of each log of a test file: its own, without what went well, and its
# servers'.
sub show_logs
{
	my ($name) = fileparse(shift, qr/\.[^.]*/);

	for my $file (glob "$logs/regress_log_$name $logs/${name}_*.log")
	{
		my $most = $file =~ /regress_log/ ? 80 : 20;

		open my $log, '<', $file or next;
		my @lines = grep { !/^${stamp}ok \d+/ } <$log>;
		push @said, map { "$name: $_" } failures(@lines) if $file =~ /regress_log/;
		@lines = @lines[ -$most .. -1 ] if @lines > $most;
		print "--- $file, the last lines\n", @lines;
	}
	return;
}

sub after_test
{
	my ($job, $parser) = @_;
	my $file = ref $job ? $job->[0] : $job;
	my $file_failed = () = $parser->failed;

	$passed += () = $parser->passed;
	$skipped += () = $parser->skipped;
	if ($parser->tests_run == 0)
	{
		push @said, "$file: ran no tests" . ($parser->skip_all ? ': ' . $parser->skip_all : '') . "\n";
		$file_failed = 1;
	}
	elsif ($parser->has_problems && $file_failed == 0)
	{
		push @said, "$file: ended with status " . ($parser->exit // '?') . "\n";
		push @said, "$file: $_\n" for $parser->parse_errors;
		$file_failed = 1;
	}
	$failed += $file_failed;
	show_logs($file) if $file_failed && defined $logs;
	write_tally();
	return;
}

my %arguments = (lib => \@include, timer => 1);

if (defined $dbname)
{
	require TAP::Parser::SourceHandler::pgTAP;
	$arguments{sources} =
	  { pgTAP => { dbname => $dbname, psql => $psql, suffix => ['.sql'] } };
}

write_tally();
exit 0 unless @ARGV;
my $harness = TAP::Harness->new(\%arguments);

$harness->callback(after_test => \&after_test);
$harness->callback(made_parser => \&listen) unless defined $logs;
$harness->runtests(@ARGV);
print "$skipped tests were skipped\n" if $skipped;
print "--- what has failed\n", @said if @said;
