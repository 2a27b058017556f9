#!/bin/sh
#
# Build the extension with warnings as errors, and run its tests, on every
# PostgreSQL major that it supports.
#
#	test/matrix.sh [major ...]			(default: 13 15 17 18; needs root)
#
# The major that this machine's pg_config belongs to is tested with the
# machine's own installation, the others in chroots (chroot.sh).
#
# EVENT_STORE_MATRIX_TARGET	what to make (check, about twelve minutes for each
#							major; installcheck is quicker)
# and what chroot.sh lists.

set -eu

target=${EVENT_STORE_MATRIX_TARGET:-check}
strict='-Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare'

# Build, install and test.  Runs within the overlay, in the copy of the source
# tree, where root may install and everything may be thrown away.
test_here()
{
	# it builds, installs and starts all that it needs itself
	if test "$target" = check; then
		exec make -s check PG_CONFIG="$2"
	fi

	bindir=$("$2" --bindir)
	PGHOST=/tmp PGUSER=postgres PGDATA=/tmp/data
	export PGHOST PGUSER PGDATA

	make -s with_llvm=no PG_CONFIG="$2" COPT="$strict" all
	make -s with_llvm=no PG_CONFIG="$2" COPT="$strict" install

	cat > /tmp/settings.conf <<-EOF
		listen_addresses = ''
		unix_socket_directories = '/tmp'
		fsync = off
		shared_preload_libraries = 'event_store'
		wal_level = logical
		max_prepared_transactions = 10
		max_worker_processes = 32
	EOF

	# PostgreSQL refuses to run as root, and its tests write to their folder.
	chown -R postgres .
	exec setpriv --reuid=postgres --regid=postgres --init-groups sh -euc '
		bindir=$1 pg_config=$2 target=$3
		"$bindir/initdb" -A trust -U postgres -E UTF8 --locale=C >/tmp/initdb.log ||
			{ cat /tmp/initdb.log; exit 1; }
		cat /tmp/settings.conf >> "$PGDATA/postgresql.conf"
		"$bindir/pg_ctl" start -w -l /tmp/server.log >/dev/null ||
			{ cat /tmp/server.log; exit 1; }
		status=0
		make -s with_llvm=no PG_CONFIG="$pg_config" $target || status=1
		if test $status -ne 0; then
			find . -name regression.diffs -exec cat {} +
			echo "--- the last of the server log"
			tail -n 100 /tmp/server.log
		fi
		"$bindir/pg_ctl" stop -w -m fast >/dev/null || status=1
		exit $status' sh "$bindir" "$2" "$target"
}

if test "${1:-}" = --test; then
	test_here "$2" "$3"
	exit
fi

test "$(id -u)" -eq 0 || { echo "$0: must be run as root" >&2; exit 1; }
cd "$(dirname "$0")/.."
. test/chroot.sh
test $# -gt 0 || set -- 13 15 17 18

passed=0
failed=0
for major; do
	echo "=== PostgreSQL $major"
	# Not as an operand of "if" or "||": "set -e" would be off within it.
	set +e
	(
		set -e
		root=$(chroot_root "$major")
		chroot_overlay "$root" env EVENT_STORE_MATRIX_TARGET="$target" \
			sh test/matrix.sh --test "$major" "$(chroot_pg_config "$major")"
	)
	status=$?
	set -e
	if test $status -eq 0; then
		passed=$((passed + 1))
		echo "=== PostgreSQL $major: passed"
	else
		failed=$((failed + 1))
		echo "=== PostgreSQL $major: FAILED"
	fi
done

echo "$passed passed, $failed failed"
test $failed -eq 0
