# What a database's catalog says of the extension, as lines of text without
# OIDs: two databases with the same lines have the same extension.

package EventStoreTest::Catalog;

use strict;
use warnings;

use EventStoreTest;
use Exporter 'import';

our @EXPORT_OK = qw(catalog_of grants_of only_in);

# members: what CREATE EXTENSION has made, and what belongs to that.  Names
# that PostgreSQL makes of OIDs are the same in all databases here.
my $members = q{
	WITH RECURSIVE member AS (
		SELECT d.classid, d.objid FROM pg_depend d
			JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
		WHERE e.extname = 'event_store' AND d.deptype = 'e'
		UNION
		SELECT d.classid, d.objid FROM pg_depend d
			JOIN member m ON d.refclassid = m.classid AND d.refobjid = m.objid
		WHERE d.deptype IN ('a', 'i') AND d.classid <> 'pg_am'::regclass),
	object AS (
		SELECT m.classid, m.objid, i.type,
			   regexp_replace(i.identity, '((?:pg_toast|ConstraintTrigger\w*)_)\d+', '\1N', 'g') AS identity
		FROM member m CROSS JOIN LATERAL pg_identify_object(m.classid, m.objid, 0) i)};

# pg_attver is a number that PostgreSQL keeps there from the minor releases of
# 2026 on; no two tables have the same.

# each: what it tells, and its query over the above
my @queries = (
	[ 'object' => 'SELECT type, identity FROM object' ],
	[
		'extension' => q{
		SELECT e.extname, e.extversion, n.nspname, e.extrelocatable, pg_get_userbyid(e.extowner),
			   obj_description(e.oid, 'pg_extension')
		FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'event_store'}
	],
	[
		'dumped' => q{
		SELECT c.oid::regclass, c.condition
		FROM pg_extension e CROSS JOIN LATERAL unnest(e.extconfig, e.extcondition) c(oid, condition)
		WHERE e.extname = 'event_store'}
	],
	[
		'comment' => q{
		SELECT o.type, o.identity, d.objsubid, d.description
		FROM object o JOIN pg_description d ON d.classoid = o.classid AND d.objoid = o.objid}
	],
	[
		'schema' => q{
		SELECT o.identity, pg_get_userbyid(n.nspowner), (SELECT array_agg(i::text ORDER BY i::text) FROM unnest(n.nspacl) i)
		FROM object o JOIN pg_namespace n ON o.classid = 'pg_namespace'::regclass AND n.oid = o.objid}
	],
	[
		'function' => q{
		SELECT o.identity, pg_get_userbyid(p.proowner), (SELECT array_agg(i::text ORDER BY i::text) FROM unnest(p.proacl) i), pg_get_functiondef(p.oid)
		FROM object o JOIN pg_proc p ON o.classid = 'pg_proc'::regclass AND p.oid = o.objid AND p.prokind IN ('f', 'p')}
	],
	[
		'relation' => q{
		SELECT o.identity, c.relkind, c.relpersistence, pg_get_userbyid(c.relowner), (SELECT array_agg(i::text ORDER BY i::text) FROM unnest(c.relacl) i), c.reloptions,
			   c.relrowsecurity, c.relforcerowsecurity, c.relreplident, a.amname
		FROM object o JOIN pg_class c ON o.classid = 'pg_class'::regclass AND c.oid = o.objid
			 LEFT JOIN pg_am a ON a.oid = c.relam}
	],
	[
		'column' => q{
		SELECT o.identity, row_number() OVER (PARTITION BY o.objid ORDER BY a.attnum), a.attname,
			   format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated, a.attstorage,
			   to_jsonb(a)->>'attcompression', a.attstattarget, (SELECT array_agg(i::text ORDER BY i::text) FROM unnest(a.attacl) i), (SELECT array_agg(i) FROM unnest(a.attoptions) i WHERE i NOT LIKE 'pg_attver=%'),
			   CASE WHEN a.attcollation <> 0 THEN a.attcollation::regcollation END,
			   pg_get_expr(d.adbin, d.adrelid)
		FROM object o JOIN pg_attribute a ON o.classid = 'pg_class'::regclass AND a.attrelid = o.objid
			 LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE a.attnum > 0 AND NOT a.attisdropped}
	],
	[
		'view' => q{
		SELECT o.identity, pg_get_viewdef(o.objid)
		FROM object o WHERE o.type IN ('view', 'materialized view')}
	],
	[
		'sequence' => q{
		SELECT o.identity, format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax,
			   s.seqcache, s.seqcycle
		FROM object o JOIN pg_sequence s ON o.classid = 'pg_class'::regclass AND s.seqrelid = o.objid}
	],
	[
		'index' => q{
		SELECT o.identity, pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisprimary, i.indisreplident
		FROM object o JOIN pg_index i ON o.classid = 'pg_class'::regclass AND i.indexrelid = o.objid
		WHERE o.type = 'index' AND o.identity NOT LIKE 'pg_toast.%'}
	],
	[
		'constraint' => q{
		SELECT o.identity, pg_get_constraintdef(c.oid), c.convalidated, c.conislocal, c.connoinherit
		FROM object o JOIN pg_constraint c ON o.classid = 'pg_constraint'::regclass AND c.oid = o.objid}
	],
	[
		'trigger' => q{
		SELECT o.identity, t.tgenabled, CASE WHEN NOT t.tgisinternal THEN pg_get_triggerdef(t.oid) END
		FROM object o JOIN pg_trigger t ON o.classid = 'pg_trigger'::regclass AND t.oid = o.objid}
	],
	[
		'type' => q{
		SELECT o.identity, t.typtype, pg_get_userbyid(t.typowner), (SELECT array_agg(i::text ORDER BY i::text) FROM unnest(t.typacl) i), t.typnotnull, t.typdefault,
			   (SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid)
		FROM object o JOIN pg_type t ON o.classid = 'pg_type'::regclass AND t.oid = o.objid}
	],
	[
		'policy' => q{
		SELECT o.identity, p.polcmd, p.polpermissive, p.polroles::regrole[], pg_get_expr(p.polqual, p.polrelid),
			   pg_get_expr(p.polwithcheck, p.polrelid)
		FROM object o JOIN pg_policy p ON o.classid = 'pg_policy'::regclass AND p.oid = o.objid}
	],
	[
		'event trigger' => q{
		SELECT o.identity, t.evtevent, t.evtenabled, t.evttags, t.evtfoid::regprocedure
		FROM object o JOIN pg_event_trigger t ON o.classid = 'pg_event_trigger'::regclass AND t.oid = o.objid}
	],

	# what pg_dump takes for granted
	[
		'initial privileges' => q{
		SELECT o.type, o.identity, p.objsubid, p.privtype, (SELECT array_agg(i::text ORDER BY i::text) FROM unnest(p.initprivs) i)
		FROM object o JOIN pg_init_privs p ON p.classoid = o.classid AND p.objoid = o.objid}
	],

	# the order in which things are dumped and dropped
	[
		'dependency' => q{
		SELECT o.type, o.identity, d.deptype, i.type,
			   regexp_replace(i.identity, '((?:pg_toast|ConstraintTrigger\w*)_)\d+', '\1N', 'g')
		FROM object o JOIN pg_depend d ON d.classid = o.classid AND d.objid = o.objid
			 CROSS JOIN LATERAL pg_identify_object(d.refclassid, d.refobjid, d.refobjsubid) i}
	]);

# Result: reference to a list of lines, sorted.  The connection's transaction, if
# it is in one, has another search_path afterwards.
sub catalog_of
{
	my ($dbh) = @_;
	my %lines;

	my $own = $dbh->{AutoCommit};

	$dbh->begin_work if $own;
	$dbh->do('SET LOCAL search_path = pg_catalog');
	foreach my $query (@queries)
	{
		my ($what, $sql) = @$query;
		my $rows = $dbh->selectcol_arrayref("$members SELECT q::text FROM ($sql) q");
		$lines{"$what $_"} = 1 for @$rows;
	}
	$dbh->rollback if $own;
	return [ sort keys %lines ];
}

# Who may do what with the extension's objects: lines, without the owners' own.
# By name, because a function may get further arguments.
sub grants_of
{
	my ($dbh) = @_;
	return $dbh->selectcol_arrayref(
		q{
		SELECT q::text FROM (
			SELECT p.pronamespace::regnamespace || '.' || p.proname, a.grantee::regrole, a.privilege_type
			FROM pg_proc p CROSS JOIN LATERAL aclexplode(p.proacl) a WHERE a.grantee <> p.proowner
			UNION
			SELECT c.oid::regclass::text, a.grantee::regrole, a.privilege_type
			FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
			WHERE a.grantee <> c.relowner AND c.relnamespace = 'event_store'::regnamespace) q
		WHERE grantee::oid <> 0});
}

# The lines of the first that the second has not.
sub only_in
{
	my ($first, $second) = @_;
	my %there = map { $_ => 1 } @$second;
	return grep { !$there{$_} } @$first;
}

1;
