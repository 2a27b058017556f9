# Subscriptions against a model: one process drives writers and consumers of
# several subscriptions at random, so that a seed repeats a run, and compares
# every batch with what it knows to be done, in somebody's hands or held up.
# In the end every event must be done.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use Test::More;
use Time::HiRes qw(time);

my $seconds = setting('ES_MODEL_SECONDS', setting('ES_STRESS_SECONDS', 20));
my $rounds = setting('ES_MODEL_ROUNDS', 0);    # instead of the seconds
my $steps = setting('ES_MODEL_STEPS', 250);    # of one round

my $shown = setting('ES_MODEL_TRACE', 80);    # steps, after a failure

my @categories = qw(Order Item);
my @types = qw(Made Sent Done);
my @streams = map { ("Order-$_", "Item-$_") } 1 .. 4;
my @tags = qw(red green blue);

my %events;     # stream => [events that are committed]
my @writers;    # { dbh, open => [events of the open transaction] }
my %sub;        # name => see below
my @trace;
my $broken = 0;
my %count;
my %mood;       # of the round: what is likely in it
my $at;         # consumer of the last step

$SIG{__DIE__} = sub { broken("died: $_[0]") unless $^S };
my $node = store_cluster('model', preload => 'event_store');
create_store($node);
my $admin = connect_store($node);
foreach my $category (@categories)
{
	append($admin, "$category-0", ANY, $_) for @types;
}
push @writers, { dbh => connect_store($node), open => [] } for 1 .. 3;

seed_random();    # the port of the server is chance, too
my $until = time() + $seconds;
my $round = 0;
while (!$broken && ($rounds ? $round < $rounds : time() < $until))
{
	$round++;
	start_round();
	for (1 .. $steps)
	{
		step();
		last if $broken;
	}
	drain() unless $broken;
	end_round();
}
ok(!$broken, "$round rounds as the model has it");
note join(', ', map { "$_ $count{$_}" } sort keys %count);
$broken || cmp_ok($count{$_} || 0, '>', 0, "there was: $_")
  for qw(event alone ack nack parked rollback expired late);
$admin->disconnect;
$_->{dbh}->disconnect for @writers;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub trace
{
	push @trace, join(' ', map { defined $_ ? $_ : '-' } @_);
	return;
}

sub broken
{
	my ($message) = @_;
	return if $broken++;
	diag "round $round: $message";
	diag join("\n", 'last steps:', splice(@trace, @trace > 80 ? -$shown : 0));
	return;
}

sub chance
{
	my ($percent) = @_;
	return rand(100) < $percent;
}

sub any
{
	return $_[ int(rand(@_)) ];
}

# New subscriptions that begin at the head.
sub start_round
{
	my $head = sql_value($admin, 'SELECT es_head()');
	@trace = ();
	%sub = ();
	%events = ();
	$at = undef;
	# what takes several unlikely steps is likely in some rounds
	%mood = (
		streams => [ @streams[ 0 .. any(1, 3, 7) ] ],
		alone => any(5, 20, 60),
		write => any(15, 25, 35),
		admin => any(5, 10, 30),
		nack => any(20, 35, 65),
		fetch => any(3, 6, 12),
		stay => any(0, 60, 90),
	);
	add_subscription($head, "session $round", 0, 3);
	add_subscription($head, "named $round", 0, 3, named => 1);
	add_subscription($head, "group $round", random_int(2, 8), 3, named => 1);
	add_subscription($head, "filter $round", random_int(2, 4), 2, named => 1,
		categories => ['Order'], types => [ 'Made', 'Sent' ]);
	return;
}

sub add_subscription
{
	my ($head, $name, $slots, $count, %opt) = @_;
	$admin->do(
		q{SELECT es_create_subscription($1, $2, $3, $4, $5, '1 hour', $6, '0')}, undef, $name,
		$opt{categories}, $opt{types}, $head, $slots || undef, random_int(0, 2));
	my $sub = $sub{$name} = {
		name => $name,
		slots => $slots,
		base => $head,
		done => {},      # position => 1
		failed => {},    # stream => { position, state }
		consumers => []
	};
	$sub->{category} = { map { $_ => 1 } @{ $opt{categories} } } if $opt{categories};
	$sub->{type} = { map { $_ => 1 } @{ $opt{types} } } if $opt{types};
	push @{ $sub->{consumers} },
	  {
		sub => $sub,
		who => "consumer $_ of $name",
		member => $opt{named} ? "m$_" : undef,
		dbh => connect_store($node),
		hand => [],     # events to handle, those left alone are not among them
		batch => [],    # positions of all that was handed out
		live => 0,
		lost => {},     # position => 1, somebody else got it
		undo => undef,  # list of code, in a transaction
		stale => 0,     # that has a snapshot of its own
	  }
	  for 1 .. $count;
	return;
}

sub end_round
{
	foreach my $sub (values %sub)
	{
		$_->{dbh}->disconnect for @{ $sub->{consumers} };
		$admin->do('SELECT es_drop_subscription(?)', undef, $sub->{name}) unless $broken;
	}
	return;
}

sub step
{
	my $stay = $at && chance($mood{stay});
	return write_step() if chance($mood{write} / ($stay ? 4 : 1));
	my $sub = $stay ? $at->{sub} : any(map { $sub{$_} } sort keys %sub);
	return admin_step($sub) if chance($mood{admin});
	$at = any(@{ $sub->{consumers} }) unless $stay;
	consumer_step($at);
	return;
}

# ---------------------------------------------------------------------------
# Writers

sub write_step
{
	my $writer = any(@writers);
	my $open = $writer->{open};
	if (@$open && chance(40))
	{
		my $commit = chance(70);
		trace($commit ? 'commit' : 'roll back', map { $_->{position} } @$open);
		$commit ? $writer->{dbh}->commit : $writer->{dbh}->rollback;
		committed(@$open) if $commit;
		@$open = ();
		return;
	}
	# one's own, or nobody's
	my %busy = map { $_->{stream} => 1 } map { $_ == $writer ? () : @{ $_->{open} } } @writers;
	my @free = grep { !$busy{$_} } @{ $mood{streams} };
	return unless @free;
	my $lasting = @$open || chance(30);
	$writer->{dbh}->begin_work if $lasting && !@$open;
	my @new;
	foreach (1 .. random_int(1, 3))
	{
		my ($stream, $type) = (any(@free), any(@types));
		if (chance($mood{alone}))
		{
			push @new, append_alone($writer, $type);
			next;
		}
		my $event = append($writer->{dbh}, $stream, ANY, $type);
		push @new,
		  {
			position => $event->{position},
			version => $event->{version},
			stream => $stream,
			category => $stream =~ /^(\w+)/,
			type => $type
		  };
	}
	trace($lasting ? 'append, open' : 'append', map { "$_->{position}=$_->{stream}" } @new);
	$lasting ? push @$open, @new : committed(@new);
	return;
}

# An event that belongs to no stream: to the model the only one of a stream.  No
# two conditions are the same, so nobody waits.
sub append_alone
{
	my ($writer, $type) = @_;
	my $position = sql_value($writer->{dbh}, q{SELECT global_position FROM es_append_if(
		jsonb_build_object('event_type', $1::text, 'data', 1, 'tags', jsonb_build_array($2::text)),
		jsonb_build_object('items', jsonb_build_array(jsonb_build_object('tags', jsonb_build_array($3::text)))))},
		$type, any(@tags), 'none of ' . ++$count{alone});
	return { position => $position, version => 1, stream => alone($position), category => '', type => $type };
}

sub alone
{
	my ($position) = @_;
	return "position $position";
}

sub committed
{
	push @{ $events{ $_->{stream} } }, $_ for @_;
	$count{event} += @_;
	return;
}

sub wanted
{
	my ($sub, $event) = @_;
	return $event->{position} > $sub->{base}
	  && (!$sub->{category} || $sub->{category}{ $event->{category} })
	  && (!$sub->{type} || $sub->{type}{ $event->{type} });
}

# ---------------------------------------------------------------------------
# Consumers

# Change the model; undone if the consumer's transaction is rolled back.
sub change
{
	my ($consumer, $hash, $key, $value) = @_;
	my ($existed, $old) = (exists $hash->{$key}, $hash->{$key});
	push @{ $consumer->{undo} }, sub { $existed ? $hash->{$key} = $old : delete $hash->{$key} }
	  if $consumer->{undo};
	defined $value ? $hash->{$key} = $value : delete $hash->{$key};
	return;
}

sub in_transaction
{
	my ($sub) = @_;
	return grep { $_->{undo} } @{ $sub->{consumers} };
}

sub consumer_step
{
	my ($consumer) = @_;
	my $sub = $consumer->{sub};

	if ($consumer->{undo} && chance(30))
	{
		end_transaction($consumer, chance(60));
		return;
	}
	if (!$consumer->{undo} && chance(15))
	{
		my $level = chance(25) ? 'REPEATABLE READ' : 'READ COMMITTED';
		trace($consumer->{who}, 'begins', $level);
		$consumer->{dbh}->begin_work;
		$consumer->{dbh}->do("SET TRANSACTION ISOLATION LEVEL $level");
		$consumer->{undo} = [];
		$consumer->{stale} = $level eq 'REPEATABLE READ';
	}
	if (chance(3))
	{
		trace($consumer->{who}, 'dies');
		undo($consumer);
		$consumer->{dbh}->disconnect;
		$consumer->{dbh} = connect_store($node);
		forget($consumer);
		return;
	}
	# what waits for a lock of somebody else would wait for ever: that of the
	# cursor, or of a member that is about to be thrown out
	my $stuck = (!$sub->{slots} || !$consumer->{live})
	  && grep { $_ != $consumer } in_transaction($sub);
	if ($sub->{slots} && !$stuck && chance(6))
	{
		return leave($consumer) if chance(50);
		trace($consumer->{who}, 'joins');
		call($consumer, qr/^-/, 'SELECT es_join($1, $2)', $sub->{name}, $consumer->{member});
		return;
	}

	return fetch($consumer) if $stuck || !@{ $consumer->{batch} } || chance(15);
	return nack($consumer) if @{ $consumer->{hand} } && chance($mood{nack});
	ack($consumer);
	return;
}

sub forget
{
	my ($consumer) = @_;
	change($consumer, $consumer, 'hand', []);
	change($consumer, $consumer, 'batch', []);
	change($consumer, $consumer, 'lost', {});
	change($consumer, $consumer, 'live', 0);
	return;
}

sub undo
{
	my ($consumer) = @_;
	$_->() for reverse @{ $consumer->{undo} || [] };
	$consumer->{undo} = undef;
	return;
}

sub end_transaction
{
	my ($consumer, $commit) = @_;
	trace($consumer->{who}, $commit ? 'commits' : 'rolls back');
	$commit ? $consumer->{dbh}->commit : $consumer->{dbh}->rollback;
	$count{rollback}++ unless $commit;
	$consumer->{undo} = undef if $commit;
	undo($consumer);
	return;
}

# Call a function as the consumer; the rows, or undef after an error that the
# consumer must be prepared for.
sub call
{
	my ($consumer, $allowed, $sql, @args) = @_;
	my $rows = eval { $consumer->{dbh}->selectall_arrayref($sql, undef, @args) };
	return $rows if $rows;
	my ($error, $state) = ($@, $consumer->{dbh}->state);
	trace('...', $state);
	my $overtaken = $consumer->{undo} && $consumer->{stale} && $state eq '40001';
	broken("$consumer->{who}: $error") if $state !~ $allowed && !$overtaken;
	$count{overtaken}++ if $overtaken;
	if ($consumer->{undo})
	{
		$consumer->{dbh}->rollback;
		undo($consumer);
	}
	return undef;
}

sub fetch
{
	my ($consumer, $max) = @_;
	my $sub = $consumer->{sub};
	$max ||= random_int(1, $mood{fetch});
	my $rows = call($consumer, qr/^-/,
		'SELECT global_position, stream_id, version FROM es_fetch($1, $2, member => $3)',
		$sub->{name}, $max, $consumer->{member})
	  or return;
	$_->[1] //= alone($_->[0]) for @$rows;
	$_->[2] ||= 1 for @$rows;
	trace($consumer->{who}, "fetches $max:", map { "$_->[0]=$_->[1]" } @$rows);
	forget($consumer);
	return unless @$rows;
	judge($consumer, $rows);
	change($consumer, $consumer, 'hand',
		[ map { { position => $_->[0], stream => $_->[1], version => $_->[2] } } @$rows ]);
	change($consumer, $consumer, 'batch', [ map { $_->[0] } @$rows ]);
	change($consumer, $consumer, 'live', 1);
	return;
}

# Is this a batch that the consumer may get?
sub judge
{
	my ($consumer, $rows) = @_;
	my $sub = $consumer->{sub};
	my %batch;
	my $last = 0;
	foreach my $row (@$rows)
	{
		my ($position, $stream, $version) = @$row;
		my ($event) = grep { $_->{position} == $position } @{ $events{$stream} };

		return broken("$position is not committed") unless $event;
		return broken("$position is not wanted") unless wanted($sub, $event);
		return broken("$position after $last") if $position <= $last;
		return broken("$position is done") if $sub->{done}{$position};
		my $failed = $sub->{failed}{$stream};
		return broken("$position comes although $failed->{position} is parked")
		  if $failed && $failed->{state} eq 'parked' && $position >= $failed->{position};
		$last = $position;
		$batch{$position} = 1;
		foreach my $earlier (@{ $events{$stream} })
		{
			last if $earlier->{version} >= $version;
			return broken("$position comes before $earlier->{position}")
			  if wanted($sub, $earlier)
			  && !$sub->{done}{ $earlier->{position} } && !$batch{ $earlier->{position} };
		}
		foreach my $open (map { @{ $_->{open} } } @writers)
		{
			return broken("$position comes before $open->{position} is settled")
			  if $open->{position} < $position && wanted($sub, $open);
		}
		foreach my $other (@{ $sub->{consumers} })
		{
			next if $other == $consumer || !grep { $_ == $position } @{ $other->{batch} };
			return broken("$position is in the hands of $other->{who}")
			  if $other->{live} && grep { $_->{position} == $position } @{ $other->{hand} };
			change($consumer, $other->{lost}, $position, 1);
		}
	}
	return;
}

sub ack
{
	my ($consumer) = @_;
	my $sub = $consumer->{sub};
	my $position = chance(60) ? $consumer->{batch}[-1] : any(@{ $consumer->{batch} });
	my $lost = grep { $_ <= $position } keys %{ $consumer->{lost} };
	trace($consumer->{who}, "acknowledges $position", $lost ? 'late' : '');
	$count{late}++ unless $consumer->{live};
	if (!call($consumer, $consumer->{live} ? qr/^-/ : qr/^(55000|55006)$/,
			'SELECT es_ack($1, $2, $3)', $sub->{name}, $position, $consumer->{member}))
	{
		forget($consumer);
		return;
	}
	return broken("$consumer->{who} acknowledges $position, which somebody else got") if $lost;
	$count{ack}++;
	foreach my $event (grep { $_->{position} <= $position } @{ $consumer->{hand} })
	{
		change($consumer, $sub->{done}, $event->{position}, 1);
		my $failed = $sub->{failed}{ $event->{stream} };
		change($consumer, $sub->{failed}, $event->{stream}, undef)
		  if $failed && $failed->{position} == $event->{position};
	}
	change($consumer, $consumer, $_,
		[ grep { (ref $_ ? $_->{position} : $_) > $position } @{ $consumer->{$_} } ])
	  for qw(hand batch);
	change($consumer, $consumer, 'live', @{ $consumer->{batch} } ? 1 : 0);
	return;
}

sub nack
{
	my ($consumer) = @_;
	my $sub = $consumer->{sub};
	my $event = any(@{ $consumer->{hand} });
	my ($position, $stream) = ($event->{position}, $event->{stream});
	my $lost = grep { $_ <= $position } keys %{ $consumer->{lost} };
	my $allowed = $consumer->{live} ? qr/^-/ : qr/^(55000|55006)$/;
	$allowed = qr/^(55000|55006|22023)$/ if $sub->{done}{$position};    # discarded
	trace($consumer->{who}, "cannot handle $position", $lost ? 'late' : '');
	my $result = call($consumer, $allowed, 'SELECT es_nack($1, $2, $3, $4, $5)',
		$sub->{name}, $position, "no $position", chance(70) ? 1 : 0, $consumer->{member});
	if (!$result)
	{
		forget($consumer);
		return;
	}
	return broken("$consumer->{who} rejects $position, which somebody else got") if $lost;
	$count{nack}++;
	my $state = $result->[0][0];
	trace('...', $state);
	return broken("$state for the first of its stream") if $state !~ /^(retry|parked)$/;
	$count{parked}++ if $state eq 'parked';
	change($consumer, $sub->{failed}, $stream, { position => $position, state => $state });
	change($consumer, $consumer, 'hand',
		[ grep { $_->{stream} ne $stream || $_->{position} < $position } @{ $consumer->{hand} } ]);
	return;
}

sub leave
{
	my ($consumer) = @_;
	trace($consumer->{who}, 'leaves');
	call($consumer, qr/^-/, 'SELECT es_leave($1, $2)', $consumer->{sub}{name},
		$consumer->{member})
	  or return;
	change($consumer, $consumer, 'live', 0);
	return;
}

# ---------------------------------------------------------------------------
# What others do to a subscription

sub admin_step
{
	my ($sub) = @_;
	my $choice = random_int(1, 100);
	my $name = $sub->{name};

	if ($choice <= 35)
	{
		# as if time went by, for those who are not in a transaction
		trace("leases of $name end");
		my $table = $sub->{slots} ? 'subscription_member' : 'subscription_checkpoint';
		my $ended = $admin->selectcol_arrayref(
			qq{WITH m AS (SELECT member FROM event_store.$table
				WHERE subscription = \$1 FOR UPDATE SKIP LOCKED)
			UPDATE event_store.$table t SET lease_until = clock_timestamp() - interval '1 s'
			FROM m WHERE t.subscription = \$1 AND t.member IS NOT DISTINCT FROM m.member
			RETURNING m.member}, undef, $name);
		$count{expired} += @$ended;
		foreach my $consumer (@{ $sub->{consumers} })
		{
			next if $sub->{slots} ? $consumer->{undo} : !@$ended;
			$consumer->{live} = 0;
		}
		return;
	}
	if ($choice <= 55)
	{
		my $stream = chance(50) ? any(@streams) : undef;
		return if in_transaction($sub);
		trace("retry of $name", $stream);
		$admin->do('SELECT es_retry_parked(?, ?)', undef, $name, $stream);
		$sub->{failed}{$_}{state} = 'retry'
		  for grep { !$stream || $_ eq $stream } keys %{ $sub->{failed} };
		return;
	}
	return if in_transaction($sub);
	if ($choice <= 75)
	{
		my @held_up = sort keys %{ $sub->{failed} } or return;
		my $stream = any(@held_up);
		my $position = $sub->{failed}{$stream}{position};
		trace("discard of $name: $position");
		return broken("$position cannot be discarded")
		  unless sql_value($admin, 'SELECT es_discard_parked(?, ?)', $name, $position);
		$sub->{done}{$position} = 1;
		delete $sub->{failed}{$stream};
		return;
	}
	if ($choice <= 95)
	{
		my @held_up = grep { /-/ } sort keys %{ $sub->{failed} } or return;
		my $stream = any(@held_up);
		my $position = $sub->{failed}{$stream}{position};
		my $queue = $admin->selectcol_arrayref(
			q{SELECT global_position FROM event_store.parked_events
			WHERE subscription = $1 AND stream_id = $2 AND global_position >= $3 ORDER BY 1},
			undef, $name, $stream, $position);
		trace("discard of $name: $stream", @$queue);
		return broken("$position is not held up") unless @$queue && $queue->[0] == $position;
		return broken("$stream cannot be discarded")
		  unless sql_value($admin, 'SELECT es_discard_parked_stream(?, ?)', $name, $stream);
		$sub->{done}{$_} = 1 for @$queue;
		delete $sub->{failed}{$stream};
		return;
	}
	my $position = random_int($sub->{base}, sql_value($admin, 'SELECT es_head()'));
	trace("reset of $name to $position");
	$admin->do('SELECT es_reset_subscription(?, ?)', undef, $name, $position);
	$sub->{failed} = {};
	$sub->{done} = { map { $_->{position} => 1 }
		  grep { $_->{position} <= $position } map { @$_ } values %events };
	foreach my $consumer (@{ $sub->{consumers} })
	{
		$consumer->{live} = 0;
		$consumer->{lost} = { map { $_ => 1 } @{ $consumer->{batch} } };
	}
	return;
}

# ---------------------------------------------------------------------------

# Everything ends well: each event that is wanted is done.
sub drain
{
	foreach my $writer (@writers)
	{
		next unless @{ $writer->{open} };
		$writer->{dbh}->rollback;
		$writer->{open} = [];
	}
	trace('drain');
	foreach my $consumer (map { @{ $sub{$_}{consumers} } } sort keys %sub)
	{
		end_transaction($consumer, chance(50)) if $consumer->{undo};
		forget($consumer);
		$consumer->{dbh}->do('DISCARD ALL');
	}
	foreach my $sub (map { $sub{$_} } sort keys %sub)
	{
		$admin->do("UPDATE event_store.$_ SET lease_until = clock_timestamp() - interval '1 s'")
		  for qw(subscription_checkpoint subscription_member);
		$admin->do('SELECT es_retry_parked(?)', undef, $sub->{name});
		$_->{state} = 'retry' for values %{ $sub->{failed} };

		my $idle = 0;
		while ($idle < 10 && !$broken)
		{
			my $found = 0;
			foreach my $consumer (@{ $sub->{consumers} })
			{
				fetch($consumer, 10);
				last if $broken;
				next unless @{ $consumer->{batch} };
				$found = 1;
				ack($consumer) while @{ $consumer->{batch} } && !$broken;
			}
			$idle = $found ? 0 : $idle + 1;
		}
		return if $broken;
		my @missing = grep { wanted($sub, $_) && !$sub->{done}{ $_->{position} } }
		  map { @$_ } values %events;
		return broken("$sub->{name} has lost " . join(' ', map { $_->{position} } @missing))
		  if @missing;
		my $lag = sql_value($admin,
			'SELECT lag_events FROM event_store.subscriptions WHERE name = ?', $sub->{name});
		return broken("$sub->{name} lags $lag") if $lag;
		my $parked = sql_value($admin,
			'SELECT count(*) FROM event_store.parked_events WHERE subscription = ?',
			$sub->{name});
		return broken("$sub->{name} has $parked parked events") if $parked;
	}
	return;
}
