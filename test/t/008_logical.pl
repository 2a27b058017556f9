# A logical subscriber gets events in the order of commits and cannot see what is
# still unsettled.  With all tables of the store subscribed it reads up to the
# newest settled mark that has arrived, and misses nothing; until then, and with
# the events alone, or in several subscriptions, the global order is refused with
# VE005.
#
# Where everything is published, the projections and subscriptions of the
# publisher arrive with their checkpoints, and so does what they have written:
# they are not run here before es_take_over.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::History
  qw(check_delivery verdict faultless_delivery);
use EventStoreTest::Load qw(write_events total_of);
use Test::More;
use Time::HiRes qw(time);

my $seconds = setting('ES_LOGICAL_SECONDS', 10);
my $writers = setting('ES_LOGICAL_WRITERS', 12);
my @tables = map { "event_store.$_" } qw(event stream event_type mark);

seed_random();
my $source = store_cluster('source', streaming => 'logical');
my $target = store_cluster('target', streaming => 'logical');
create_store($_) for $source, $target;

my $dbh = connect_store($source);
my $copy = connect_store($target);
append_batch($dbh, 'Early-1', 0, 'T', [ map { random_uuid() } 1 .. 10 ]);
$dbh->do('CREATE PUBLICATION events_only FOR TABLE event_store.event');
$dbh->do('CREATE PUBLICATION store FOR TABLE ' . join ', ', @tables);

is(sqlstate($copy, 'SELECT * FROM es_read_all()'),
	'00000', 'without a subscription the order is available');
subscribe('events_only');
ok(poll_until(sub { sql_value($copy, 'SELECT count(*) FROM event_store.event') == 10 }),
	'events arrive');
refused('events alone');
worker_waits();
unsubscribe('events_only');
empty($copy, 'event_store.event');
two_subscriptions();

subscribe('store');
follow_under_load();
everything();

$_->disconnect for $dbh, $copy;
$target->stop;
$source->stop;
done_testing();

# ---------------------------------------------------------------------------

sub subscribe
{
	my ($publication) = @_;
	my $dsn = $source->connstr('postgres');
	$dsn =~ s/'/''/g;
	$copy->do("CREATE SUBSCRIPTION $publication CONNECTION '$dsn' PUBLICATION $publication");
	return;
}

sub unsubscribe
{
	my ($publication) = @_;
	$copy->do("DROP SUBSCRIPTION $publication");
	return;
}

# A superuser empties a table on purpose.
sub empty
{
	my ($conn, $table) = @_;
	run_sql($conn,
		'BEGIN',
		"ALTER TABLE $table DISABLE TRIGGER USER",
		"TRUNCATE $table",
		(map { "ALTER TABLE $table ENABLE ALWAYS TRIGGER $_" }
			qw(es_guard_statement es_guard_row)),
		'COMMIT');
	return;
}

sub refused
{
	my ($title) = @_;
	foreach my $read ('es_read_all()', q{es_read_category('Early')}, 'es_head()')
	{
		is(sqlstate($copy, "SELECT * FROM $read"), 'VE005', "$title: $read is refused");
	}
	is(sqlstate($copy, q{SELECT * FROM es_read_stream('Early-1')}),
		'00000', "$title: a stream can be read");
	append_refused($title);
	return;
}

# Marks that come by another subscription may be ahead of the events.
sub two_subscriptions
{
	my $tables = join ', ', grep { !/mark/ } @tables;
	$dbh->do("CREATE PUBLICATION without_marks FOR TABLE $tables");
	$dbh->do('CREATE PUBLICATION marks FOR TABLE event_store.mark');
	subscribe($_) for 'without_marks', 'marks';
	ok(poll_until(sub {
		sql_value($copy, q{SELECT count(*) = 4 AND bool_and(srsubstate = 'r') FROM pg_catalog.pg_subscription_rel}) }),
		'two subscriptions: all tables are ready');
	$copy->do('ALTER SUBSCRIPTION without_marks DISABLE');
	append_batch($dbh, 'Early-2', ANY, 'T', [ (undef) x 1100 ]) for 1 .. 2;
	ok(poll_until(sub { sql_value($copy, 'SELECT count(*) FROM event_store.mark') > 0 }),
		'two subscriptions: marks arrive, and no events');
	refused('two subscriptions');
	unsubscribe($_) for 'without_marks', 'marks';
	empty($copy, $_) for @tables;
	return;
}

# Who waits starts the worker, which does not die of it that there is nothing to
# tell yet.
sub worker_waits
{
	is(sqlstate($copy, 'SELECT es_wait(0)'), 'VE005', 'events alone: es_wait is refused');
	ok(poll_until(sub {
		sql_value($copy, q{SELECT count(*) FROM pg_catalog.pg_stat_activity
			WHERE backend_type = 'event_store worker' AND state = 'idle'});
	}, 20), 'events alone: the worker waits for a mark');
	return;
}

# The publisher will send the same positions.
sub append_refused
{
	my ($title) = @_;
	foreach my $append (q{es_append('Own-1', 0, 'T', '{}')},
		q{es_append_batch('Own-1', 0, '{T}', '{1}')})
	{
		is(sqlstate($copy, "SELECT * FROM $append"), 'VE005', "$title: $append is refused");
	}
	return;
}

sub follow_under_load
{
	my $deadline = time() + $seconds;
	my @writers = map { sprintf 'writer_%02d', $_ } 1 .. $writers;
	my %level = (
		rc => 'READ COMMITTED',
		rr => 'REPEATABLE READ',
		category => 'READ COMMITTED',
		naive => 'READ COMMITTED');
	new_flags();
	foreach my $name (@writers)
	{
		start_client($name, sub { write_events($source, $name, $deadline) });
	}
	foreach my $name (sort keys %level)
	{
		start_client($name, sub { follow_subscriber($name, $level{$name}) });
	}
	my $written = wait_clients(names => \@writers, test => 'no writer failed');
	# Marks come about every thousand events; a short load may have had few.
	append_batch($dbh, 'Filler-1', ANY, 'T', [ (undef) x 1100 ]) for 1 .. 3;
	my $count = sql_value($dbh, 'SELECT count(*) FROM event_store.event');
	ok( poll_until(
			sub { sql_value($copy, 'SELECT count(*) FROM event_store.event') == $count }),
		'everything has arrived');
	$source->wait_for_catchup('store');
	flag_set('drain');
	my $read = wait_clients(names => [ keys %level ], test => 'no reader failed');

	my $committed = store_rows($dbh);
	note verdict((total_of($written))[2]);
	my $marks = sql_value($copy, 'SELECT count(*) FROM event_store.mark');
	cmp_ok($marks, '>=', 2, 'marks have arrived');
	my $head = sql_value($copy, 'SELECT es_head()');
	cmp_ok($head, '>', $committed->[-1][0] / 2, 'the head follows the marks');
	cmp_ok($head, '<=', $committed->[-1][0], 'and is not ahead');

	foreach my $name (sort keys %level)
	{
		my $events = $read->{$name}{events} || [];
		if ($name eq 'naive')
		{
			my $faults = check_delivery($committed, $events);
			note "naive: " . verdict($faults);
			cmp_ok($faults->{skipped}, '>=', 1,
				'control: the naive reader on the subscriber skips events');
			next;
		}
		my %opt = (prefix => 1);
		$opt{category} = 'Order' if $name eq 'category';
		my $faults = faultless_delivery("subscriber, $name", $committed, $events, %opt);
		my $within = grep {
			$_->[0] <= $head && (!$opt{category} || $_->[1] =~ /^Order-/)
		} @$committed;
		is($faults->{delivered}, $within, "subscriber, $name: got all up to the head");
	}

	append_refused('all tables');

	# Promoted: without the subscription the store is complete and goes on.
	unsubscribe('store');
	faultless_delivery(
		'former subscriber', $committed,
		$copy->selectall_arrayref(
			'SELECT global_position, stream_id, version, event_id FROM es_read_all(0, NULL)'));
	my $last = $committed->[-1][0];
	my $next = append($copy, 'Early-1', 10, 'T', random_uuid());
	is($next->{version}, 11, 'former subscriber: the next append continues the stream');
	cmp_ok($next->{position}, '>', $last, 'former subscriber: and the global order');
	is(sqlstate($copy, q{SELECT es_append('Fresh-1', 0, 'NeverSeen', '{}')}),
		'00000', 'former subscriber: new streams and event types work');
	is( sql_value($copy,
			q{SELECT string_agg(stream_id || '/' || version, ' ') FROM es_read_all($1, NULL)},
			$last),
		'Early-1/11 Fresh-1/1',
		'former subscriber: readers see both');
	return;
}

# The publisher's consumers stay the publisher's, beside one of this server.
sub everything
{
	my @both = map {
		create_store($_, 'everything');
		my $conn = connect_store($_, db => 'everything');
		run_sql($conn,
			'CREATE TABLE seen (global_position bigint)',
			'CREATE TABLE local (global_position bigint)',
			'CREATE FUNCTION on_event(e es_event) RETURNS void LANGUAGE sql AS '
			  . q{'INSERT INTO seen VALUES (e.global_position)'},
			'CREATE FUNCTION count_up(state jsonb, e es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE AS '
			  . q{$$ SELECT jsonb_build_object('n', coalesce((state->>'n')::int, 0) + 1) $$},
			'CREATE FUNCTION raised(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS '
			  . q{$$ SELECT '{"raised": true}'::jsonb $$},
			'CREATE FUNCTION on_local(e es_event) RETURNS void LANGUAGE sql AS '
			  . q{'INSERT INTO local VALUES (e.global_position)'});
		$conn;
	} $source, $target;
	my ($here, $there) = @both;
	my $last = sub { sql_value($here, 'SELECT max(global_position) FROM event_store.event') };
	my $rows = sub { sql_value($_[0], 'SELECT count(*) FROM seen') };
	my $arrived = sub {
		my $head = $last->();
		sql_value($here, q{SELECT es_wait_projection('counts', $1, '60 s')}, $head);
		return poll_until(sub {
			sql_value($there, q{SELECT position FROM event_store.projections WHERE name = 'counts'}) == $head
			  && $rows->($there) == $rows->($here) });
	};

	append_batch($here, 'Every-1', ANY, 'T', [ (undef) x 1100 ]);
	run_sql($here,
		q{SELECT es_define_aggregate('Every', 'count_up(jsonb, es_event)', snapshot_every => 10)},
		q{SELECT es_create_projection('counts', 'on_event(es_event)')},
		q{SELECT es_create_subscription('mailer'), es_create_subscription('team', slots => 4)},
		q{SELECT es_fetch('mailer', 5)},
		q{SELECT es_ack('mailer', 5)},
		'CREATE PUBLICATION everything FOR ALL TABLES');
	sql_value($here, q{SELECT es_wait_projection('counts', $1, '60 s')}, $last->());
	my $dsn = $source->connstr('everything');
	$dsn =~ s/'/''/g;
	$there->do("CREATE SUBSCRIPTION everything CONNECTION '$dsn' PUBLICATION everything");
	ok(poll_until(sub {
		sql_value($there, q{SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel}) }),
		'everything: the copy is over');
	append_batch($here, 'Every-2', ANY, 'T', [ (undef) x 1100 ]) for 1 .. 2;
	ok($arrived->(), 'everything: what is appended since arrives, with what the projection writes');

	# a worker has looked at all projections once it has run the local one
	run_sql($there, q{SELECT es_create_projection('local', 'on_local(es_event)')});
	cmp_ok(sql_value($there, q{SELECT es_wait(0)}), '>', 1100, 'everything: es_wait works');
	is(sql_value($there, q{SELECT es_wait_projection('local', es_head(), '60 s')}),
		'1', 'everything: a projection that was made here runs');

	# held up at the publisher it has much to do for whoever does it here
	my $holder = connect_store($source, db => 'everything');
	run_sql($holder, 'BEGIN', q{SELECT FROM event_store.projection WHERE name = 'counts' FOR UPDATE});
	append_batch($here, 'Every-3', ANY, 'T', [ (undef) x 1100 ]) for 1 .. 2;
	ok(poll_until(sub { sql_value($there, 'SELECT max(global_position) FROM event_store.event') == $last->() }),
		'everything: the publisher goes on');
	is(sql_value($there, q{SELECT es_wait_projection('local', es_head(), '60 s')}),
		'1', 'everything: so does the local projection');
	is($rows->($there), $rows->($here), 'everything: the publisher\'s projection has not been run here');
	is(sqlstate($there, q{SELECT es_wait_projection('counts', es_head())}), '55000', 'everything: nor can it be waited for');
	$holder->do('COMMIT');
	$holder->disconnect;
	ok($arrived->(), 'everything: what it does there arrives');
	is($rows->($there), $last->(), 'everything: once');
	not_here($there);

	definitions_arrive($here, $there);

	# a snapshot of one's own would be in the way of the publisher's
	my $snapshots = q{SELECT count(*) FROM event_store.snapshot};
	is(sql_value($there, q{SELECT (es_state('Every-1')).state->>'n'}), 1100, 'es_state works');
	is(sql_value($there, $snapshots), 0, '... and keeps no snapshot');
	is(sqlstate($there, q{SELECT es_snapshot('Every-1', 1, '{}', 7)}), '55000',
		'... nor does es_snapshot');
	sql_value($here, q{SELECT (es_state('Every-1')).state->>'n'});
	ok(poll_until(sub { sql_value($there, $snapshots) == 1 }), 'that of the publisher arrives');

	is(sqlstate($there, 'SELECT es_take_over()'), '55000',
		'es_take_over is refused while the publisher still writes');
	$there->do('DROP SUBSCRIPTION everything');
	not_here($there);
	my $head = $last->();
	is(sql_value($there, 'SELECT es_take_over()'), 3, 'es_take_over: the projection and the subscriptions');
	is(sql_value($there, 'SELECT es_take_over()'), 0, '... once');
	$head = append($there, 'Every-4', 0, 'T', random_uuid())->{position};
	is(sql_value($there, q{SELECT es_wait_projection('counts', $1, '60 s')}, $head),
		'1', 'taken over: the projection runs');
	is(sql_value($there, 'SELECT count(*) || $$ $$ || count(DISTINCT global_position) FROM seen'),
		join(' ', (sql_value($there, 'SELECT count(*) FROM event_store.event')) x 2),
		'taken over: every event once');
	is(sql_value($there, q{SELECT min(global_position) FROM es_fetch('mailer', 5)}),
		6, 'taken over: the subscription goes on at its checkpoint');
	is(sql_value($there, q{SELECT count(reason) FROM event_store.subscriptions}), 0,
		'taken over: no reason not to');
	$_->disconnect for @both;
	return;
}

# A session that has read hears of what the publisher defines.
sub definitions_arrive
{
	my ($here, $there) = @_;
	my $raised = sub { sql_value($there, q{SELECT data->>'raised' FROM es_read_stream('Every-1', 1, 1)}) || '' };
	my $initial = sub { sql_value($there, q{SELECT (es_state('None-1')).state->>'n'}) || '' };
	my $define = sub {
		run_sql($here, "SELECT es_define_aggregate('None', 'count_up(jsonb, es_event)', '{\"n\": $_[0]}')");
	};

	is($raised->(), '', 'definitions: none yet');
	run_sql($here, q{SELECT es_define_upcaster('T', 1, 'raised(jsonb)')});
	ok(poll_until(sub { $raised->() eq 'true' }), 'definitions: an upcaster is heard of');
	run_sql($here, q{SELECT es_drop_upcaster('T', 1)});
	ok(poll_until(sub { $raised->() eq '' }), 'definitions: and that it is gone');

	$define->(1);
	ok(poll_until(sub { eval { $initial->() eq '1' } }), 'definitions: an aggregate arrives');
	run_sql($here, q{SELECT es_drop_aggregate('None')});
	$define->(2);
	ok(poll_until(sub { eval { $initial->() eq '2' } }), 'definitions: and is heard of when it has changed');
	return;
}

sub not_here
{
	my ($there) = @_;
	foreach my $call (
		q{es_run_projection('counts')}, q{es_pause_projection('counts')},
		q{es_resume_projection('counts')}, q{es_rebuild_projection('counts')},
		q{es_prepare_projection('counts', 'on_event(es_event)')},
		q{es_retry_projection_parked('counts')},
		q{es_fetch('mailer')}, q{es_ack('mailer', 5)}, q{es_nack('mailer', 5, 'bad')},
		q{es_reset_subscription('mailer')}, q{es_retry_parked('mailer')},
		q{es_fetch('team', member => 'm')}, q{es_join('team', 'm')})
	{
		is(sqlstate($there, "SELECT $call"), '55000', "not run here: $call");
	}
	is( sql_value($there, q{SELECT string_agg(concat_ws(' ', name, state, reason), ', ' ORDER BY name)
			FROM event_store.projections}),
		'counts replicated it came by logical replication and is not run here before es_take_over(), local running',
		'the view of projections says why');
	is( sql_value($there, q{SELECT count(*) FROM event_store.subscriptions
			WHERE reason LIKE '%came by logical replication%'}),
		2, 'the view of subscriptions says why');
	return;
}

sub follow_subscriber
{
	my ($name, $level) = @_;
	my $conn = connect_store($target, app => "follower_$name");
	my $from = {
		category => q{es_read_category('Order', $1, $2)},
		naive => '(SELECT * FROM event_store.events WHERE global_position > $1 '
		  . 'ORDER BY global_position LIMIT $2) q'
	}->{$name} || 'es_read_all($1, $2)';
	my $page = $conn->prepare("SELECT global_position, stream_id, version, event_id FROM $from");
	my @events;
	my $cursor = 0;
	my $last_round = 0;
	while (!$last_round)
	{
		my $drain = flag_is_set('drain');
		my $from_here = $cursor;
		my @seen;
		my $done = eval {
			$conn->do("BEGIN ISOLATION LEVEL $level");
			while (1)
			{
				$page->execute($from_here, random_int(1, 1000));
				my $rows = $page->fetchall_arrayref;
				last unless @$rows;
				push @seen, @$rows;
				$from_here = $rows->[-1][0];
			}
			$conn->do('COMMIT');
			1;
		};
		if (!$done)
		{
			# refused until the first mark is here
			my ($error, $state) = ($@, $conn->state);
			die $error if $state ne 'VE005' || @events || $drain;
			$conn->do('ROLLBACK');
			random_pause(20);
			next;
		}
		push @events, @seen;
		$cursor = $from_here;
		$last_round = $drain && !@seen;
		random_pause(10) unless $drain;
	}
	$conn->disconnect;
	return { events => \@events };
}
