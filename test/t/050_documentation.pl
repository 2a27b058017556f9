# What the documentation says is what the product does: the examples of
# README.md and doc/ print what is printed there, and doc/reference.md lists
# every function, view, setting and error as the catalog and the code have them.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../perl";
use EventStoreTest;
use EventStoreTest::Documentation;
use Test::More;

my $top = "$FindBin::Bin/../..";
my $node = store_cluster('documented', preload => 'event_store');

checker();
for my $file ('README.md', map { s{^\Q$top\E/}{}r } sort glob("$top/doc/*.md"))
{
	run_file($file);
}

my $reference = read_file("$top/doc/reference.md");
create_store($node);
my $db = connect_store($node);
functions();
views();
settings();
errors();
$db->disconnect;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

sub read_file
{
	my ($name) = @_;

	open my $in, '<:encoding(UTF-8)', $name or die "cannot read $name: $!";
	local $/;
	return scalar <$in>;
}

# The negative control: a wrong result and an unexpected error are noticed.
sub checker
{
	$node->safe_psql('postgres', 'CREATE DATABASE checker');
	my @blocks = run_examples($node, 'checker',
		{ sql => "SELECT 1 AS a;\n", printed => " a \n---\n 2\n(1 row)\n" },
		{ sql => "SELECT nothing;\n" },
		{ sql => "SELECT 1 AS a;\n", printed => " a\n---\n 1\n(1 row)\n\n" });

	is_deeply([ map { complaint($_) ? 1 : 0 } @blocks ], [ 1, 1, 0 ], 'the checker notices what differs');
	return;
}

sub complaint
{
	my ($block) = @_;

	if (defined $block->{printed})
	{
		return comparable($block->{got}) ne comparable($block->{printed});
	}
	return $block->{got} =~ /^(?:ERROR|FATAL|invalid command|\\)/m;
}

sub run_file
{
	my ($file) = @_;
	my $dbname = lc($file =~ s/\W+/_/gr);
	my @blocks = examples("$top/$file");

	$node->safe_psql('postgres', "CREATE DATABASE $dbname");
	# the reader of README makes it himself
	$node->safe_psql($dbname, 'CREATE EXTENSION event_store') if $file ne 'README.md';
	for my $block (run_examples($node, $dbname, @blocks))
	{
		ok(!complaint($block), "$file, line $block->{line}")
		  or diag("expected:\n", $block->{printed} // 'no error', "\ngot:\n$block->{got}");
	}
	return;
}

# Every `es_...(...)` that begins a row of a table of the reference.
sub functions
{
	my %written;
	my $sql = q{
		SELECT p.proname || '(' || COALESCE((
				 SELECT string_agg(COALESCE(a.name || ' ', '') || format_type(a.type, NULL) ||
							COALESCE(' = ' || regexp_replace(pg_get_function_arg_default(p.oid, a.n::int), '::[a-z ]+(\[\])?$', ''), ''),
							', ' ORDER BY a.n)
				   FROM unnest(p.proargnames, COALESCE(p.proallargtypes, p.proargtypes::oid[]),
							   COALESCE(p.proargmodes, array_fill('i'::"char", ARRAY[p.pronargs::int])))
						WITH ORDINALITY AS a (name, type, mode, n)
				  WHERE a.mode = 'i'), '') || ')'
		  FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
		 WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'event_store')
		   AND p.pronamespace <> 'event_store'::regnamespace
		   AND p.prokind = 'f'
		   -- what takes a function takes its name as text, too, and is written once
		   AND NOT EXISTS (SELECT FROM pg_proc t WHERE t.pronamespace = p.pronamespace AND t.proname = p.proname AND t.oid <> p.oid
							AND replace(oidvectortypes(t.proargtypes), 'regprocedure', 'text') = oidvectortypes(p.proargtypes))};
	my %known = map { plain($_->[0]) => 1 } @{ $db->selectall_arrayref($sql) };

	while ($reference =~ /^\| (`es_[^|]*?`(?:, `es_[^|]*?`)*) \|/mg)
	{
		my $cell = $1;

		$written{ plain($1) } = 1 while $cell =~ /`(es_\w+\([^`]*\))`/g;
	}
	is_deeply([ grep { !$written{$_} } sort keys %known ], [], 'every function is in the reference, with its arguments');
	is_deeply([ grep { !$known{$_} } sort keys %written ], [], 'the reference lists no function that is not there');
	return;
}

# One spelling for what can be written in several ways.
sub plain
{
	my ($signature) = @_;

	for ($signature)
	{
		s/\bint\b/integer/g;
		s/\btimestamptz\b/timestamp with time zone/g;
		s/NULL::[^,)]*/NULL/g;
		s/'00:00:30'/'30 s'/g;
		s/'00:00:00'/'0'/g;
	}
	return $signature;
}

sub views
{
	my %known = map { $_->[0] => 1 } @{
		$db->selectall_arrayref(
			q{SELECT 'event_store.' || relname FROM pg_class
			   WHERE relkind = 'v' AND relnamespace = 'event_store'::regnamespace})
	};
	my %written;

	$written{$1} = 1 while $reference =~ /^\| `(event_store\.\w+)` \|(?! `)/mg;
	is_deeply([ grep { !$written{$_} } sort keys %known ], [], 'every view is in the reference');
	my %settings = map { $_->[0] => 1 } @{
		$db->selectall_arrayref(q{SELECT name FROM pg_settings WHERE name LIKE 'event_store.%'})
	};
	is_deeply([ grep { !$known{$_} && !$settings{$_} } sort keys %written ],
		[], 'the reference lists no view that is not there');
	return;
}

sub settings
{
	my %known = map { $_->[0] => $_->[1] } @{
		$db->selectall_arrayref(
			q{SELECT name, current_setting(name) FROM pg_settings WHERE name LIKE 'event_store.%'})
	};
	my %written;

	$written{$1} = $2 while $reference =~ /^\| `(event_store\.\w+)` \| `([^`]*)` \|/mg;
	# as SHOW prints them
	is($written{$_}, $known{$_}, "default of $_") for sort keys %known;
	is_deeply([ grep { !exists $known{$_} } sort keys %written ], [], 'the reference lists no setting that is not there');
	return;
}

# The conditions of our own class.
sub errors
{
	my $code = read_file("$top/src/base/errors.h");
	my (%known, %written);

	$known{"VE$1$2$3"} = 1 while $code =~ /MAKE_SQLSTATE\('V', *'E', *'(\d)', *'(\d)', *'(\d)'\)/g;
	my ($section) = $reference =~ /^## Errors\n(.*?)(?:^## |\z)/ms;
	$written{$1} = 1 while $section =~ /^\| `?(VE\d{3})`? \|/mg;
	ok(keys %known > 5, 'the code has conditions');
	is_deeply([ sort keys %written ], [ sort keys %known ], 'the conditions of class VE are in the reference');
	return;
}
