#!/usr/bin/perl
#
# load_webhooks.pl [--quiet] DSN [file.jsonl.gz]
#	  Load GitHub's webhook payloads as events, through DBD::Pg.
#
# Each payload becomes one event in the stream of the object that it tells
# about: Issue-<id>, PullRequest-<id>, Repository-<id> and so on.  Everything
# about it is derived from the file, event ids included, so that loading twice
# is a retry that changes nothing.
#
#	1. every payload is appended by itself, at the exact version expected;
#	2. the same is sent again, a stream at a time: once as a batch of arrays and
#	   once as a JSON array of events.  Each must be answered as a duplicate,
#	   with the positions of the first time;
#	3. everything is read back, globally in pages, by stream, by category and by
#	   event type, and compared, the payload byte for byte with what the server
#	   makes of the original text as jsonb.
#
# DSN is what follows "dbi:Pg:" (dbname=… host=… port=…).  The extension must
# exist in the database.  Ends with status 1 and says what differs, if anything
# does.

use strict;
use warnings;

use DBI;
use Digest::MD5 qw(md5_hex);
use Encode qw(decode_utf8 encode_utf8);
use File::Basename qw(dirname);
use JSON::PP qw(decode_json);

use constant PAGE_SIZE => 100;

# Where the stream is not that of the object which the webhook is named for:
# type of the stream, and the path of its id in the payload.
my %stream_of = (
	code_scanning_alert => [ 'CodeScanningAlert', 'repository.id', 'alert.number' ],
	commit_comment => [ 'CommitComment', 'comment.id' ],
	branch_protection_rule => [ 'BranchProtectionRule', 'rule.id' ],
	dependabot_alert => [ 'DependabotAlert', 'repository.id', 'alert.number' ],
	deploy_key => [ 'DeployKey', 'key.id' ],
	deployment_review => [ 'WorkflowRun', 'workflow_run.id' ],
	deployment_status => [ 'Deployment', 'deployment.id' ],
	discussion_comment => [ 'Discussion', 'discussion.id' ],
	github_app_authorization => [ 'User', 'sender.id' ],
	installation_repositories => [ 'Installation', 'installation.id' ],
	issue_comment => [ 'Issue', 'issue.id' ],
	issues => [ 'Issue', 'issue.id' ],
	marketplace_purchase => [ 'MarketplaceAccount', 'marketplace_purchase.account.id' ],
	member => [ 'Repository', 'repository.id' ],
	membership => [ 'Team', 'team.id' ],
	merge_group => [ 'MergeGroup', 'merge_group.head_sha' ],
	meta => [ 'Hook', 'hook.id' ],
	ping => [ 'Hook', 'hook.id' ],
	pull_request_review => [ 'PullRequest', 'pull_request.id' ],
	pull_request_review_comment => [ 'PullRequest', 'pull_request.id' ],
	pull_request_review_thread => [ 'PullRequest', 'pull_request.id' ],
	repository_vulnerability_alert => [ 'RepositoryVulnerabilityAlert', 'alert.id' ],
	security_advisory => [ 'SecurityAdvisory', 'security_advisory.ghsa_id' ],
	sponsorship => [ 'Sponsorship', 'sponsorship.node_id' ],
	team_add => [ 'Team', 'team.id' ],);

# Webhooks without an action (or with one of the user's own) and their events.
my %event_of = (
	create => 'RefCreated',
	delete => 'RefDeleted',
	fork => 'RepositoryForked',
	gollum => 'WikiEdited',
	page_build => 'PageBuilt',
	ping => 'HookPinged',
	public => 'RepositoryPublished',
	push => 'RefPushed',
	repository_dispatch => 'RepositoryDispatched',
	repository_import => 'RepositoryImported',
	status => 'CommitStatusChanged',
	team_add => 'TeamAdded',
	workflow_dispatch => 'WorkflowDispatched',);

# Actions that GitHub does not name in the past tense.
my %past = (
	create => 'created',
	dismiss => 'dismissed',
	suspend => 'suspended',
	synchronize => 'synchronized',
	unsuspend => 'unsuspended',);

my $differences = 0;

sub differs
{
	my ($what, $got, $expected) = @_;

	$differences++;
	return if $differences > 20;
	$_ = defined $_ ? substr($_, 0, 300) : 'NULL' for $got, $expected;
	print STDERR "differs: $what\n     got: $got\nexpected: $expected\n";
	return;
}

sub check
{
	my ($what, $got, $expected) = @_;

	differs($what, $got, $expected)
	  if !defined $got || !defined $expected || $got ne $expected;
	return;
}

sub camel_case
{
	return join '', map { ucfirst } split /[_-]/, shift;
}

# A name-based uuid (version 5's layout, over MD5): the same name, the same id.
sub uuid_of
{
	my $hex = md5_hex(@_);

	substr($hex, 12, 1) = '5';
	substr($hex, 16, 1) = sprintf '%x', 8 | (hex(substr $hex, 16, 1) & 3);
	$hex =~ s/^(.{8})(.{4})(.{4})(.{4})(.{12})$/$1-$2-$3-$4-$5/;
	return $hex;
}

sub at_path
{
	my ($value, $path) = @_;

	for my $key (split /\./, $path)
	{
		return undef unless ref $value eq 'HASH';
		$value = $value->{$key};
	}
	return ref $value ? undef : $value;
}

sub stream_id
{
	my ($webhook, $payload) = @_;
	my ($type, @paths) =
	  @{ $stream_of{$webhook} || [ camel_case($webhook), "$webhook.id" ] };
	my @ids = map { at_path($payload, $_) } @paths;

	return join '-', $type, @ids if @ids == grep { defined } @ids;

	# not about an object of its own
	for my $owner (qw(repository organization installation sender))
	{
		my $id = at_path($payload, "$owner.id");

		return camel_case($owner) . "-$id" if defined $id;
	}
	die "a payload of $webhook belongs to nothing\n";
}

sub event_type
{
	my ($webhook, $payload) = @_;
	my $action = $payload->{action};

	return $event_of{$webhook} if $event_of{$webhook};
	die "a payload of $webhook has no action\n" unless defined $action;
	return camel_case($webhook) . camel_case($past{$action} || $action);
}

# Read the file: a list of events, with the payload's original text as data.
sub read_events
{
	my $file = shift;
	my (@events, %version);

	open my $lines, '-|', 'gzip', '-dc', $file or die "cannot run gzip: $!\n";
	while (my $line = <$lines>)
	{
		my ($webhook, $data) = $line =~ /^\{"name":"(\w+)","payload":(.*)\}$/
		  or die "$file:$.: not {\"name\": …, \"payload\": …}\n";
		my $payload = decode_json($data);
		my $stream = stream_id($webhook, $payload);
		my $cause = at_path($payload, 'repository.full_name') || $stream;

		push @events,
		  {
			stream => $stream,
			category => $stream =~ s/-.*//r,
			version => ++$version{$stream},
			type => event_type($webhook, $payload),
			data => decode_utf8($data),
			metadata => sprintf('{"delivery": "%s", "correlation_id": "%s"}',
				uuid_of('delivery', $., $data),
				uuid_of('correlation', encode_utf8($cause))),
			id => uuid_of($., $data),
		  };
	}
	close $lines or die "gzip could not unpack $file\n";
	die "$file is empty\n" unless @events;
	return @events;
}

# The store's answer to an append: compare, and on the first time remember.
sub check_answer
{
	my ($how, $event, $answer, $duplicate) = @_;
	my $what = "$how of $event->{stream} version $event->{version}";

	check("$what: event_id", $answer->{event_id}, $event->{id});
	check("$what: version", $answer->{version}, $event->{version});
	check("$what: is_duplicate", $answer->{is_duplicate}, $duplicate)
	  if defined $duplicate;
	$event->{position} = $answer->{global_position} unless defined $event->{position};
	check("$what: global_position", $answer->{global_position}, $event->{position});
	return;
}

# Everything, one append each; returns how many were already there.
sub append_singly
{
	my ($dbh, @events) = @_;
	my $duplicates = 0;
	my $append = $dbh->prepare(
		'SELECT * FROM es_append($1, $2::bigint, $3, $4::jsonb, $5::jsonb, $6::uuid)');

	for my $event (@events)
	{
		$append->execute($event->{stream}, $event->{version} - 1,
			@$event{qw(type data metadata id)});
		my $answer = $append->fetchrow_hashref;
		$append->finish;
		$duplicates += $answer->{is_duplicate};
		check_answer('append', $event, $answer);
	}
	return $duplicates;
}

# The retries: the same streams again, each in one call.
sub retry_streams
{
	my ($dbh, $streams) = @_;
	my $batch = $dbh->prepare('SELECT * FROM es_append_batch($1, 0, $2::text[], '
		  . '$3::text[]::jsonb[], $4::text[]::jsonb[], $5::uuid[])');
	my $json = $dbh->prepare('SELECT * FROM es_append($1, 0, $2::jsonb)');

	for my $stream (sort keys %$streams)
	{
		my @events = @{ $streams->{$stream} };
		my @columns = map { my $key = $_; [ map { $_->{$key} } @events ] }
		  qw(type data metadata id);
		my $text = join ',', map {
			qq({"event_type": "$_->{type}", "event_id": "$_->{id}", )
			  . qq("metadata": $_->{metadata}, "data": $_->{data}})
		} @events;

		for my $retry ([ 'batch', $batch, @columns ], [ 'JSON append', $json, "[$text]" ])
		{
			my ($how, $statement, @arguments) = @$retry;

			$statement->execute($stream, @arguments);
			my $answers = $statement->fetchall_arrayref({});
			check("$how of $stream: rows", scalar @$answers, scalar @events);
			check_answer($how, $events[$_], $answers->[$_], 1)
			  for 0 .. ($#$answers < $#events ? $#$answers : $#events);
		}
	}
	return;
}

my $columns = 'global_position, stream_id, version, event_id, event_type, '
  . 'schema_version, data::text, metadata::text, created_at IS NOT NULL AS dated';

# One event read back, from whichever call.
sub check_event
{
	my ($how, $row, $event) = @_;
	my $what = "$how: $event->{stream} version $event->{version}";

	check("$what: global_position", $row->{global_position}, $event->{position});
	check("$what: stream_id", $row->{stream_id}, $event->{stream});
	check("$what: version", $row->{version}, $event->{version});
	check("$what: event_id", $row->{event_id}, $event->{id});
	check("$what: event_type", $row->{event_type}, $event->{type});
	check("$what: schema_version", $row->{schema_version}, 1);
	check("$what: data", $row->{data}, $event->{jsonb});
	check("$what: metadata", $row->{metadata}, $event->{metadata_jsonb});
	check("$what: created_at", $row->{dated}, 1);
	return;
}

sub check_events
{
	my ($how, $rows, @events) = @_;

	check("$how: number of events", scalar @$rows, scalar @events);
	check_event($how, $rows->[$_], $events[$_])
	  for 0 .. ($#$rows < $#events ? $#$rows : $#events);
	return scalar @$rows;
}

# All pages of a call that takes a position and a limit.
sub read_pages
{
	my ($dbh, $call, @arguments) = @_;
	my $page = $dbh->prepare("SELECT $columns FROM $call");
	my $after = 0;
	my @rows;

	for (;;)
	{
		$page->execute($after, PAGE_SIZE, @arguments);
		my $got = $page->fetchall_arrayref({});

		push @rows, @$got;
		return \@rows if @$got == 0;
		if ($got->[-1]{global_position} <= $after)
		{
			differs("$call: the page does not go on",
				$got->[-1]{global_position}, "more than $after");
			return \@rows;
		}
		$after = $got->[-1]{global_position};
	}
}

sub group_by
{
	my ($key, @events) = @_;
	my %group;

	push @{ $group{ $_->{$key} } }, $_ for @events;
	return \%group;
}

my $quiet = @ARGV && $ARGV[0] eq '--quiet' ? shift : 0;
my ($dsn, $file) = @ARGV;

die "usage: $0 [--quiet] DSN [file.jsonl.gz]\n" unless defined $dsn && @ARGV <= 2;
$file = dirname($0) . '/data/webhooks.jsonl.gz' unless defined $file;
$dsn =~ s/^dbi:Pg://i;

my @events = read_events($file);
my $streams = group_by('stream', @events);
my $categories = group_by('category', @events);
my $types = group_by('type', @events);

# what is sent and compared is text, whatever the database's encoding
$ENV{PGCLIENTENCODING} = 'UTF8';
my $dbh = DBI->connect("dbi:Pg:$dsn", undef, undef,
	{ AutoCommit => 1, RaiseError => 1, PrintError => 0 });
$dbh->do('SET client_min_messages = warning');

my $jsonb = $dbh->prepare('SELECT $1::jsonb::text, $2::jsonb::text');
for my $event (@events)
{
	$jsonb->execute(@$event{qw(data metadata)});
	@$event{qw(jsonb metadata_jsonb)} = $jsonb->fetchrow_array;
	$jsonb->finish;
}

my $duplicates = append_singly($dbh, @events);
retry_streams($dbh, $streams);

# The store may hold other events too; ours are recognized by their ids.
my %ours = map { $_->{id} => 1 } @events;
my @ordered = sort { $a->{position} <=> $b->{position} } @events;
my $all = read_pages($dbh, 'es_read_all($1::bigint, $2::bigint)');
my $others = grep { !$ours{ $_->{event_id} } } @$all;

check_events('es_read_all', [ grep { $ours{ $_->{event_id} } } @$all ], @ordered);

my $by_stream = $dbh->prepare("SELECT $columns FROM es_read_stream(\$1)");
for my $stream (sort keys %$streams)
{
	$by_stream->execute($stream);
	check_events("es_read_stream of $stream", $by_stream->fetchall_arrayref({}),
		@{ $streams->{$stream} });
}

for my $category (sort keys %$categories)
{
	my $rows = read_pages($dbh, 'es_read_category($3, $1::bigint, $2::bigint)', $category);

	check_events("es_read_category of $category",
		[ grep { $ours{ $_->{event_id} } } @$rows ],
		sort { $a->{position} <=> $b->{position} } @{ $categories->{$category} });
}

for my $type (sort keys %$types)
{
	my $rows = read_pages($dbh,
		'es_read_all($1::bigint, $2::bigint, event_types => ARRAY[$3::text])', $type);

	check_events("es_read_all of $type",
		[ grep { $ours{ $_->{event_id} } } @$rows ],
		sort { $a->{position} <=> $b->{position} } @{ $types->{$type} });
}

$dbh->disconnect;

if (!$quiet)
{
	printf "%d events in %d streams, %d categories, %d event types; %d appended, %d were there\n",
	  scalar @events, scalar keys %$streams, scalar keys %$categories,
	  scalar keys %$types, @events - $duplicates, $duplicates;
	printf "sent again as batches and as JSON: all duplicates\n" unless $differences;
	printf "read back globally, by stream, by category and by type: %s\n",
	  $differences ? "$differences DIFFERENCES" : 'equal, byte for byte as jsonb';
	printf "(%d events of others are in the store)\n", $others if $others;
}
exit($differences ? 1 : 0);
