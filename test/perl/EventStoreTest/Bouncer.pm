# PgBouncer in transaction mode in front of a test's server.

package EventStoreTest::Bouncer;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();

our @EXPORT = qw(start_bouncer stop_bouncer bouncer_version);

my $program;
my $pid;

sub program
{
	$program ||= (grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin')[0]
	  or die "pgbouncer is not installed\n";
	return $program;
}

# As a number: 1.18.
sub bouncer_version
{
	my ($version) = qx(@{[ program() ]} --version) =~ /PgBouncer (\d+\.\d+)/;
	return $version;
}

# Start it; result: where it listens, (folder of the socket, port).  It may
# take a moment until it does.
sub start_bouncer
{
	my ($node) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $user = (getpwuid($<))[0];

	open my $conf, '>', "$dir/pgbouncer.ini" or die $!;
	print $conf <<"EOT";
[databases]
postgres = host=@{[ $node->host ]} port=@{[ $node->port ]} dbname=postgres user=$user
[pgbouncer]
listen_addr =
listen_port = $port
unix_socket_dir = $dir
auth_type = any
pool_mode = transaction
default_pool_size = 10
max_client_conn = 100
server_round_robin = 1
logfile = $dir/pgbouncer.log
pidfile = $dir/pgbouncer.pid
ignore_startup_parameters = extra_float_digits,options
EOT
	# 1.21 learned to carry named prepared statements from session to session
	print $conf "max_prepared_statements = 100\n" if bouncer_version() >= 1.21;
	close $conf;
	$pid = fork();
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open STDOUT, '>', "$dir/out";
		open STDERR, '>&', \*STDOUT;
		exec(program(), '-q', "$dir/pgbouncer.ini") or POSIX::_exit(127);
	}
	return ($dir, $port);
}

sub stop_bouncer
{
	return unless $pid;
	kill 'TERM', $pid;
	waitpid $pid, 0;
	undef $pid;
	return;
}

END
{
	my $code = $?;
	stop_bouncer();
	$? = $code;
}

1;
