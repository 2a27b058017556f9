#!/usr/bin/env bash
#
# check.sh
#	  Everything that must pass, in one go.
#
# Installs what is missing, builds with warnings as errors (once as shipped and
# once with fault points), installs the shipped build, and runs all suites
# against it: pg_regress and the isolation tester through "make installcheck",
# pgTAP and TAP, those of contrib/gateway and contrib/feed, and contrib/top's in
# tmux.  The last line reads "N passed, N failed"; the exit status is 0 only when
# nothing failed.  A build that fails, a suite or a file that runs no
# test, one that dies, and one that runs into the time limit count as failed
# tests.  What failed is printed with its differences and logs.
#
# Environment: PG_CONFIG, and CHECK_MINUTES for the limit (40); from long.sh
# CHECK_CFLAGS, more flags for the compiler, CHECK_TAP, the files of test/t to
# run, and CHECK_AFTER, a command that is given the folder of the builds when
# all is done.
#
# TAP tests find:
#	ES_FAULTS_LIBDIR	where the module with fault points is; it is not installed,
#						a test has it loaded instead of the installed one
#	PG_CONFIG, PATH		of the PostgreSQL under test
#	PG_REGRESS, TESTDIR, TESTDATADIR, TESTLOGDIR	as PostgreSQL's makefiles set them

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/cluster.sh
. "$here/cluster.sh"
# shellcheck source=test/build.sh
. "$here/build.sh"
# shellcheck source=test/tap.sh
. "$here/tap.sh"

# the server's own headers trip the last two
warnings="-Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare ${CHECK_CFLAGS:-}"

passed=0
failed=0
running=

say() {
	printf '\n=== %s\n' "$*"
}

# Suites run under timeout, which makes a process group of its own: so a signal
# to this script is handled at once, and handed on to all of the suite.
# shellcheck disable=SC2317 # called by cluster_stop
cluster_before_stop() {
	if [ -n "$running" ]; then
		kill -TERM "$running" 2>/dev/null || true
		wait "$running" 2>/dev/null || true
	fi
}

# limited command...: within what is left of the time; 124 at its end.
limited() {
	local left=$((deadline - SECONDS)) status=0

	if [ $left -le 0 ]; then
		return 124
	fi
	timeout --kill-after=30 "$left" "$@" </dev/null &
	running=$!
	wait $running || status=$?
	running=
	return $status
}

# count suite passed failed status: add up what a suite reports.  A status that
# its failed tests do not explain is a failure of its own.
count() {
	local suite=$1 suite_passed=$2 suite_failed=$3 status=$4

	if [ "$status" -eq 124 ]; then
		echo "$suite: stopped at the limit of ${CHECK_MINUTES:-40} minutes"
		suite_failed=$((suite_failed + 1))
	elif [ "$status" -ne 0 ] && [ "$suite_failed" -eq 0 ]; then
		echo "$suite: ended with status $status"
		suite_failed=$((suite_failed + 1))
	elif [ $((suite_passed + suite_failed)) -eq 0 ]; then
		echo "$suite: ran no tests"
		suite_failed=1
	fi
	passed=$((passed + suite_passed))
	failed=$((failed + suite_failed))
	echo "$suite: $suite_passed passed, $suite_failed failed, $((SECONDS - suite_started)) s"
	[ "$suite_failed" -eq 0 ] || echo "$suite: $suite_failed failed" >>"$work/said"
}

finish() {
	if [ -s "$work/said" ]; then
		say "what has failed"
		cat "$work/said"
	fi
	say "all suites, $SECONDS s, $("$pg_config" --version)"
	if [ -n "${CHECK_AFTER:-}" ]; then
		$CHECK_AFTER "$work" || failed=$((failed + 1))
	fi
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ]
	exit
}

# --- build ------------------------------------------------------------------

build() {
	say "build"
	suite_started=$SECONDS
	build_copy "$work/normal"
	build_copy "$work/faults"
	if build_make "$work/normal" "$pg_config" COPT="$warnings" &&
		build_make "$work/faults" "$pg_config" COPT="$warnings" FAULTS=1 with_llvm=no all &&
		build_install "$work/normal" "$pg_config"; then
		count "build, without warnings" 2 0 0
	else
		count "build" 0 1 1
		finish
	fi
}

# The extensions beside the product, which their tests need installed.
build_contrib() {
	local folder

	say "contrib"
	suite_started=$SECONDS
	for folder in message_db cluster; do
		folder=$work/normal/contrib/$folder
		if ! build_make "$folder" "$pg_config" COPT="$warnings" || ! build_install "$folder" "$pg_config"; then
			count "contrib" 0 1 1
			finish
		fi
	done
	count "contrib, without warnings" 2 0 0
}

# The version stands in three places.
check_versions() {
	local version

	say "versions"
	suite_started=$SECONDS
	version=$(sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" "$work/normal/event_store.control")
	if [ -n "$version" ] && [ -f "$work/normal/sql/event_store--$version.sql" ] &&
		grep -q "\"version\": \"$version\.[0-9]*\"" "$work/normal/META.json"; then
		count "versions" 1 0 0
	else
		echo "event_store.control says '$version', META.json or sql/ something else"
		count "versions" 0 1 0
	fi
}

# Which way the arrows of src/ point; the judgement is tried out first.
check_wings() {
	local status=0

	say "wings"
	suite_started=$SECONDS
	perl "$here/wings.pl" --self-test && perl "$here/wings.pl" "$work/normal" "$work/normal" &&
		perl "$here/wings.pl" "$work/faults" "$work/faults" || status=$?
	if [ $status -eq 0 ]; then
		count "wings" 3 0 0
	else
		count "wings" 0 1 $status
	fi
}

# Packages that tests and examples in JavaScript need, as their lock files say.
install_npm() {
	local folder log=$work/npm.log

	say "npm packages"
	suite_started=$SECONDS
	while read -r folder; do
		if ! limited npm ci --prefix "$folder" --no-audit --no-fund >"$log" 2>&1; then
			cat "$log"
			count "npm packages" 0 1 1
			finish
		fi
	done < <(find "$work/normal" -name package-lock.json -not -path '*/node_modules/*' -printf '%h\n')
	count "npm packages" 1 0 0
}

# --- pg_regress and isolation -----------------------------------------------

# pg_regress's lines, in the shape before and from PostgreSQL 16 on.
regress_count() {
	sed -nE \
		-e 's/^(test|    ) *[^ ]+ +\.\.\. (ok|FAILED).*/\2/p' \
		-e 's/^(ok|not ok) +[0-9]+ +[-+] .*/\1/p' "$2" |
		sed -e 's/^not ok/FAILED/' | grep -cx "$1" || true
}

# run_regress suite other-suite's-variable= output-folder
run_regress() {
	local suite=$1 other=$2 log=$work/$1.log status=0

	say "$suite"
	suite_started=$SECONDS
	limited make -C "$work/normal" --no-print-directory PG_CONFIG="$pg_config" "$other" \
		installcheck >"$log" 2>&1 || status=$?
	grep -E '^(test |     |ok|not ok)' "$log" || true
	if [ $status -ne 0 ]; then
		grep -E 'FAILED|^not ok' "$log" >>"$work/said" || true
		grep -vE '^(test |     |ok|not ok)' "$log" || true
		head -n 400 "$work/normal/$3/regression.diffs" 2>/dev/null || true
	fi
	count "$suite" "$(regress_count ok "$log")" "$(regress_count FAILED "$log")" $status
}

# --- pgTAP and TAP ----------------------------------------------------------

# run_tap suite command...: a command with prove.pl and its tally.
run_tap() {
	local suite=$1 tally status=0

	shift
	say "$suite"
	suite_started=$SECONDS
	limited "$@" 2>&1 || status=$?
	tally=$(head -n 1 "$work/tap/$suite" 2>/dev/null) || tally='0 0'
	tail -n +2 "$work/tap/$suite" >>"$work/said" 2>/dev/null || true
	# shellcheck disable=SC2086 # two numbers
	count "$suite" $tally $status
}

run_pgtap() {
	cd "$work/normal"
	psql -X -q -c 'CREATE DATABASE pgtap'
	psql -X -q -d pgtap -c 'CREATE EXTENSION event_store' -c 'CREATE EXTENSION pgtap'
	run_tap pgTAP perl test/prove.pl --tally "$work/tap/pgTAP" \
		--psql "$cluster_bin/psql" --dbname pgtap test/pgtap/*.sql
}

# run_perl_tap suite file...: these start servers of their own.
run_perl_tap() {
	local suite=$1

	shift
	cd "$work/normal"
	tap_perl "$suite" ES_FAULTS_LIBDIR="$work/faults"
	run_tap "$suite" "${tap_run[@]}" "$@"
}

# contrib/gateway, with KurrentDB's clients; its tests start servers of their own.
run_gateway() {
	local gateway=$work/normal/contrib/gateway

	if ! build_make "$gateway" "$pg_config" CFLAGS="-O2 -g -Werror ${CHECK_CFLAGS:-}" ||
		! build_install "$gateway" "$pg_config" install-extension; then
		say "gateway"
		suite_started=$SECONDS
		count gateway 0 1 1
		return
	fi
	cd "$work/normal"
	tap_programs gateway
	run_tap gateway "${tap_run[@]}" contrib/gateway/test/*_*.js contrib/gateway/test/login.js \
		contrib/gateway/test/connections.js contrib/gateway/test/failures.js contrib/gateway/test/kills.js \
		contrib/gateway/test/wire.js
}

# contrib/feed, with the servers that it feeds; its tests start them.
run_feed() {
	local feed=$work/normal/contrib/feed

	if ! build_make "$feed" "$pg_config" CFLAGS='-O2 -g -Werror' NATS=yes KAFKA=yes REDIS=yes HTTP=yes all test-programs; then
		say "feed"
		suite_started=$SECONDS
		count feed 0 1 1
		return
	fi
	cd "$work/normal"
	tap_programs feed
	run_tap feed "${tap_run[@]}" contrib/feed/test/sink_*.js contrib/feed/test/settings.js
}

# contrib/top, in tmux.
run_top() {
	local folder=$work/normal/contrib/top

	if build_make "$folder" "$pg_config" CFLAGS='-O2 -g -Werror'; then
		run_perl_tap top contrib/top/test/top.pl
	else
		say "top"
		suite_started=$SECONDS
		count top 0 1 1
	fi
}

# --- main -------------------------------------------------------------------

deadline=$((${CHECK_MINUTES:-40} * 60))
pg_config=$("$here/setup.sh" check)
cluster_make_dir
work=$cluster_dir/work
mkdir -p "$work/tap/tmp"
shopt -s nullglob

build
build_contrib
check_versions
install_npm
check_wings

# nothing here has to survive a power failure
cluster_start "$pg_config" 'fsync = off'
PATH=$cluster_bin:$PATH
# the suites run as different users, and leave their output in the copies
if [ -n "$cluster_user" ]; then
	chown -R "$cluster_user:" "$work"
fi

run_regress regress ISOLATION= .
if [ -x "$(dirname "$("$pg_config" --pgxs)")/../test/isolation/pg_isolation_regress" ]; then
	run_regress isolation REGRESS= output_iso
else
	# setup.sh lets this pass for 13 alone
	say "isolation: NOT RUN, the packages of this PostgreSQL have no isolation tester"
fi
run_pgtap
# shellcheck disable=SC2086 # a pattern, or several
run_perl_tap TAP ${CHECK_TAP:-test/t/*.pl}
run_gateway
run_feed
run_top
finish
