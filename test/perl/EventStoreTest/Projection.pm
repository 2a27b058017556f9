# Helpers for the TAP tests of projections: a read model of counts and sums per
# stream, and its recomputation from the events.

package EventStoreTest::Projection;

use strict;
use warnings;

use EventStoreTest;
use Exporter 'import';
use Test::More;

our @EXPORT_OK = qw(
  create_model write_amounts differences caught_up worker_pid wait_for_worker
  projection
);

# Options: name, set (set-based handler), schema.
sub create_model
{
	my ($dbh, $table, %opt) = @_;
	my $upsert = "ON CONFLICT (id) DO UPDATE SET n = $table.n + EXCLUDED.n, "
	  . "total = $table.total + EXCLUDED.total, last = EXCLUDED.last";
	$dbh->do("CREATE TABLE $table (id text PRIMARY KEY, n bigint, total bigint, last bigint)");
	if ($opt{set})
	{
		$dbh->do("CREATE FUNCTION on_$table(events es_event[]) RETURNS void LANGUAGE sql AS \$\$
			INSERT INTO $table SELECT stream_id, count(*), sum((data->>'n')::bigint), max(version)
			FROM unnest(events) GROUP BY 1 $upsert \$\$");
	}
	else
	{
		# The order within a stream is checked with every event.
		$dbh->do("CREATE FUNCTION on_$table(e es_event) RETURNS void LANGUAGE plpgsql AS \$\$
			BEGIN
				INSERT INTO $table VALUES (e.stream_id, 1, (e.data->>'n')::bigint, e.version)
				$upsert WHERE $table.last = EXCLUDED.last - 1;
				IF NOT FOUND THEN
					RAISE 'event % of stream % out of order', e.version, e.stream_id;
				END IF;
			END \$\$");
	}
	return $opt{set} ? "on_$table(es_event[])" : "on_$table(es_event)";
}

# What tells the read model from a recomputation; '' = nothing.
sub differences
{
	my ($dbh, $table, $where) = @_;
	$where = $where ? "WHERE $where" : '';
	return sql_value(
		$dbh, qq{
		WITH truth AS (SELECT stream_id AS id, count(*) AS n, sum((data->>'n')::bigint) AS total,
							  max(version) AS last
					   FROM event_store.events $where GROUP BY 1)
		SELECT coalesce(string_agg(coalesce(t.id, m.id) || ': ' || coalesce(m.n, 0) ||
								   ' instead of ' || coalesce(t.n, 0), ', '), '')
		FROM truth t FULL JOIN $table m ON m.id = t.id
		WHERE (t.n, t.total, t.last) IS DISTINCT FROM (m.n, m.total, m.last)});
}

# Until the named projections have applied everything that is there.
sub caught_up
{
	my ($dbh, @names) = @_;
	foreach my $name (@names)
	{
		my $reached = poll_until(
			sub {
				sql_value($dbh, "SELECT es_wait_projection(?, es_head(), '5 s')::int", $name);
			});
		ok($reached, "$name catches up") or diag explain projection($dbh, $name);
	}
	return;
}

sub projection
{
	my ($dbh, $name) = @_;
	return $dbh->selectrow_hashref(
		'SELECT * FROM event_store.projections WHERE name = ? AND NOT is_shadow',
		undef, $name);
}

sub worker_pid
{
	my ($dbh) = @_;
	return sql_value($dbh,
		q{SELECT pid FROM pg_catalog.pg_stat_activity
		  WHERE backend_type = 'event_store projections' AND datname = current_database()
		  LIMIT 1});
}

sub wait_for_worker
{
	my ($dbh) = @_;
	return poll_until(sub { worker_pid($dbh) }, 20);
}

# Append to random streams until told to stop, through any crash.  Options: db,
# pause.
sub write_amounts
{
	my ($node, $streams, %opt) = @_;
	my $dbh;
	my $count = 0;
	until (flag_is_set('stop'))
	{
		$dbh = connect_store($node, fail_ok => 1, db => $opt{db}) unless $dbh;
		next unless $dbh;
		my $done = eval {
			my @ids = map { undef } 1 .. random_int(1, 5);
			append_batch($dbh, 'Acc-' . random_int(1, $streams), ANY, 'Added', \@ids);
			$count += @ids;
			1;
		};
		$dbh = undef unless $done || !connection_lost($dbh);
		random_pause($opt{pause}) if $opt{pause};
	}
	return { count => $count };
}

1;
