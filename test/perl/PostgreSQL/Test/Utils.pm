# PostgreSQL::Test::Utils for every major version: see Cluster.pm beside it.
# Before 15 the module was called TestLib.

package PostgreSQL::Test::Utils;

use strict;
use warnings;

my $here = __FILE__;
my ($real) = grep { -e $_ && !_same_file($_, $here) }
  map { "$_/PostgreSQL/Test/Utils.pm" } grep { !ref } @INC;

if ($real)
{
	require $real;
}
else
{
	require TestLib;
	no strict 'refs';
	foreach my $name (keys %TestLib::)
	{
		*{"PostgreSQL::Test::Utils::$name"} = \&{"TestLib::$name"}
		  if defined &{"TestLib::$name"};
	}
	*PostgreSQL::Test::Utils::tmp_check = \$TestLib::tmp_check;
	*PostgreSQL::Test::Utils::log_path = \$TestLib::log_path;
}

sub _same_file
{
	my ($one, $two) = @_;
	my @one = stat $one;
	my @two = stat $two;
	return @one && @two && $one[0] == $two[0] && $one[1] == $two[1];
}

1;
