# The documentation as a test: its SQL examples are taken from the fenced
# blocks of README.md and doc/ and run, and what they print is compared.
#
#	```sql			is run by psql, block after block, one session for each file
#	```js, ```python	is a whole program, run behind the file's SQL, in its database
#	```text			directly behind one of these: what it prints, all of it
#	<!-- sql		... -->: is run too, and not shown: tables that examples need
#
# A block with nothing behind it may print what it likes, but no error.  Event
# ids and times are compared as such, whatever their value, and the widths of
# columns do not count.

package EventStoreTest::Documentation;

use strict;
use warnings;

use EventStoreTest;
use Exporter 'import';
use FindBin qw($Bin);
use IPC::Run ();

our @EXPORT = qw(examples run_examples comparable);

# how a program of standard input is run; Node.js finds packages from the folder
# in which it is
my %program = (
	js => [ 'node', '--input-type=module', '-' ],
	python => [ '/usr/bin/python3', '-' ]);

# All blocks of a file: { line, section (its heading), hidden, sql, printed
# (undef: anything without an error) }; those of other languages have {program}
# in place of {sql}.
sub examples
{
	my ($file) = @_;
	my @blocks;
	my ($kind, $text, $line, $directly);
	my $section = '';

	open my $in, '<:encoding(UTF-8)', $file or die "cannot read $file: $!";
	while (<$in>)
	{
		if (defined $kind)
		{
			my $end = $kind eq 'hidden' ? qr/^-->\s*$/ : qr/^```\s*$/;

			if ($_ !~ $end)
			{
				$text .= $_;
				next;
			}
			if ($kind eq 'sql' || $kind eq 'hidden')
			{
				push @blocks, { line => $line, section => $section, hidden => $kind eq 'hidden', sql => $text };
				$directly = $kind eq 'sql';
			}
			elsif ($program{$kind})
			{
				push @blocks, { line => $line, section => $section, program => $program{$kind}, text => $text };
				$directly = 1;
			}
			elsif ($kind eq 'text' && $directly)
			{
				$blocks[-1]{printed} = $text;
				$directly = 0;
			}
			undef $kind;
		}
		elsif (/^```(\w*)\s*$/ || /^<!-- (sql)\s*$/)
		{
			$kind = /^</ ? 'hidden' : $1;
			($text, $line) = ('', $.);
		}
		elsif (/\S/)
		{
			$directly = 0;
			$section = $1 if /^##? (.+?)\s*$/;
		}
	}
	close $in;
	return @blocks;
}

# Run them, the SQL in one psql session; each block gets {got}.
sub run_examples
{
	my ($node, $dbname, @all) = @_;
	my @blocks = grep { defined $_->{sql} } @all;
	my $input = "SET client_min_messages = notice;\n";

	$input .= "\\echo \@\@$_\@\@\n$blocks[$_]{sql}" for 0 .. $#blocks;
	local $ENV{PGTZ} = 'UTC';
	my $output = '';
	# one pipe for both: an error stands where it belongs in what is printed
	IPC::Run::run([ 'psql', '-X', '-q', '-d', $node->connstr($dbname) ],
		'<', \$input, '>', \$output, '2>&1');
	my @got = split /^\@\@\d+\@\@\n/m, $output;

	shift @got;
	$blocks[$_]{got} = $got[$_] // '' for 0 .. $#blocks;
	run_foreign($node, $dbname, $_) for grep { $_->{program} } @all;
	return @all;
}

sub run_foreign
{
	my ($node, $dbname, $block) = @_;
	my $got = '';

	local @ENV{qw(PGHOST PGPORT PGUSER PGDATABASE)} = ($node->host, $node->port, (getpwuid($>))[0], $dbname);
	IPC::Run::run($block->{program}, '<', \$block->{text}, '>', \$got, '2>&1', init => sub { chdir "$Bin/../../examples/node" })
	  or $got .= "ERROR:  the program has failed\n";
	$block->{got} = $got;
	return;
}

# What two runs print alike: values that differ each time, and the widths of
# columns with them, are taken out.
sub comparable
{
	my ($text) = @_;

	for ($text)
	{
		s/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/{id}/g;
		s/\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[+-]\d\d(?::\d\d)?|Z)?/{time}/g;
		s/-{3,}/---/g;
		s/ +/ /g;
		s/ $//mg;
		s/\n+\z/\n/;
	}
	return $text;
}

1;
