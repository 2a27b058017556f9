# What the soak test measures, and what it makes of it.
#
# Samples are taken at an interval and kept in memory (a few hundred): memory of
# each of the store's processes, sizes, dead rows, ages, lags.  What is judged
# is the second half of a run, in which the server is not restarted.

package EventStoreTest::SoakReport;

use strict;
use warnings;

use EventStoreTest;
use Exporter 'import';
use List::Util qw(max min sum);
use Time::HiRes qw(time);

our @EXPORT_OK = qw(take_sample memory_growth growth_of write_tables);

# RssAnon of a process in kB: its own memory, without what it shares.
sub own_memory
{
	my ($pid) = @_;
	open my $status, '<', "/proc/$pid/status" or return undef;
	my ($line) = grep { /^RssAnon:/ } <$status>;
	return $line && $line =~ /(\d+)/ ? $1 : undef;
}

# One sample at a time in seconds since the start of the run.
sub take_sample
{
	my ($dbh, $second) = @_;
	my %sample = (second => $second, memory => {});
	my $processes = $dbh->selectall_arrayref(
		q{SELECT pid, CASE WHEN backend_type = 'client backend' THEN application_name ELSE backend_type END
		  FROM pg_catalog.pg_stat_activity
		  WHERE application_name LIKE 'soak-v-%' OR backend_type LIKE 'event_store %'});

	foreach my $process (@$processes)
	{
		my $memory = own_memory($process->[0]);
		$sample{memory}{"$process->[1] $process->[0]"} = $memory if defined $memory;
	}
	# the log grows with what is appended, bookkeeping must not
	$sample{sizes} = {
		map { @$_ } @{
			$dbh->selectall_arrayref(
				q{SELECT c.relname, pg_catalog.pg_total_relation_size(c.oid) FROM pg_catalog.pg_class c
				  WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind = 'r'}) } };
	@sample{qw(events dead rows)} = $dbh->selectrow_array(
		q{SELECT sum(n_live_tup) FILTER (WHERE relname = 'event'), sum(n_dead_tup), sum(n_live_tup)
		  FROM pg_catalog.pg_stat_user_tables WHERE schemaname = 'event_store'});
	@sample{qw(xid_age)} = $dbh->selectrow_array(
		'SELECT age(datfrozenxid) FROM pg_catalog.pg_database WHERE datname = current_database()');
	@sample{qw(xmin_age oldest)} = $dbh->selectrow_array(
		q{SELECT coalesce(max(age(backend_xmin)), 0),
				 coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0)::float8
		  FROM pg_catalog.pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type <> 'autovacuum worker'});
	@sample{qw(head unsettled)} = $dbh->selectrow_array(
		'SELECT settled_head, last_position - settled_head FROM event_store.status');
	$sample{lag} = {
		map { @$_ } @{
			$dbh->selectall_arrayref(
				'SELECT name, lag_events FROM event_store.subscriptions UNION ALL '
				  . 'SELECT name, lag_events FROM event_store.projections WHERE NOT is_shadow') } };
	return \%sample;
}

# Least squares: how much [x, y] ... grow from the first x to the last.
sub growth_of
{
	my (@points) = @_;
	my $n = @points;
	my ($x, $y) = map { my $k = $_; sum(map { $_->[$k] } @points) / $n } 0, 1;
	my $down = sum(map { ($_->[0] - $x)**2 } @points);
	return 0 if !$down;
	my $slope = sum(map { ($_->[0] - $x) * ($_->[1] - $y) } @points) / $down;
	return $slope * ($points[-1][0] - $points[0][0]);
}

# Growth in kB of each process that lived through at least three quarters of
# the given samples.
sub memory_growth
{
	my (@samples) = @_;
	my (%points, %growth);

	foreach my $sample (@samples)
	{
		push @{ $points{$_} }, [ $sample->{second}, $sample->{memory}{$_} ] for keys %{ $sample->{memory} };
	}
	foreach my $process (keys %points)
	{
		my $points = $points{$process};
		next if @$points < 3 || @$points < 0.75 * @samples;
		$growth{$process} = { growth => growth_of(@$points), first => $points->[0][1], last => $points->[-1][1] };
	}
	return \%growth;
}

# Two tables for gnuplot, in $folder: samples, and memory by process.  Their
# columns stand in their first lines.
sub write_tables
{
	my ($folder, $latency, @samples) = @_;
	my @names = sort { $a cmp $b } keys %{ { map { %{ $_->{lag} } } @samples } };
	my %at = map { $_->[0] => $_ } @$latency;

	open my $table, '>', "$folder/samples.tsv" or die "$folder/samples.tsv: $!";
	print $table join("\t", qw(minute events log_mb bookkeeping_kb dead_rows xid_age xmin_age unsettled), map { "lag_$_" } @names), "\n";
	foreach my $sample (@samples)
	{
		my %size = %{ $sample->{sizes} };
		my $log = sum(map { $size{$_} } qw(event stream event_type mark snapshot));
		print $table join("\t",
			sprintf('%.2f', $sample->{second} / 60), $sample->{head},
			sprintf('%.1f', $log / 1048576), sprintf('%.0f', (sum(values %size) - $log) / 1024),
			(map { defined $_ ? $_ : 0 } @$sample{qw(dead xid_age xmin_age unsettled)}),
			map { defined $_ ? $_ : 'NaN' } map { $sample->{lag}{$_} } @names), "\n";
	}
	close $table or die $!;

	open my $calls, '>', "$folder/latency.tsv" or die "$folder/latency.tsv: $!";
	print $calls join("\t", qw(minute calls p50_ms p99_ms)), "\n";
	print $calls join("\t", @$_), "\n" for @$latency;
	close $calls or die $!;

	# a block for each process, as gnuplot's "index" counts them
	my %memory;
	foreach my $sample (@samples)
	{
		push @{ $memory{$_} }, [ $sample->{second} / 60, $sample->{memory}{$_} / 1024 ] for keys %{ $sample->{memory} };
	}
	open my $blocks, '>', "$folder/memory.tsv" or die "$folder/memory.tsv: $!";
	foreach my $process (sort keys %memory)
	{
		next if @{ $memory{$process} } < 3;
		print $blocks qq("$process"\n), map({ sprintf "%.2f\t%.2f\n", @$_ } @{ $memory{$process} }), "\n\n";
	}
	close $blocks or die $!;
	return;
}

1;
