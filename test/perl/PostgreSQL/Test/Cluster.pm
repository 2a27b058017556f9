# PostgreSQL::Test::Cluster for every major version.
#
# Since 15 the server's own test modules have this name; before, the same class
# was called PostgresNode.  When the server's copy exists somewhere else in
# @INC, it is loaded and this file does nothing; otherwise the old class is
# loaded and gets the new name.

package PostgreSQL::Test::Cluster;

use strict;
use warnings;

my $here = __FILE__;
my ($real) = grep { -e $_ && !_same_file($_, $here) }
  map { "$_/PostgreSQL/Test/Cluster.pm" } grep { !ref } @INC;

if ($real)
{
	require $real;
}
else
{
	require PostgresNode;
	require PostgreSQL::Test::Utils;
	our @ISA = ('PostgresNode');
	no warnings 'redefine';
	*new = sub {
		my ($class, $name, %params) = @_;
		my $node = PostgresNode->get_new_node($name, %params);
		return bless $node, $class;
	};
}

sub _same_file
{
	my ($one, $two) = @_;
	my @one = stat $one;
	my @two = stat $two;
	return @one && @two && $one[0] == $two[0] && $one[1] == $two[1];
}

1;
