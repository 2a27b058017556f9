# What the clients of EventStoreTest::Soak have written down, compared with the
# store by SQL.

package EventStoreTest::SoakCheck;

use strict;
use warnings;

use EventStoreTest;
use Exporter 'import';

our @EXPORT_OK = qw(soak_caught_up soak_load soak_faults);

# Everybody at the head, nothing held up.  Consumers fail no more; what they
# have failed at before is delivered again.  Says what is left otherwise.
sub soak_caught_up
{
	my ($dbh, $patience) = @_;
	my $left;
	poll_until(
		sub {
			$dbh->do(qq{SELECT es_retry_parked('$_')}) for qw(alone group filter);
			$left = sql_value($dbh, q{
				SELECT string_agg(q.t, '; ') FROM (
					SELECT format('%s: lag %s, %s held up %s', name, lag_events, retrying_streams + parked_streams, reason) AS t
					FROM event_store.subscriptions WHERE lag_events IS DISTINCT FROM 0 OR retrying_streams + parked_streams > 0
					UNION ALL
					SELECT format('%s: lag %s, %s %s', name, lag_events, state, error_message)
					FROM event_store.projections WHERE lag_events IS DISTINCT FROM 0 OR state <> 'running' AND NOT is_shadow) q});
			random_pause(300);
			return !defined $left;
		},
		$patience);
	return defined $left ? $left : '';
}

# What the clients have written down, as tables.
sub soak_load
{
	my ($dbh, $acknowledged, $followed) = @_;

	run_sql($dbh,
		'CREATE TABLE acknowledged (id uuid, stream text, version bigint, position bigint, form text, second bigint, microseconds bigint)',
		'CREATE TABLE followed (follower int, seq bigserial, position bigint, stream text, version bigint)');
	copy_in($dbh, 'acknowledged', $_) for @$acknowledged;
	foreach my $follower (1 .. @$followed)
	{
		$dbh->do("ALTER TABLE followed ALTER follower SET DEFAULT $follower");
		copy_in($dbh, 'followed (position, stream, version)', $followed->[ $follower - 1 ]);
	}
	run_sql($dbh, 'ANALYZE acknowledged', 'ANALYZE followed', 'ANALYZE handled');
	return;
}

sub copy_in
{
	my ($dbh, $table, $file) = @_;
	open my $lines, '<', $file or die "$file: $!";
	$dbh->do("COPY $table FROM STDIN");
	while (my $line = <$lines>)
	{
		$dbh->pg_putcopydata($line);
	}
	$dbh->pg_putcopyend;
	return;
}

# Queries that find a row for each fault, by what it is.
sub soak_faults
{
	my ($dbh) = @_;
	my $all = 'event_store.events e';
	my %fault = (
		'acknowledged, but not there' =>
		  "SELECT a.id FROM acknowledged a LEFT JOIN $all ON (e.event_id, e.global_position) = (a.id, a.position) "
		  . 'WHERE e.event_id IS NULL OR (e.stream_id, e.version) IS DISTINCT FROM (a.stream, a.version)',
		'there, but not acknowledged' =>
		  "SELECT e.event_id FROM $all LEFT JOIN acknowledged a ON a.id = e.event_id WHERE a.id IS NULL",
		'acknowledged twice' => 'SELECT id FROM acknowledged GROUP BY 1 HAVING count(*) > 1',
		'there twice' => "SELECT e.event_id FROM $all GROUP BY 1 HAVING count(*) > 1",
		'hole in a stream, or out of order' =>
		  'SELECT 1 FROM (SELECT version, row_number() OVER (PARTITION BY stream_id ORDER BY global_position) AS n '
		  . "FROM $all WHERE stream_id IS NOT NULL) q WHERE version <> n",
		'es_verify' => 'SELECT * FROM es_verify()');
	foreach my $follower (@{ $dbh->selectcol_arrayref('SELECT DISTINCT follower FROM followed') })
	{
		$fault{"follower $follower: skipped, doubled or changed"} =
		  "SELECT 1 FROM (SELECT * FROM followed WHERE follower = $follower) f FULL JOIN $all ON e.global_position = f.position "
		  . 'WHERE f.seq IS NULL OR e.global_position IS NULL OR (e.stream_id, e.version) IS DISTINCT FROM (f.stream, f.version) '
		  . "UNION ALL SELECT 1 FROM followed WHERE follower = $follower GROUP BY position HAVING count(*) > 1";
		$fault{"follower $follower: out of order"} =
		  'SELECT 1 FROM (SELECT position, lag(position) OVER (ORDER BY seq) AS before FROM followed '
		  . "WHERE follower = $follower) q WHERE position <= before";
	}
	foreach my $name (qw(alone group filter))
	{
		my $wanted = $name eq 'filter'
		  ? "(SELECT * FROM $all WHERE stream_id LIKE 'Item-%' AND event_type IN ('Made', 'Sent')) e" : $all;
		$fault{"$name: not handled, handled twice, or what it does not want"} =
		  "SELECT 1 FROM (SELECT * FROM handled WHERE consumer = '$name') h FULL JOIN $wanted ON e.global_position = h.position "
		  . 'WHERE h.seq IS NULL OR e.global_position IS NULL '
		  . "UNION ALL SELECT 1 FROM handled WHERE consumer = '$name' GROUP BY position HAVING count(*) > 1";
		$fault{"$name: a stream out of order"} =
		  'SELECT 1 FROM (SELECT version, lag(version) OVER (PARTITION BY stream ORDER BY seq) AS before '
		  . "FROM handled WHERE consumer = '$name' AND stream IS NOT NULL) q WHERE version <= before";
	}
	$fault{'projection counts'} =
	  "SELECT 1 FROM counts c FULL JOIN (SELECT coalesce(split_part(stream_id, '-', 1), 'none') AS category, event_type, "
	  . "count(*) AS n, sum((data->>'n')::bigint) AS total FROM $all GROUP BY 1, 2) t USING (category, event_type) "
	  . 'WHERE (c.n, c.total) IS DISTINCT FROM (t.n, t.total)';
	$fault{'projection streams'} =
	  'SELECT 1 FROM streams s FULL JOIN (SELECT stream_id AS stream, max(version) AS version, max(global_position) AS position '
	  . "FROM $all WHERE stream_id IS NOT NULL GROUP BY 1) t USING (stream) "
	  . 'WHERE (s.version, s.position) IS DISTINCT FROM (t.version, t.position)';
	my $sums = sql_value($dbh, q{SELECT CASE WHEN handler::text LIKE '%sums_1%' THEN 'sums_1' ELSE 'sums_2' END
		FROM event_store.projections WHERE name = 'sums' AND NOT is_shadow});
	$fault{'projection sums'} =
	  "SELECT 1 FROM $sums s FULL JOIN (SELECT (data->>'n')::int % 10 AS kind, count(*) AS n, "
	  . "sum((data->>'n')::bigint) AS total FROM $all WHERE stream_id LIKE 'Item-%' GROUP BY 1) t USING (kind) "
	  . 'WHERE (s.n, s.total) IS DISTINCT FROM (t.n, t.total)';
	return \%fault;
}

1;
