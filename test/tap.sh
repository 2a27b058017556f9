#!/usr/bin/env bash
#
# tap.sh
#	  How test files are run that start servers of their own: as the server's
#	  user, with nothing of the caller's server, in a folder that goes away.
#
# Sourced after cluster.sh, by who has set $work, a folder in which "normal" is a
# build and "tap/tmp" is there, and $pg_config.
#
# Both functions set tap_run: what to put before the test files, in
# $work/normal.  prove.pl leaves its tally in $work/tap/SUITE.

tap_run=()

# tap_programs suite [variable=value ...]: files that are programs.
tap_programs() {
	local suite=$1

	shift
	tap_run=("${cluster_drop[@]}" env -u PGHOST -u PGPORT -u PGUSER -u PGDATABASE
		HOME="$work/tap" TMPDIR="$work/tap/tmp" PG_CONFIG="$pg_config" "$@"
		perl test/prove.pl --tally "$work/tap/$suite")
}

# tap_perl suite [variable=value ...]: files that use PostgreSQL's test modules,
# which find what its makefiles would set.
tap_perl() {
	local suite=$1 tests

	shift
	tests=$(cd "$(dirname "$("$pg_config" --pgxs)")/../test" && pwd)
	tap_programs "$suite" TESTDIR="$work/tap" TESTDATADIR="$work/tap/tmp_check" \
		TESTLOGDIR="$work/tap/tmp_check/log" PG_REGRESS="$tests/regress/pg_regress" "$@"
	tap_run+=(--include "$tests/perl" --include "$work/normal/test/perl" --logs "$work/tap/tmp_check/log")
}
