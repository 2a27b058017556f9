#!/bin/sh
#
# Build the extension with warnings as errors, and run its tests, on every
# PostgreSQL major that it supports.
#
#	test/matrix.sh [major ...]			(default: 13 15 17 18; needs root)
#
# The major that this machine's pg_config belongs to is tested with the
# machine's own installation, the others with the packages of the Debian suite
# that carries them, in a chroot that is made on first use and then kept; to
# get newer packages, delete it.  Both kinds are used through a throw-away
# overlay, in namespaces of their own: a run changes neither the machine's
# installation nor the chroots, and leaves no process.
#
# 13 comes from a suite whose libpq and Node.js are older than what
# contrib/gateway and its tests need, so its chroot is of the suite after it and
# takes the server alone from the older one.
#
# EVENT_STORE_MATRIX_DIR	where the chroots are (${TMPDIR:-/tmp}/event_store-matrix)
# EVENT_STORE_MATRIX_TARGET	what to make (check, about twelve minutes for each
#							major; installcheck is quicker)
# PG_CONFIG					this machine's PostgreSQL (pg_config)
#
# The mirror is the one that this machine's apt uses for Debian.

set -eu

chroots=${EVENT_STORE_MATRIX_DIR:-${TMPDIR:-/tmp}/event_store-matrix}
target=${EVENT_STORE_MATRIX_TARGET:-check}
pg_config=${PG_CONFIG:-pg_config}
strict='-Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare'

suite_of()
{
	case $1 in
		13) echo bookworm ;;
		15) echo bookworm ;;
		17) echo trixie ;;
		18) echo forky ;;
		*) echo "$0: no Debian suite is known to carry PostgreSQL $1" >&2; return 1 ;;
	esac
}

# Make the chroot of a major.  It gets its name when it is complete, so that
# an interrupted attempt is not taken for a chroot.
make_chroot()
{
	root=$chroots/$1
	test ! -d "$root" || return 0

	suite=$(suite_of "$1")
	mirror=$(apt-get indextargets --format '$(REPO_URI)' \
		'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
	test -n "$mirror" || { echo "$0: apt knows no Debian mirror" >&2; return 1; }

	# A debootstrap that is older than the suite has no script by its name.
	script=
	test -e "/usr/share/debootstrap/scripts/$suite" || script=sid

	mkdir -p "$chroots"
	rm -rf "$root.part"
	debootstrap --variant=minbase "$suite" "$root.part" "$mirror" $script
	test "$1" != 13 ||
		echo "deb $mirror bullseye main" >> "$root.part/etc/apt/sources.list"
	# How this machine's apt gets to its mirror, and what it makes of its age.
	apt-config dump |
		grep -Ei '^Acquire::(https?::Proxy|Check-Valid-Until|Check-Date)' \
		> "$root.part/etc/apt/apt.conf.d/90machine" || true

	# No cluster and no daemon shall come up by installing the packages.
	mkdir -p "$root.part/etc/postgresql-common"
	echo 'create_main_cluster = false' \
		> "$root.part/etc/postgresql-common/createcluster.conf"
	printf '#!/bin/sh\nexit 101\n' > "$root.part/usr/sbin/policy-rc.d"
	chmod +x "$root.part/usr/sbin/policy-rc.d"

	cp test/matrix.sh test/setup.sh "$root.part/root"
	unshare --mount --pid --fork --kill-child sh -euc '
		mount -t proc proc "$1/proc"
		chroot "$1" env DEBIAN_FRONTEND=noninteractive sh /root/matrix.sh --install "$2"
		' sh "$root.part" "$1"
	rm "$root.part/root/matrix.sh" "$root.part/root/setup.sh"
	mv "$root.part" "$root"
}

# Install what is needed.  Runs within the new chroot.
install_here()
{
	apt-get -q update
	apt-get -q -y --no-install-recommends install make "postgresql-$1" "postgresql-server-dev-$1"
	PG_CONFIG=/usr/lib/postgresql/$1/bin/pg_config bash /root/setup.sh check

	# Debian's package of 13 lacks the isolation tester: make it from the source.
	tester=/usr/lib/postgresql/$1/lib/pgxs/src/test/isolation
	if test ! -d "$tester"; then
		sed -n 's/^deb /deb-src /p' /etc/apt/sources.list > /etc/apt/sources.list.d/source.list
		apt-get -q update
		apt-get -q -y --no-install-recommends install dpkg-dev
		mkdir /root/source
		cd /root/source
		apt-get -q -o APT::Sandbox::User=root source "postgresql-$1"
		cd "postgresql-$1"*/
		./configure --without-readline --without-zlib > /dev/null
		make -s -C src/test/isolation all
		mkdir "$tester"
		cp src/test/isolation/isolationtester src/test/isolation/pg_isolation_regress "$tester"
		rm -rf /root/source
	fi
	apt-get clean
}

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

# Lay a throw-away overlay over a root folder, and call test_here in it, by
# means of the copy of this script that is part of the source tree.
test_major()
{
	if test "$1" = "$host_major"; then
		root=/
		there=$(command -v "$pg_config")
	else
		make_chroot "$1"
		root=$chroots/$1
		there=/usr/lib/postgresql/$1/bin/pg_config
	fi

	git ls-files -z | tar --null -T - -cf - |
	unshare --mount --pid --ipc --fork --kill-child sh -euc '
		new=$(mktemp -d)
		trap "umount -R -l \"$new\"; rmdir \"$new\"" EXIT
		mount -t tmpfs tmpfs "$new"
		mkdir "$new/upper" "$new/work" "$new/root"
		mount -t overlay -o "lowerdir=$1,upperdir=$new/upper,workdir=$new/work" \
			overlay "$new/root"
		mount -t proc proc "$new/root/proc"
		mount --rbind /dev "$new/root/dev"
		mount -t tmpfs tmpfs "$new/root/dev/shm"
		mount -t tmpfs tmpfs "$new/root/tmp"
		# the authorities that this machine trusts, and how its npm gets to its registry
		if test -f /etc/ssl/certs/ca-certificates.crt; then
			mkdir -p "$new/root/etc/ssl/certs"
			cp /etc/ssl/certs/ca-certificates.crt "$new/root/etc/ssl/certs"
		fi
		test ! -f ~/.npmrc || cp ~/.npmrc "$new/root/root"
		mkdir "$new/root/tmp/source"
		tar -xf - -C "$new/root/tmp/source" --no-same-owner
		chroot "$new/root" env -i PATH="$PATH" LC_ALL=C HOME=/root \
			NODE_EXTRA_CA_CERTS="${NODE_EXTRA_CA_CERTS:-}" \
			EVENT_STORE_MATRIX_TARGET="$4" \
			sh -c "cd /tmp/source && exec sh test/matrix.sh --test \$0 \$1" "$2" "$3"
		' sh "$root" "$1" "$there" "$target"
}

case ${1:-} in
	--install) install_here "$2"; exit ;;
	--test) test_here "$2" "$3" ;;
esac

test "$(id -u)" -eq 0 || { echo "$0: must be run as root" >&2; exit 1; }
cd "$(dirname "$0")/.."
host_major=$("$pg_config" --version 2>/dev/null | sed 's/^PostgreSQL \([0-9]*\).*/\1/') || true
test $# -gt 0 || set -- 13 15 17 18

passed=0
failed=0
for major; do
	echo "=== PostgreSQL $major"
	# Not as an operand of "if" or "||": "set -e" would be off within it.
	set +e
	(set -e; test_major "$major")
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
