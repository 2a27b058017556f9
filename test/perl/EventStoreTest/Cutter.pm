# A proxy before a server that cuts connections: each after a random number
# of bytes in one direction, in the middle of a message or between two.
# What was let through before is delivered; then both sides are closed.
#
# It listens on a Unix socket in a folder of its own, and is a process of its
# own.  An object stands for a server to connect_store.

package EventStoreTest::Cutter;

use strict;
use warnings;

use File::Temp ();
use IO::Select;
use IO::Socket::UNIX;
use POSIX ();
use Socket qw(SOCK_STREAM SOMAXCONN);

# most: the largest number of bytes before a cut, of nine connections in ten.
sub new
{
	my ($class, $node, $seed, $most) = @_;
	my $folder = File::Temp::tempdir('es_cut_XXXXXX', TMPDIR => 1, CLEANUP => 1);
	my $self = bless { folder => $folder, port => $node->port, parent => $$ }, $class;
	my $listener = IO::Socket::UNIX->new(
		Type => SOCK_STREAM, Local => "$folder/.s.PGSQL." . $node->port, Listen => SOMAXCONN)
	  or die "cannot listen in $folder: $!";

	$self->{pid} = fork();
	die "fork: $!" unless defined $self->{pid};
	if (!$self->{pid})
	{
		$SIG{PIPE} = 'IGNORE';
		srand($seed);
		eval { serve($listener, $node->host . '/.s.PGSQL.' . $node->port, $most, "$folder/cuts") };
		print STDERR "cutter: $@";
		POSIX::_exit(1);
	}
	return $self;
}

sub host { return $_[0]{folder} }
sub port { return $_[0]{port} }

# How often it has cut so far, [from client to server, from server to client].
sub cuts
{
	my ($self) = @_;
	open my $file, '<', "$self->{folder}/cuts" or return [ 0, 0 ];
	my @count = (0, 0);
	$count[$_]++ for map { 0 + $_ } <$file>;
	return \@count;
}

sub stop
{
	my ($self) = @_;
	my $pid = delete $self->{pid} or return;
	kill 'KILL', $pid;
	waitpid $pid, 0;
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local $?;
	$self->stop if $$ == $self->{parent};
	return;
}

sub serve
{
	my ($listener, $server, $most, $log) = @_;
	my $select = IO::Select->new($listener);
	my %side;    # socket => [other socket, direction, connection]

	open my $cuts, '>>', $log or die "$log: $!";
	$cuts->autoflush(1);
	while (1)
	{
		foreach my $socket ($select->can_read)
		{
			if ($socket == $listener)
			{
				my $client = $listener->accept or next;
				my $upstream = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $server);
				# the server is not there: as if it had refused
				next unless $upstream;
				# one in ten lasts longer, or a long answer would never come through
				my %connection = (direction => int(rand(2)), left => 1 + int(rand($most * (rand() < 0.9 ? 1 : 20))));
				$side{$client} = [ $upstream, 0, \%connection ];
				$side{$upstream} = [ $client, 1, \%connection ];
				$select->add($client, $upstream);
				next;
			}
			my $side = $side{$socket} or next;
			my ($other, $direction, $connection) = @$side;
			my $read = sysread($socket, my $bytes, 65536);
			my $over = !$read;
			if ($read && $direction == $connection->{direction})
			{
				if ($read >= $connection->{left})
				{
					$bytes = substr($bytes, 0, $connection->{left});
					$over = 1;
					print $cuts "$direction\n";
				}
				$connection->{left} -= length $bytes;
			}
			while ($read && length $bytes)
			{
				my $written = syswrite($other, $bytes);
				if (!defined $written)
				{
					$over = 1;
					last;
				}
				substr($bytes, 0, $written, '');
			}
			next unless $over;
			$select->remove($socket, $other);
			delete @side{ $socket, $other };
			close $_ for $socket, $other;
		}
	}
	return;
}

1;
