# The clients of the soak test: every form of append, readers, consumers,
# projections and their operator, and who kills them.
#
# What a client was told is written to a file of its own, a line for each event,
# and compared with the store by SQL in the end: nobody keeps a history in
# memory, so the clients can run for hours.
#
# Every event has an id that its client has made.  A call whose answer was lost
# is repeated with the same ids until it is answered, so in the end the store
# must have exactly the acknowledged events.
#
# The connections named "soak-v-..." (veterans) end with the server only: their
# memory is watched.

package EventStoreTest::Soak;

use strict;
use warnings;

use EventStoreTest;
use EventStoreTest::Consumers qw(reconnect lost);
use Exporter 'import';
use JSON::PP ();
use Time::HiRes qw(time);

our @EXPORT_OK =
  qw(soak_schema soak_writer soak_follower soak_reader soak_consumer soak_operator
  soak_killer soak_leaker);

my @categories = qw(Order Item Account);

# What may be refused when clients, operators and kills meet.
my $again = qr/^(?:40001|40P01|55P03|55006)$/;

# Read models, and subscriptions with what their consumers have handled.
sub soak_schema
{
	my ($dbh) = @_;

	run_sql($dbh, split /^--\n/m, <<'SQL');
CREATE TABLE handled (seq bigserial, consumer text, position bigint, stream text, version bigint)
--
CREATE TABLE counts (category text, event_type text, n bigint, total bigint, PRIMARY KEY (category, event_type))
--
CREATE FUNCTION on_counts(events es_event[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO counts SELECT coalesce(split_part(stream_id, '-', 1), 'none'), event_type, count(*), sum((data->>'n')::bigint)
	  FROM unnest(events) GROUP BY 1, 2
	ON CONFLICT (category, event_type) DO UPDATE SET n = counts.n + EXCLUDED.n, total = counts.total + EXCLUDED.total $$
--
CREATE FUNCTION reset_counts() RETURNS void LANGUAGE sql AS 'DELETE FROM counts'
--
CREATE TABLE streams (stream text PRIMARY KEY, version bigint, position bigint)
--
CREATE FUNCTION on_streams(e es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	UPDATE streams SET version = (e).version, position = (e).global_position
	 WHERE stream = (e).stream_id AND version = (e).version - 1;
	IF NOT FOUND THEN
		INSERT INTO streams VALUES ((e).stream_id, (e).version, (e).global_position);
		IF (e).version <> 1 THEN
			RAISE 'stream % comes to version % too early', (e).stream_id, (e).version;
		END IF;
	END IF;
END $$
--
CREATE TABLE sums_1 (kind int PRIMARY KEY, n bigint, total bigint)
--
CREATE TABLE sums_2 (kind int PRIMARY KEY, n bigint, total bigint)
--
SELECT es_create_projection('counts', 'on_counts(es_event[])', reset_handler => 'reset_counts()')
--
SELECT es_create_projection('streams', 'on_streams(es_event)', categories => '{Order,Item,Account}')
SQL
	foreach my $n (1, 2)
	{
		run_sql($dbh, qq{CREATE FUNCTION on_sums_$n(events es_event[]) RETURNS void LANGUAGE sql AS \$\$
			INSERT INTO sums_$n SELECT (data->>'n')::int % 10, count(*), sum((data->>'n')::bigint) FROM unnest(events) GROUP BY 1
			ON CONFLICT (kind) DO UPDATE SET n = sums_$n.n + EXCLUDED.n, total = sums_$n.total + EXCLUDED.total \$\$},
			"CREATE FUNCTION reset_sums_$n() RETURNS void LANGUAGE sql AS 'DELETE FROM sums_$n'");
	}
	run_sql($dbh,
		q{SELECT es_create_projection('sums', 'on_sums_1(es_event[])', reset_handler => 'reset_sums_1()', categories => '{Item}')},
		q{SELECT es_create_subscription('alone', retry_delay => '200 ms')},
		q{SELECT es_create_subscription('group', slots => 16, lease => '10 s', retry_delay => '200 ms')},
		q{SELECT es_create_subscription('filter', '{Item}', '{Made,Sent}', lease => '10 s', retry_delay => '200 ms')},
		q{CREATE FUNCTION fold(state jsonb, e es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
			$$ SELECT jsonb_build_object('n', coalesce((state->>'n')::bigint, 0) + 1) $$},
		q{SELECT es_define_aggregate('Account', 'fold(jsonb, es_event)')});
	return;
}

# ---------------------------------------------------------------------------
# Writers

# A call: statement, its arguments, and the events that it is to append, each
# [id, stream (undef: of no stream)].
sub new_call
{
	my ($dbh, $name) = @_;
	my $form = rand();
	my @events = map { new_event($name) } 1 .. ($form < 0.4 ? 1 : random_int(1, 6));
	my $stream = $events[0]{stream_id};
	my $exact = rand() < 0.5;
	my %call = (events => \@events);
	my $json = JSON::PP->new;
	my $version = sub { $exact ? sql_value($dbh, 'SELECT es_stream_version($1)', $_[0]) : ANY };
	my $plain = sub { return { map { $_ => $_[0]{$_} } qw(event_id event_type data) } };

	if ($form < 0.65)
	{
		my $at = $version->($stream);
		$_->{stream_id} = $stream for @events;
		if ($form < 0.4)
		{
			@call{qw(form sql arguments)} = ('es_append',
				'SELECT event_id, version, global_position, is_duplicate FROM es_append($1, $2, $3, $4::jsonb, event_id => $5::uuid)',
				[ $stream, $at, $events[0]{event_type}, $json->encode($events[0]{data}), $events[0]{event_id} ]);
		}
		elsif ($form < 0.55)
		{
			@call{qw(form sql arguments)} = ('es_append_batch',
				'SELECT event_id, version, global_position, is_duplicate '
				  . 'FROM es_append_batch($1, $2, $3::text[], $4::jsonb[], event_ids => $5::uuid[])',
				[ $stream, $at, [ map { $_->{event_type} } @events ],
					[ map { $json->encode($_->{data}) } @events ], [ map { $_->{event_id} } @events ] ]);
		}
		else
		{
			@call{qw(form sql arguments)} = ('es_append of JSON',
				'SELECT event_id, version, global_position, is_duplicate FROM es_append($1, $2, $3::jsonb)',
				[ $stream, $at, $json->encode([ map { $plain->($_) } @events ]) ]);
		}
	}
	elsif ($form < 0.8)
	{
		my %of;
		push @{ $of{ $_->{stream_id} } }, $_ for @events;
		@call{qw(form sql arguments)} = ('es_append_streams',
			'SELECT event_id, version, global_position, is_duplicate FROM es_append_streams($1::jsonb)',
			[ $json->encode([ map {
				{ stream_id => $_, expected_version => 0 + $version->($_), events => [ map { $plain->($_) } @{ $of{$_} } ] }
			} sort keys %of ]) ]);
	}
	elsif ($form < 0.95)
	{
		# some of them belong to no stream
		foreach my $event (@events)
		{
			delete $event->{stream_id} if rand() < 0.3;
			$event->{tags} = [ 'tag:' . random_int(1, 50) ];
		}
		my %new = (event_types => ['Never'], tags => [ $events[0]{tags}[0] ]);
		@call{qw(form sql arguments)} = ('es_append_if',
			'SELECT event_id, version, global_position, is_duplicate FROM es_append_if($1::jsonb, $2::jsonb)',
			[ $json->encode(\@events), $json->encode({ items => [ \%new ] }) ]);
	}
	else
	{
		@call{qw(form sql arguments)} = ('es_import',
			# what it imports it finds by its ids afterwards
			q{SELECT es_import($1)},
			[ 'SELECT * FROM jsonb_to_recordset(' . $dbh->quote($json->encode(\@events))
				  . '::jsonb) AS x (stream_id text, event_type text, data jsonb, event_id uuid)' ]);
		$call{found} = 1;
	}
	return \%call;
}

# Old streams, and one in ten is new.
sub new_event
{
	my ($name) = @_;
	my $category = $categories[ random_int(0, $#categories) ];
	my $number = rand() < 0.9 ? random_int(1, 200) : "$name-" . int(time() * 1000) . random_int(0, 9);
	return {
		stream_id => "$category-$number",
		event_type => (qw(Made Sent Done))[ random_int(0, 2) ],
		data => { n => random_int(1, 1000), text => 'x' x random_int(0, 200) },
		event_id => random_uuid()
	};
}

# What the store answers: [id, version, position, is duplicate] for each event.
sub make_call
{
	my ($dbh, $call) = @_;
	my $rows = $dbh->selectall_arrayref($call->{sql}, undef, @{ $call->{arguments} });
	return $rows unless $call->{found};
	return stored($dbh, $call);
}

sub stored
{
	my ($dbh, $call) = @_;
	return $dbh->selectall_arrayref(
		'SELECT event_id, version, global_position FROM event_store.events WHERE event_id = ANY ($1::uuid[])',
		undef, [ map { $_->{event_id} } @{ $call->{events} } ]);
}

# Append until told to stop, or so many calls.  Lines of the file: id, stream, version, position,
# form, second, microseconds (of the call, with its first event).
sub soak_writer
{
	my ($node, $name, $file, $pause, $calls) = @_;
	my $dbh = reconnect($node, app => "soak-$name");
	my %count = (lost => 0);

	open my $log, '>', $file or die "$file: $!";
	until (defined $calls ? $calls-- < 1 : flag_is_set('stop'))
	{
		my $call;
		my $rolled_back = rand() < 0.05;
		my $repeated = 0;

		while (1)
		{
			my ($rows, $started);
			my $done = eval {
				$call ||= new_call($dbh, $name);
				# in a transaction of its own, that one may be rolled back
				$started = time();
				if ($rolled_back || $call->{found} || rand() < 0.1)
				{
					$dbh->begin_work;
					$rows = make_call($dbh, $call);
					random_pause(20) if rand() < 0.1;
					$rolled_back ? $dbh->rollback : $dbh->commit;
				}
				else
				{
					$rows = make_call($dbh, $call);
				}
				1;
			};
			my ($error, $state) = ($@, $dbh->state);
			if ($done)
			{
				$count{ $rolled_back ? 'rolled back' : $call->{form} }++;
				$count{'was done'}++ if $repeated && $rows->[0][3];
				write_down($log, $call, $rows, $started) unless $rolled_back;
				last;
			}
			if (lost($dbh))
			{
				$count{lost}++;
				eval { $dbh->disconnect };
				$dbh = reconnect($node, app => "soak-$name");
				last if $rolled_back || !$call;
				$repeated = 1;
				$count{repeated}++;
				next;
			}
			eval { $dbh->rollback } unless $dbh->{AutoCommit};
			if ($call->{found} && $repeated && $state =~ /^(?:VE002|22023|23505)$/)
			{
				# an import is no append that may be repeated: it was committed
				my $found = stored($dbh, $call);
				die "$state: $error" unless @$found == @{ $call->{events} };
				$count{'was done'}++;
				write_down($log, $call, $found, $started);
				last;
			}
			$count{$state}++;
			# somebody was faster; the answer is certain: nothing was written
			last if $state =~ /^VE001$/;
			die "$call->{form}: $error" unless $state =~ $again;
		}
		random_pause($pause);
	}
	close $log or die "$file: $!";
	eval { $dbh->disconnect };
	return { count => \%count };
}

sub write_down
{
	my ($log, $call, $rows, $started) = @_;
	my $microseconds = int((time() - $started) * 1e6);
	my %answer = map { $_->[0] => $_ } @$rows;
	my $lines = '';

	die "$call->{form} answers " . @$rows . ' rows for ' . @{ $call->{events} } . " events\n"
	  unless @$rows == @{ $call->{events} };
	foreach my $event (@{ $call->{events} })
	{
		my $row = $answer{ $event->{event_id} } or die "$call->{form} does not answer for $event->{event_id}\n";
		$lines .= join("\t", $event->{event_id}, map { defined $_ ? $_ : '\N' } $event->{stream_id}, $row->[1], $row->[2],
			$call->{form}, int($started), $microseconds) . "\n";
		$microseconds = undef;
	}
	print $log $lines;
	return;
}

# ---------------------------------------------------------------------------
# Readers and consumers

# Follow the global order from the beginning, over every restart, until told to
# end.  Lines of the file: position, stream, version.
sub soak_follower
{
	my ($node, $name, $file) = @_;
	my $dbh = reconnect($node, app => "soak-$name");
	my ($cursor, $pages) = (0, 0);

	open my $log, '>', $file or die "$file: $!";
	until (flag_is_set('end'))
	{
		my $done = eval {
			my $rows = $dbh->selectall_arrayref(
				'SELECT global_position, stream_id, version FROM es_read_all($1, 500)', undef, $cursor);
			if (@$rows)
			{
				print $log join('', map { join("\t", map { defined $_ ? $_ : '\N' } @$_) . "\n" } @$rows);
				$cursor = $rows->[-1][0];
				$pages++;
			}
			else
			{
				sql_value($dbh, q{SELECT es_wait($1, '1 s')}, $cursor);
			}
			1;
		};
		next if $done;
		my $error = $@;
		die $error unless lost($dbh);
		$dbh = reconnect($node, app => "soak-$name");
	}
	close $log or die "$file: $!";
	return { pages => $pages };
}

# Streams, categories, events, states, as they come.
sub soak_reader
{
	my ($node, $name) = @_;
	my $dbh = reconnect($node, app => "soak-$name");
	my %count = (strange => []);

	until (flag_is_set('stop'))
	{
		my $kind = (qw(stream category event state snapshot))[ random_int(0, 4) ];
		my $stream = $categories[ random_int(0, 2) ] . '-' . random_int(1, 200);
		my $done = eval {
			if ($kind eq 'stream')
			{
				my $version = sql_value($dbh, 'SELECT es_stream_version($1)', $stream);
				my $from = $version > 100 ? $version - 100 : 1;
				my $got = $dbh->selectcol_arrayref('SELECT version FROM es_read_stream($1, $2)', undef, $stream, $from);
				my $holes = grep { $got->[$_] != $from + $_ } 0 .. $#$got;
				push @{ $count{strange} }, "$stream from $from: @$got" if $holes || $from + @$got - 1 < $version;
			}
			elsif ($kind eq 'category')
			{
				sql_value($dbh, 'SELECT count(*) FROM es_read_category($1, greatest(es_head() - 300, 0), 100)', (split /-/, $stream)[0]);
			}
			elsif ($kind eq 'event')
			{
				my $id = sql_value($dbh, 'SELECT event_id FROM es_read_stream($1, max_count => 1, backward => true)', $stream);
				push @{ $count{strange} }, "no event $id"
				  if defined $id && !defined sql_value($dbh, 'SELECT (es_read_event($1)).version', $id);
			}
			elsif ($kind eq 'state')
			{
				my ($version, $n) = $dbh->selectrow_array(
					q{SELECT version, state->>'n' FROM es_state($1)}, undef, 'Account-' . random_int(1, 200));
				push @{ $count{strange} }, "state of $version events: $n" if $version && $version != $n;
			}
			else
			{
				# a snapshot that outlives its statement, for a moment
				$dbh->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
				my $head = sql_value($dbh, 'SELECT es_head()');
				random_pause(50);
				my $now = sql_value($dbh, 'SELECT es_head()');
				# what was in doubt and is rolled back by now no longer holds it up
				push @{ $count{strange} }, "head $head became $now" if $head > $now;
				$dbh->do('COMMIT');
			}
			$count{$kind}++;
			1;
		};
		if (!$done)
		{
			my $error = $@;
			die "$kind: $error" unless lost($dbh);
			$dbh = reconnect($node, app => "soak-$name");
		}
		random_pause(20);
	}
	return { count => \%count };
}

# A consumer that writes down what it handles in the transaction in which it
# acknowledges, fails at some events, and now and then leaves its group.
sub soak_consumer
{
	my ($node, $name, $subscription) = @_;
	my $dbh = reconnect($node, app => "soak-$name");
	my %count = map { $_ => 0 } qw(batch nack parked left lost late);

	until (flag_is_set('end'))
	{
		my $done = eval {
			my $rows = $dbh->selectall_arrayref(
				'SELECT global_position, stream_id, version, event_type FROM es_fetch($1, 200, $2::interval, $3)',
				undef, $subscription, '1 s', $name);
			if (@$rows)
			{
				my (%held, @done);
				$dbh->begin_work;
				foreach my $row (@$rows)
				{
					my $stream = $row->[1];
					next if defined $stream && $held{$stream};
					if (defined $stream && rand() < 0.003 && !flag_is_set('stop'))
					{
						my $park = rand() < 0.2;
						$dbh->do(q{SELECT es_nack($1, $2, 'not today', $3, $4)}, undef,
							$subscription, $row->[0], $park ? 'f' : 't', $name);
						$held{$stream} = 1;
						$count{ $park ? 'parked' : 'nack' }++;
						next;
					}
					push @done, $row;
				}
				$dbh->do(
					'INSERT INTO handled (consumer, position, stream, version) '
					  . 'SELECT $1, * FROM unnest($2::bigint[], $3::text[], $4::bigint[])',
					undef, $subscription, map { my $n = $_; [ map { $_->[$n] } @done ] } 0 .. 2);
				$dbh->do('SELECT es_ack($1, $2, $3)', undef, $subscription, $rows->[-1][0], $name);
				$dbh->commit;
				$count{batch}++;
			}
			if ($subscription eq 'group' && rand() < 0.01)
			{
				$dbh->do('SELECT es_leave($1, $2)', undef, $subscription, $name);
				$count{left}++;
			}
			1;
		};
		next if $done;
		my ($error, $state) = ($@, $dbh->state);
		if (lost($dbh))
		{
			$count{lost}++;
			$dbh = reconnect($node, app => "soak-$name");
			next;
		}
		$dbh->rollback unless $dbh->{AutoCommit};
		die $error unless $state =~ /^(?:55000|55006|40001|40P01|55P03)$/;
		$count{late}++;
	}
	return { count => \%count };
}

# ---------------------------------------------------------------------------
# Who interferes

# Rebuilds from scratch, rebuilds beside the present version with a switch,
# parked events again, until told to stop.
sub soak_operator
{
	my ($node, $interval) = @_;
	my $dbh = reconnect($node, app => 'soak-operator');
	my %count = map { $_ => 0 } qw(rebuilt switched retried);
	my $next = time() + $interval;
	my $turn = 0;

	until (flag_is_set('stop'))
	{
		my $done = eval {
			$dbh->do(qq{SELECT es_retry_parked('$_')}) for qw(alone group filter);
			$count{retried}++;
			if (time() > $next)
			{
				if ($turn++ % 2)
				{
					$dbh->do(q{SELECT es_rebuild_projection('counts')});
					$count{rebuilt}++;
				}
				else
				{
					my $other = sql_value($dbh,
						q{SELECT CASE WHEN handler::text LIKE '%sums_1%' THEN 2 ELSE 1 END
						  FROM event_store.projections WHERE name = 'sums' AND NOT is_shadow});
					$dbh->do(qq{SELECT es_prepare_projection('sums', 'on_sums_$other(es_event[])',
							reset_handler => 'reset_sums_$other()')})
					  unless sql_value($dbh, q{SELECT count(*) FROM event_store.projections WHERE name = 'sums' AND is_shadow});
					my $state = '55000';
					until ($state !~ /^(?:55000|55006|40001|40P01|55P03)$/ || flag_is_set('stop'))
					{
						$state = sqlstate($dbh, q{SELECT es_switch_projection('sums')});
						random_pause(500);
					}
					die "switch: $state " . $dbh->errstr . "\n" unless $state =~ /^(?:00000|55...|40...)$/;
					$count{switched}++ if $state eq '00000';
				}
				$next = time() + $interval;
			}
			1;
		};
		my ($error, $state) = ($@, $dbh->state);
		if (!$done && !lost($dbh))
		{
			die $error unless $state =~ $again;
		}
		elsif (!$done)
		{
			$dbh = reconnect($node, app => 'soak-operator');
		}
		random_pause(1000);
	}
	return { count => \%count };
}

# Terminate somebody every now and then, workers until the given time; kill -9 a
# backend at other times, which restarts the server.
sub soak_killer
{
	my ($node, $interval, $workers_until, @crashes) = @_;
	my $dbh = reconnect($node, app => 'soak-v-killer');
	my %count = (terminated => 0, crashed => 0);
	my $next = time() + $interval;

	until (flag_is_set('stop'))
	{
		my $crash = @crashes && time() > $crashes[0];
		my $done = eval {
			if ($crash || time() > $next)
			{
				my $pid = sql_value($dbh, q{
					SELECT pid FROM pg_catalog.pg_stat_activity
					WHERE (application_name LIKE 'soak-%' AND ($1 OR application_name NOT LIKE 'soak-v-%')
						   OR backend_type LIKE 'event_store %' AND datname IS NOT NULL AND $2)
					  AND pid <> pg_backend_pid()
					ORDER BY random() LIMIT 1}, $crash ? 't' : 'f', !$crash && time() < $workers_until ? 't' : 'f');
				if ($pid && $crash)
				{
					shift @crashes;
					$count{crashed}++ if kill 'KILL', $pid;
				}
				elsif ($pid)
				{
					sql_value($dbh, 'SELECT pg_terminate_backend($1)', $pid);
					$count{terminated}++;
				}
				$next = time() + $interval * (0.5 + rand());
			}
			1;
		};
		if (!$done || ($crash && connection_lost($dbh)))
		{
			$dbh = reconnect($node, app => 'soak-v-killer');
		}
		random_pause(500);
	}
	return { count => \%count };
}

# The control: a session whose memory grows by so many kB a second.
sub soak_leaker
{
	my ($node, $rate) = @_;
	my ($dbh, $started, $leaked);

	until (flag_is_set('stop'))
	{
		my $done = eval {
			if (!$dbh)
			{
				$dbh = reconnect($node, app => 'soak-v-leaks-on-purpose');
				($started, $leaked) = (time(), 0);
			}
			while ($leaked < $rate * (time() - $started))
			{
				$leaked += 100;
				sql_value($dbh, q{SELECT length(set_config('soak.leak_' || $1, repeat('x', 100 * 1024), false))}, $leaked);
			}
			1;
		};
		$dbh = undef if !$done;
		random_pause(200);
	}
	return {};
}

1;
