# Decisions across streams: of any number of callers that decide on the same
# state exactly one gets through; decisions that have nothing to do with each
# other do not wait; and whatever was accepted holds when it is replayed in the
# global order.
#
# The replay is the judge: it takes each accepted decision, its condition and
# its position, and looks with plain SQL for an event in between that the
# condition forbids.  Three controls show that it finds them: the code that is
# usual elsewhere, the same store without its barrier, and one without the
# second look at the condition.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use Test::More;
use Time::HiRes qw(time);

my $rounds = setting('ES_DECIDE_ROUNDS', 60);
my $seconds = setting('ES_DECIDE_SECONDS', 5);
my $clients = 16;

my $libdir = $ENV{ES_FAULTS_LIBDIR};
ok($libdir && -e "$libdir/event_store.so",
	'ES_FAULTS_LIBDIR names the folder of the library with fault points')
  or BAIL_OUT('build with FAULTS=1 and set ES_FAULTS_LIBDIR');

seed_random();
my $node = store_cluster('decide', conf => "max_prepared_transactions = 10\n");

create_store($node);
my $dbh = connect_store($node);
prepare_store($dbh);
one_winner_for_each_round();
disjoint_do_not_wait();
prepared_transaction();
isolation_levels();
random_decisions($dbh, 'postgres', 'everything on', {});
$dbh->disconnect;

# controls, each in a store of its own
for my $control (
	[ 'exists', 'EXISTS, then insert', { naive => 1 } ],
	[ 'barrier', 'no barrier', { set => 'event_store.fault_no_barrier = on' } ],
	[ 'confirm', 'no second look', { set => 'event_store.fault_no_confirm = on' } ])
{
	my ($db, $title, $how) = @$control;
	create_store($node, $db);
	use_fault_build($node, $db);
	my $conn = connect_store($node, db => $db);
	prepare_store($conn);
	random_decisions($conn, $db, "control: $title", { %$how, control => 1 });
	$conn->disconnect;
}
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub prepare_store
{
	my ($conn) = @_;
	run_sql(
		$conn,
		# how others do it
		q{CREATE FUNCTION naive_append_if(events jsonb, fail_if jsonb, after bigint) RETURNS void
		  LANGUAGE plpgsql AS $$
		  BEGIN
			IF EXISTS (SELECT FROM es_read_query(fail_if, after, 1)) THEN
				RAISE EXCEPTION 'conflict' USING ERRCODE = 'VE007';
			END IF;
			PERFORM es_append_if(events, '{"items": [{"tags": ["nobody has this"]}]}');
		  END $$},
		# the judge: decisions that an event in between forbids
		q{CREATE VIEW forbidden AS
		  SELECT d.global_position AS decision, e.global_position AS in_between
			FROM event_store.events d,
				 LATERAL (SELECT (d.metadata ->> 'after')::bigint AS after, d.metadata -> 'fail_if' AS fail_if) c
			JOIN event_store.events e ON e.global_position > c.after
		   WHERE d.metadata ? 'fail_if' AND e.global_position < d.global_position
			 AND e.event_id <> ALL (SELECT jsonb_array_elements_text(d.metadata -> 'own')::uuid)
			 AND EXISTS (SELECT FROM jsonb_array_elements(c.fail_if -> 'items') i
						  WHERE (NOT i ? 'event_types' OR i -> 'event_types' ? e.event_type)
							AND (NOT i ? 'tags' OR i -> 'tags' <@ to_jsonb(e.tags)))});
	return;
}

# All clients decide on the same thing at the same time, and write to different
# streams.  A fifth of the winners roll back, so that the round must be won
# again.
sub one_winner_for_each_round
{
	new_flags();
	foreach my $number (1 .. $clients)
	{
		start_client("racer_$number", sub { racer($number) });
	}
	poll_until(sub { client_count($dbh) >= $clients });
	flag_set('go');
	my $result = wait_clients(limit => 60 + $rounds, test => 'no racer failed');
	my (%wins, %state, $rolled_back);
	foreach my $client (values %$result)
	{
		$wins{$_}++ for @{ $client->{won} || [] };
		$state{$_} += $client->{state}{$_} for keys %{ $client->{state} };
		$rolled_back += $client->{rolled_back} || 0;
	}
	is(scalar(grep { $wins{$_} == 1 } keys %wins), $rounds, "exactly one of $clients wins each of $rounds rounds");
	is(scalar(keys %wins), $rounds, 'and none is won twice');
	is_deeply([ keys %state ], ['VE007'], 'losers get VE007 and nothing else');
	ok($rolled_back > 0, 'some winners rolled back');
	return;
}

sub racer
{
	my ($number) = @_;
	my $conn = connect_store($node);
	my %result = (won => [], state => {});
	my $sth = $conn->prepare('SELECT FROM es_append_if($1, $2)');
	poll_until(sub { flag_is_set('go') });
	foreach my $round (1 .. $rounds)
	{
		my $query = qq({"items": [{"event_types": ["Won"], "tags": ["round:$round"]}]});
		my $event = qq([{"event_type": "Won", "data": $number, "tags": ["round:$round"], "stream_id": "Racer-$number"}]);

		while (1)
		{
			$conn->do('BEGIN');
			if (eval { $sth->execute($event, $query); 1 })
			{
				if (rand() < 0.2)
				{
					$conn->do('ROLLBACK');
					$result{rolled_back}++;
					next;
				}
				$conn->do('COMMIT');
				push @{ $result{won} }, $round;
			}
			else
			{
				$result{state}{ $conn->state }++;
				$conn->do('ROLLBACK');
			}
			last;
		}
	}
	$conn->disconnect;
	return \%result;
}

# Each client has a tag of its own, and holds its transaction open for a while:
# nobody ever waits.  Some have no condition at all, and a tag that others have.
sub disjoint_do_not_wait
{
	my $deadline = time() + $seconds / 2;
	my ($samples, $waiting) = (0, 0);

	new_flags();
	foreach my $number (1 .. 8)
	{
		start_client("alone_$number",
			sub {
				my $conn = connect_store($node, app => 'alone');
				my ($done, $last) = (0, 0);
				my $sth = $conn->prepare($number % 2
					? 'SELECT global_position FROM es_append_if($1, $2, $3)'
					: 'SELECT global_position FROM es_append($1, es_any(), $2, $3, tags => $4)');
				while (time() < $deadline || $done < 20)
				{
					$conn->do('BEGIN');
					if ($number % 2)
					{
						# types and tags overlap with those of others, but no event has both
						my $query = qq({"items": [{"event_types": ["Alone$number"], "tags": ["shared"]}, {"tags": ["alone:$number"]}]});
						$sth->execute(
							qq([{"event_type": "Alone$number", "data": 1, "tags": ["alone:$number", "shared"]}]),
							$query, $last);
					}
					else
					{
						$sth->execute("Alone-$number", "Alone$number", '1', [ 'shared', 'also shared' ]);
					}
					($last) = $sth->fetchrow_array;
					$sth->finish;
					random_pause(5);
					$conn->do('COMMIT');
					$done++;
				}
				$conn->disconnect;
				return { done => $done };
			});
	}
	while (time() < $deadline)
	{
		$samples++;
		$waiting += sql_value($dbh, q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
									   WHERE NOT l.granted AND a.application_name = 'alone'
										 AND l.locktype IN ('advisory', 'transactionid')});
	}
	my $result = wait_clients(test => 'disjoint: all of them win');
	cmp_ok($samples, '>', 50, "disjoint: looked for waits $samples times");
	is($waiting, 0, 'disjoint: nobody waits');
	return;
}

# A prepared transaction is waited for, and decides.
sub prepared_transaction
{
	my $other = connect_store($node);
	my $query = '{"items": [{"tags": ["prepared"]}]}';
	my $event = '[{"event_type": "Prepared", "data": 1, "tags": ["prepared"]}]';

	foreach my $end ('ROLLBACK', 'COMMIT')
	{
		run_sql($dbh, 'BEGIN');
		$dbh->do(q{SELECT es_append('Prepared-1', es_any(), 'Other', '1', tags => ARRAY['prepared'])});
		run_sql($dbh, q{PREPARE TRANSACTION 'decide'});
		$other->do(q{SET lock_timeout = '50 ms'});
		is(sqlstate($other, "SELECT es_append_if('$event', '$query')"), '55P03', "prepared, $end: it is waited for");
		$other->do('SET lock_timeout = 60000');
		run_sql($dbh, "$end PREPARED 'decide'");
		is(sqlstate($other, "SELECT es_append_if('$event', '$query')"),
			$end eq 'COMMIT' ? 'VE007' : '00000', "prepared, $end: it has decided");
		$query = '{"items": [{"event_types": ["Other"], "tags": ["prepared"]}]}';
	}
	# and a decision can be prepared itself
	run_sql($dbh, 'BEGIN');
	is(sqlstate($dbh, q{SELECT es_append_if('[{"event_type": "Decided", "data": 1}]', '{"items": [{"event_types": ["Decided"]}]}')}),
		'00000', 'a decision that is prepared');
	run_sql($dbh, q{PREPARE TRANSACTION 'decide'});
	$other->do(q{SET lock_timeout = '50 ms'});
	is(sqlstate($other, q{SELECT es_append_if('[{"event_type": "Decided", "data": 1}]', '{"items": [{"event_types": ["Decided"]}]}')}),
		'55P03', 'is waited for');
	run_sql($dbh, q{COMMIT PREPARED 'decide'});
	is(sqlstate($other, q{SELECT es_append_if('[{"event_type": "Decided", "data": 1}]', '{"items": [{"event_types": ["Decided"]}]}')}),
		'VE007', 'and has decided');
	$other->disconnect;
	return;
}

# What the snapshot shows is judged, what it does not show is 40001.
sub isolation_levels
{
	foreach my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
	{
		my $other = connect_store($node);
		my $tag = lc($level =~ s/ /_/gr);
		my $call = qq{SELECT es_append_if('[{"event_type": "Level", "data": 1, "tags": ["$tag"]}]', '{"items": [{"tags": ["$tag"]}]}'};
		my $late = $level eq 'READ COMMITTED' ? 'VE007' : '40001';

		$other->do("BEGIN ISOLATION LEVEL $level");
		my $head = sql_value($other, 'SELECT es_head()');
		is(sqlstate($dbh, "$call)"), '00000', "$level: somebody is faster");
		is(sqlstate($other, "$call, $head)"), $late, 'what came after the snapshot');
		$other->do('ROLLBACK');

		$other->do("BEGIN ISOLATION LEVEL $level");
		$head = sql_value($other, 'SELECT es_head()');
		is(sqlstate($other, "$call)"), 'VE007', 'what came before it');
		$other->do('ROLLBACK');
		$other->do("BEGIN ISOLATION LEVEL $level");
		$head = sql_value($other, 'SELECT es_head()');
		$dbh->do(q{SELECT es_append('Level-1', es_any(), 'Level', '1', tags => ARRAY['something else'])});
		is(sqlstate($other, "$call, $head)"), '00000', 'what does not match, after the snapshot, does not matter');
		is(sqlstate($other, 'COMMIT'), '00000', 'and is committed');

		# a retry of what the snapshot does not show yet
		my $id = random_uuid();
		my $retry = qq~SELECT is_duplicate FROM es_append_if('[{"event_type": "Level", "data": 1, "event_id": "$id"}]',
			'{"items": [{"tags": ["$tag and none"]}]}')~;
		$other->do("BEGIN ISOLATION LEVEL $level");
		$head = sql_value($other, 'SELECT es_head()');
		is(sql_value($dbh, $retry), 0, 'an append without stream');
		if ($level eq 'READ COMMITTED')
		{
			is(sql_value($other, $retry), 1, 'is a duplicate for others');
		}
		else
		{
			is(sqlstate($other, $retry), '40001', 'is not there for a snapshot taken before');
		}
		$other->do('ROLLBACK');
		is(sql_value($other, $retry), 1, 'and is a duplicate after that');
		$other->disconnect;
	}
	return;
}

# Many clients decide at random on few types and tags, mostly on what they have
# just read, and write what others must not overlook; some append without a
# condition, some roll back, some hold their transaction open.
sub random_decisions
{
	my ($conn, $db, $title, $how) = @_;
	my $deadline = time() + $seconds;

	new_flags();
	foreach my $number (1 .. 8)
	{
		start_client("decider_$number", sub { decider($db, $deadline, $how) });
	}
	my $result = wait_clients(limit => $seconds + 120, test => "$title: no client failed");
	my (%state, $accepted);
	foreach my $client (values %$result)
	{
		$state{$_} += $client->{state}{$_} for keys %{ $client->{state} };
		$accepted += $client->{accepted} || 0;
	}
	my $forbidden = sql_value($conn, 'SELECT count(DISTINCT decision) FROM forbidden');
	note "$title: $accepted accepted, " . join(', ', map { "$_ $state{$_}" } sort keys %state) . ", $forbidden forbidden";
	if ($how->{control})
	{
		cmp_ok($forbidden, '>', 0, "$title: the replay finds decisions that their own condition forbids");
		return;
	}
	cmp_ok($accepted, '>', 100, "$title: $accepted decisions");
	cmp_ok($state{VE007} || 0, '>', 10, "$title: some were refused");
	is_deeply([ grep { $_ ne 'VE007' } sort keys %state ], [], "$title: with VE007 and nothing else");
	is($forbidden, 0, "$title: no accepted decision is forbidden by its own condition");
	return;
}

sub random_item
{
	my $type = 'Type' . random_int(1, 3);
	my $tag = 'tag:' . random_int(1, 6);
	my $kind = rand();

	return qq({"event_types": ["$type"]}) if $kind < 0.15;
	return qq({"tags": ["$tag"]}) if $kind < 0.5;
	return qq({"event_types": ["$type"], "tags": ["$tag"]}) if $kind < 0.85;
	return '{"tags": ["' . join('", "', sort { $a cmp $b } map { 'tag:' . random_int(1, 6) } 1 .. 2) . '"]}';
}

sub decider
{
	my ($db, $deadline, $how) = @_;
	my $conn = connect_store($node, db => $db);
	my %result = (accepted => 0, state => {});
	my $function = $how->{naive} ? 'naive_append_if' : 'es_append_if';

	# the time between drawing a position and inserting is what is tested here
	run_sql($conn, "SET event_store.fault = 'append_drawn:pause=4\@10'") if $how->{control};
	run_sql($conn, "SET $how->{set}") if $how->{set};
	while (time() < $deadline)
	{
		my @events;
		my @ids;
		foreach (1 .. random_int(1, 3))
		{
			push @ids, random_uuid();
			push @events, [ 'Type' . random_int(1, 3), [ map { 'tag:' . random_int(1, 6) } 1 .. random_int(0, 2) ], $ids[-1] ];
		}
		my $query = '{"items": [' . join(', ', map { random_item() } 1 .. random_int(1, 2)) . ']}';
		my $after = sql_value($conn, 'SELECT es_head()');
		$after = random_int(0, $after) if rand() < 0.1;
		my $conditional = rand() < 0.8;
		my $own = '["' . join('", "', @ids) . '"]';
		my $json = '[' . join(', ', map {
			my ($type, $tags, $id) = @$_;
			my $metadata = $conditional && $_ == $events[0] ? qq(, "metadata": {"after": $after, "fail_if": $query, "own": $own}) : '';
			qq({"event_type": "$type", "data": 1, "event_id": "$id"$metadata)
			  . (@$tags ? ', "tags": ["' . join('", "', @$tags) . '"]' : '')
			  . (rand() < 0.3 ? ', "stream_id": "Decider-' . random_int(1, 1000000) . '"' : '') . '}'
		} @events) . ']';

		$conn->do('BEGIN') if my $block = rand() < 0.2;
		my $done = eval {
			if ($conditional)
			{
				$conn->do("SELECT FROM $function(\$1, \$2, \$3)", undef, $json, $query, $after);
			}
			else
			{
				$json =~ s/, "stream_id": "[^"]*"//g;
				$conn->do('SELECT FROM es_append($1, es_any(), $2::jsonb)', undef, 'Plain-' . random_int(1, 1000000), $json);
			}
			1;
		};
		if ($done)
		{
			$result{accepted} += $conditional;
			if ($block)
			{
				random_pause(3);
				$conn->do(rand() < 0.3 ? 'ROLLBACK' : 'COMMIT');
			}
		}
		else
		{
			$result{state}{ $conn->state }++;
			$conn->do('ROLLBACK') if $block;
		}
	}
	$conn->disconnect;
	return \%result;
}
