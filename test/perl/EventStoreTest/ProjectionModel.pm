# A model of projections for randomised tests.
#
# Every handler writes what it is given to table applied, in order, and to
# table outbox unless es_is_replaying().  What an operator does to a projection
# is noted by the transaction that does it, so at the end, whatever was killed
# meanwhile, it can be said which events must be in a read model.

package EventStoreTest::ProjectionModel;

use strict;
use warnings;

use EventStoreTest;
use Exporter 'import';

our @EXPORT_OK = qw(model_schema model_write model_operate model_settle model_faults);

my @names = map { "p$_" } 1 .. 6;
my @kinds = qw(a b c);

# What may be refused when operators, handlers and kills meet.
my %expected = map { $_ => 1 } qw(VE006 55000 55006 42704 42710 40001 40P01 55P03);

sub model_schema
{
	my ($dbh) = @_;
	run_sql($dbh,
		'CREATE TABLE applied (seq bigserial, target text, position bigint, stream text)',
		'CREATE INDEX ON applied (target)',
		'CREATE TABLE outbox (incarnation bigint, position bigint)',
		'CREATE TABLE repaired (kind text)',
		# one for each projection: the read models of its present and its next version;
		# plain = it wanted everything from the start
		'CREATE TABLE model (name text PRIMARY KEY, incarnation bigint, plain boolean, target text, next_target text)',
		# where a read model begins; what was given up
		'CREATE TABLE start (target text PRIMARY KEY, after_position bigint)',
		'CREATE TABLE given_up (target text, position bigint, disposition text)',
		'CREATE SEQUENCE target_seq',
		# every second projection has an owner without special rights
		'CREATE ROLE second LOGIN', q{SELECT es_grant('second', 'admin')},
		'GRANT ALL ON ALL TABLES IN SCHEMA public TO second',
		'GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO second');
	return;
}

# A handler for a new read model; returns its name and the handlers.
sub new_target
{
	my ($dbh, $incarnation) = @_;
	my $target = 't' . sql_value($dbh, q{SELECT nextval('target_seq')});
	my $set = random_int(0, 1);
	my ($argument, $events) =
	  $set ? ('events es_event[]', 'unnest(events) WITH ORDINALITY AS e')
	       : ('event es_event', '(SELECT event.*, 1 AS ordinality) AS e');
	$dbh->do("CREATE FUNCTION on_$target($argument) RETURNS void LANGUAGE plpgsql AS \$\$
		BEGIN
			INSERT INTO applied (target, position, stream)
			SELECT '$target', e.global_position, e.stream_id FROM $events ORDER BY e.ordinality;
			IF NOT es_is_replaying() THEN
				INSERT INTO outbox SELECT $incarnation, e.global_position FROM $events;
			END IF;
			IF EXISTS (SELECT FROM $events WHERE jsonb_exists(e.data, 'bad')
					   AND e.data->>'bad' NOT IN (SELECT kind FROM repaired)) THEN
				RAISE 'bad' USING ERRCODE = 'P0BAD';
			END IF;
		END \$\$");
	$dbh->do("CREATE FUNCTION reset_$target() RETURNS void LANGUAGE sql AS \$\$
		DELETE FROM applied WHERE target = '$target';
		DELETE FROM given_up WHERE target = '$target';
		UPDATE start SET after_position = 0 WHERE target = '$target' \$\$");
	$dbh->do('INSERT INTO start VALUES (?, 0)', undef, $target);
	return ($target, "on_$target(" . ($set ? 'es_event[])' : 'es_event)'), "reset_$target()");
}

# End transactions that somebody has prepared and not come back for.
sub finish_prepared
{
	my ($dbh, $age) = @_;
	my $ids = $dbh->selectcol_arrayref(
		'SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE prepared < now() - ?::interval',
		undef, $age);
	eval { $dbh->do("COMMIT PREPARED '$_'") } for @$ids;
	return;
}

# Append until told to stop: transactions that stay open, roll back, roll back
# to a savepoint or are prepared; some events are bad.
sub model_write
{
	my ($node, $streams) = @_;
	my ($dbh, $count) = (undef, 0);
	until (flag_is_set('stop'))
	{
		$dbh = connect_store($node, fail_ok => 1) unless $dbh;
		next unless $dbh;
		my $done = eval {
			my $way = random_int(1, 20);

			# a stream may be locked by a transaction that a crash has left prepared
			$dbh->do(q{SET lock_timeout = '300 ms'});
			finish_prepared($dbh, '1 s');
			$dbh->begin_work;
			foreach my $n (1 .. random_int(1, 3))
			{
				$dbh->do('SAVEPOINT s');
				my $stream = (qw(A B))[ random_int(0, 1) ] . '-' . random_int(1, $streams);
				my $kind = random_int(1, 60) == 1 ? $kinds[ random_int(0, $#kinds) ] : undef;
				append_batch($dbh, $stream, ANY, (qw(One Two))[ random_int(0, 1) ],
					[ map { undef } 1 .. random_int(1, 4) ],
					$kind ? qq({"bad": "$kind"}) : '{"n": 1}');
				$dbh->do('ROLLBACK TO s') if $way == 1;
				$count++;
			}
			random_pause(30) if $way <= 4;
			if ($way == 5)
			{
				my $id = random_uuid();
				$dbh->do("PREPARE TRANSACTION '$id'");
				eval { $dbh->commit };
				random_pause(50);
				$dbh->do((qw(COMMIT ROLLBACK))[ random_int(0, 1) ] . " PREPARED '$id'");
			}
			elsif ($way <= 7) { $dbh->rollback }
			else { $dbh->commit }
			1;
		};
		random_pause(20);
		next if $done;
		eval { $dbh->rollback };
		$dbh = undef if connection_lost($dbh);
	}
	return { count => $count };
}

sub create_projection
{
	my ($dbh, $name) = @_;
	my $incarnation = sql_value($dbh, q{SELECT nextval('target_seq')});

	# somebody else was faster?
	return
	  if $dbh->do('INSERT INTO model VALUES (?, ?) ON CONFLICT DO NOTHING', undef, $name,
		$incarnation) == 0;
	my ($target, $handler, $reset) = new_target($dbh, $incarnation);
	my $after = random_int(0, 3) ? 0 : sql_value($dbh, 'SELECT es_head() / 2');
	$dbh->do('UPDATE start SET after_position = ? WHERE target = ?', undef, $after, $target);
	my @filters = map { random_int(0, 3) ? undef : [$_] } qw(A One);
	$dbh->do('UPDATE model SET plain = ?, target = ? WHERE name = ?', undef,
		$after || grep({ defined } @filters) ? 0 : 1, $target, $name);
	$dbh->do('SET LOCAL ROLE second') if substr($name, 1) % 2;
	$dbh->do('SELECT es_create_projection(?, ?::regprocedure, ?, ?, ?, ?, ?, ?::regprocedure, 2)',
		undef, $name, $handler,
		@filters, (3, 10, 50, 1000)[ random_int(0, 3) ], $after,
		(qw(stop park skip))[ substr($name, 1) % 3 ], $reset);
	$dbh->do('RESET ROLE');
	return;
}

# One random operation, in a transaction with what is noted about it.
sub operate
{
	my ($dbh, $name) = @_;
	my $stream = random_int(0, 1) ? undef
	  : sql_value($dbh, 'SELECT stream_id FROM event_store.projection_parked WHERE projection = ? LIMIT 1',
		$name);
	my $choice = random_int(1, 100);
	if ($choice <= 10)
	{
		my $kind = $kinds[ random_int(0, $#kinds) ];
		random_int(0, 1) ? $dbh->do('DELETE FROM repaired WHERE kind = ?', undef, $kind)
		  : $dbh->do('INSERT INTO repaired VALUES (?)', undef, $kind);
		return;
	}

	# only for what is noted here; the functions have locks of their own
	my $model = $dbh->selectrow_hashref('SELECT * FROM model WHERE name = ? FOR UPDATE', undef, $name);
	if (!$model) { create_projection($dbh, $name) }
	elsif ($choice <= 20) { $dbh->do('SELECT es_pause_projection(?)', undef, $name) }
	elsif ($choice <= 50) { $dbh->do('SELECT es_resume_projection(?)', undef, $name) }
	elsif ($choice <= 54) { $dbh->do('SELECT es_rebuild_projection(?)', undef, $name) }
	elsif ($choice <= 64)
	{
		my ($target, $handler, $reset) = new_target($dbh, $model->{incarnation});
		$dbh->do('UPDATE model SET next_target = ? WHERE name = ?', undef, $target, $name);
		$dbh->do('SELECT es_prepare_projection(?, ?::regprocedure, ?::regprocedure, NULL, NULL, ?)',
			undef, $name, $handler, $reset, random_int(0, 3) ? 1 : 0);
	}
	elsif ($choice <= 72)
	{
		$dbh->do('SELECT es_switch_projection(?, NULL, ?)', undef, $name,
			random_int(0, 1) ? 1000000 : 100);
		$dbh->do('UPDATE model SET target = next_target, next_target = NULL WHERE name = ?',
			undef, $name);
	}
	elsif ($choice <= 75)
	{
		$dbh->do('SELECT es_cancel_rebuild(?)', undef, $name);
		$dbh->do('UPDATE model SET next_target = NULL WHERE name = ?', undef, $name);
	}
	elsif ($choice <= 83)
	{
		$dbh->do('SELECT es_retry_projection_parked(?, ?)', undef, $name, $stream);
	}
	elsif ($choice <= 87)
	{
		$dbh->do('SELECT FROM event_store.projection WHERE name = ? AND NOT is_shadow FOR UPDATE',
			undef, $name);
		$dbh->do(
			q{INSERT INTO given_up SELECT ?, global_position, disposition
			  FROM event_store.projection_parked
			  WHERE projection = ? AND NOT is_shadow AND (?::text IS NULL OR stream_id = ?)},
			undef, $model->{target}, $name, $stream, $stream);
		$dbh->do('SELECT es_discard_projection_parked(?, ?)', undef, $name, $stream);
	}
	elsif ($choice <= 97) { $dbh->do('SELECT es_run_projection(?)', undef, $name) }
	else
	{
		$dbh->do('SELECT es_drop_projection(?)', undef, $name);
		$dbh->do('DELETE FROM model WHERE name = ?', undef, $name);
	}
	return;
}

# Operate until told to stop; what must not have happened comes back.
sub model_operate
{
	my ($node) = @_;
	my ($dbh, $count, %refused, @strange) = (undef, 0);
	until (flag_is_set('stop'))
	{
		$dbh = connect_store($node, fail_ok => 1) unless $dbh;
		next unless $dbh;
		my $done = eval {
			$dbh->begin_work;
			operate($dbh, $names[ random_int(0, $#names) ]);
			random_int(1, 10) == 1 ? $dbh->rollback : $dbh->commit;
			$count++;
			1;
		};
		if (!$done)
		{
			my ($state, $message) = ($dbh->state || '', $@);
			eval { $dbh->rollback };
			if (connection_lost($dbh)) { $dbh = undef }
			else
			{
				$refused{$state}++;
				push @strange, "$state $message" unless $expected{$state};
			}
		}
		random_pause(10);
	}
	return { count => $count, refused => \%refused, strange => \@strange };
}

# Everything is repaired and may go on; wait until it is done.  Returns what
# did not get there.
sub model_settle
{
	my ($dbh) = @_;
	finish_prepared($dbh, '0 s');
	$dbh->do('INSERT INTO repaired VALUES (?)', undef, $_) for @kinds;
	my @late;
	foreach my $name (@{ $dbh->selectcol_arrayref('SELECT name FROM model ORDER BY 1') })
	{
		$dbh->do('SELECT es_resume_projection(?)', undef, $name);
		$dbh->do('SELECT es_retry_projection_parked(?)', undef, $name);
		push @late, $name
		  unless poll_until(
			sub { sql_value($dbh, q{SELECT es_wait_projection(?, es_head(), '1 s')::int}, $name) });

		# the worker may have parked one more before the repair
		$dbh->do('SELECT es_retry_projection_parked(?)', undef, $name);
	}
	push @late, 'a new version'
	  unless poll_until(
		sub {
			sql_value($dbh, 'SELECT count(*) = 0 FROM event_store.projection_progress
							  WHERE events_to_do > 0');
		});
	return join ', ', @late;
}

# What is wrong with the read models; '' = nothing.
sub model_faults
{
	my ($dbh) = @_;
	$dbh->do('ANALYZE');
	$dbh->do(
		q{CREATE TEMPORARY VIEW served AS
		  SELECT p.name, p.is_shadow, p.policy, p.position, p.categories, p.event_types, m.incarnation, m.plain,
				 CASE WHEN p.is_shadow THEN m.next_target ELSE m.target END AS target
			FROM event_store.projection p LEFT JOIN model m USING (name)});
	$dbh->do(
		q{CREATE TEMPORARY VIEW wanted AS
		  SELECT s.target, e.global_position AS position
			FROM served s JOIN start USING (target)
			JOIN event_store.events e ON e.global_position > start.after_position
				AND e.global_position <= s.position
				AND (s.categories IS NULL OR split_part(e.stream_id, '-', 1) = ANY (s.categories))
				AND (s.event_types IS NULL OR e.event_type = ANY (s.event_types))
		  EXCEPT SELECT s.target, k.global_position FROM event_store.projection_parked k
			JOIN served s ON s.name = k.projection AND s.is_shadow = k.is_shadow
		  EXCEPT SELECT target, position FROM given_up});
	my %check = (
		'applied, but not wanted' =>
		  q{SELECT a.target, a.position FROM applied a JOIN served USING (target)
			EXCEPT SELECT target, position FROM wanted},
		'wanted, but not applied' =>
		  q{SELECT target, position FROM wanted EXCEPT SELECT target, position FROM applied},
		'applied twice' =>
		  q{SELECT a.target, a.position FROM applied a JOIN served USING (target)
			GROUP BY 1, 2 HAVING count(*) > 1},
		'out of order' =>
		  q{SELECT target, position FROM (
				SELECT a.target, a.position, lag(a.position) OVER (PARTITION BY a.target, a.stream ORDER BY a.seq) AS before
				  FROM applied a JOIN served USING (target)) o
			WHERE before > position},
		'side effect twice' =>
		  q{SELECT incarnation::text, position FROM outbox GROUP BY 1, 2 HAVING count(*) > 1},
		'side effect missing' =>
		  q{SELECT s.incarnation::text, w.position FROM served s JOIN wanted w USING (target)
			WHERE s.policy = 'stop' AND s.plain AND NOT s.is_shadow
			  AND NOT EXISTS (SELECT FROM outbox o
							   WHERE o.incarnation = s.incarnation AND o.position = w.position)},
		'given up without cause' =>
		  q{SELECT k.projection, k.global_position
			  FROM (SELECT projection, global_position, disposition FROM event_store.projection_parked
					UNION ALL SELECT target, position, disposition FROM given_up) k
			  JOIN event_store.events e USING (global_position)
			 WHERE k.disposition <> 'behind' AND NOT jsonb_exists(e.data, 'bad')},
		'not known' => q{SELECT name, position FROM served WHERE target IS NULL});
	my @faults;
	foreach my $title (sort keys %check)
	{
		my $rows = $dbh->selectall_arrayref("$check{$title} ORDER BY 1, 2 LIMIT 20");
		push @faults, "$title: " . join(', ', map { "$_->[0] at $_->[1]" } @$rows) if @$rows;
	}
	return join '; ', @faults;
}

1;
