#!/usr/bin/env bash
#
# setup.sh [demo|check|long]
#	  Make sure that everything the demo (or the whole check, or what long.sh
#	  runs) needs is here.
#
# Each instrument is looked for by the file that will be used, not by the name
# of a package, so a PostgreSQL built from source is as good as Debian's.  Only
# what is missing is installed, by apt-get; nothing missing means that nothing
# is run at all.  What cannot be had is an error: no test is skipped for want of
# an instrument.
#
# Prints the pg_config of the chosen PostgreSQL on standard output, everything
# else on standard error.
#
# Which PostgreSQL: $PG_CONFIG, the pg_config on the PATH, the newest one under
# /usr/lib/postgresql, or else the one that the Debian suite names as its own.

set -euo pipefail

mode=${1:-demo}
case $mode in
	demo | check | long) ;;
	*)
		echo "usage: $0 [demo|check|long]" >&2
		exit 2
		;;
esac

# the Makefile's default is no choice
if [ "${PG_CONFIG:-}" = pg_config ]; then
	unset PG_CONFIG
fi

# Debian's administration tools are not on everybody's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export DEBIAN_FRONTEND=noninteractive

policy=/usr/sbin/policy-rc.d
createcluster=/etc/postgresql-common/createcluster.conf
scratch=
policy_made=
createcluster_kept=

fail() {
	echo "setup: $*" >&2
	exit 1
}

as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		sudo -n env DEBIAN_FRONTEND="$DEBIAN_FRONTEND" "$@"
	fi
}

restore() {
	if [ -n "$createcluster_kept" ]; then
		as_root cp -p "$createcluster_kept" "$createcluster" || true
		as_root rm -f "$createcluster_kept" || true
		createcluster_kept=
	fi
	if [ -n "$policy_made" ]; then
		as_root rm -f "$policy" || true
		policy_made=
	fi
	if [ -n "$scratch" ]; then
		rm -rf "$scratch"
		scratch=
	fi
}
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- which PostgreSQL -------------------------------------------------------

# libpq-dev alone has a pg_config too, but no server to build for.
serves() {
	[ -x "$1" ] && [ -x "$("$1" --bindir)/postgres" ] && [ -f "$("$1" --pgxs)" ]
}

# Debian's binaries of that name, the newest major first.
debian_binaries() {
	find /usr/lib/postgresql -path "/usr/lib/postgresql/*/bin/$1" 2>/dev/null | sort -rV
}

find_pg_config() {
	local candidate

	for candidate in "${PG_CONFIG:-}" "$(command -v pg_config || true)"; do
		[ -n "$candidate" ] || continue
		candidate=$(command -v "$candidate" || true)
		if [ -n "$candidate" ] && serves "$candidate"; then
			echo "$candidate"
			return
		fi
		# an explicit choice is not replaced by another one
		[ -z "${PG_CONFIG:-}" ] || return 0
	done
	for candidate in $(debian_binaries pg_config); do
		if serves "$candidate"; then
			echo "$candidate"
			return
		fi
	done
}

# The major of an explicit or an incomplete Debian installation, else the suite's.
debian_major() {
	local major

	if [[ ${PG_CONFIG:-} =~ ^/usr/lib/postgresql/([0-9]+)/bin/pg_config$ ]]; then
		echo "${BASH_REMATCH[1]}"
		return
	fi
	[ -z "${PG_CONFIG:-}" ] ||
		fail "PG_CONFIG=$PG_CONFIG does not belong to a PostgreSQL server with its headers"
	major=$(debian_binaries postgres |
		sed -n '1s,^/usr/lib/postgresql/\([0-9]*\)/.*,\1,p')
	if [ -z "$major" ]; then
		major=$(apt-cache show --no-all-versions postgresql 2>/dev/null |
			sed -n 's/^Depends:.*\bpostgresql-\([0-9][0-9]*\)\b.*/\1/p')
	fi
	echo "$major"
}

# --- what is missing --------------------------------------------------------

has_perl() {
	perl -M"$1" -e 1 2>/dev/null
}

# In which package Debian's clang has its run-time library.
fuzzer_package() {
	local version

	version=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\).*/\1/p' | head -n 1)
	echo "libclang-rt-${version:-14}-dev"
}

# Print "package: instrument" for each thing that is not here.
missing() {
	local pg_config=$1 major=$2 share tests module package command header

	command -v gcc >/dev/null || echo "gcc: a C compiler"
	[ -f /usr/include/stdio.h ] || echo "libc6-dev: the C library's headers"
	if [ -z "$pg_config" ]; then
		echo "postgresql-$major: the PostgreSQL server"
		echo "postgresql-server-dev-$major: the PostgreSQL server's headers"
	else
		share=$("$pg_config" --sharedir)
		tests=$(dirname "$("$pg_config" --pgxs)")/../test
		[ -x "$("$pg_config" --bindir)/psql" ] || echo "postgresql-client-$major: psql"
		[ -f "$("$pg_config" --includedir-server)/postgres.h" ] ||
			echo "postgresql-server-dev-$major: the PostgreSQL server's headers"
	fi
	for command in setpriv:util-linux gzip:gzip diff:diffutils; do
		command -v "${command%:*}" >/dev/null || echo "${command#*:}: ${command%:*}"
	done
	while read -r module package; do
		has_perl "$module" || echo "$package: Perl's $module"
	done <<-'END'
		JSON::PP perl
		Digest::MD5 perl
		DBD::Pg libdbd-pg-perl
	END
	[ "$mode" != demo ] || return 0

	while read -r module package; do
		has_perl "$module" || echo "$package: Perl's $module"
	done <<-'END'
		Test::More perl
		TAP::Harness perl
		IPC::Run libipc-run-perl
		TAP::Parser::SourceHandler::pgTAP libtap-parser-sourcehandler-pgtap-perl
	END
	command -v pg_prove >/dev/null ||
		echo "libtap-parser-sourcehandler-pgtap-perl: pg_prove"
	command -v pgbouncer >/dev/null || echo "pgbouncer: pgbouncer"
	command -v node >/dev/null || echo "nodejs: Node.js"
	command -v npm >/dev/null || echo "npm: npm"
	command -v uuidgen >/dev/null || echo "uuid-runtime: uuidgen, for message-db's own scripts"
	# contrib/gateway
	for command in protoc-c:protobuf-c-compiler pkg-config:pkg-config openssl:openssl; do
		command -v "${command%:*}" >/dev/null || echo "${command#*:}: ${command%:*}"
	done
	# contrib/monitoring, contrib/top
	for command in prometheus prometheus-postgres-exporter prometheus-sql-exporter; do
		command -v "$command" >/dev/null || echo "$command: $command"
	done
	command -v tmux >/dev/null || echo "tmux: tmux"
	while read -r header package; do
		[ -f "/usr/include/$header" ] || echo "$package: $header"
	done <<-'END'
		grpc/grpc.h libgrpc-dev
		protobuf-c/protobuf-c.h libprotobuf-c-dev
		pcre2.h libpcre2-dev
		ncurses.h libncurses-dev
	END
	# contrib/feed
	for command in nats-server:nats-server redis-server:redis-server redis-cli:redis-tools; do
		command -v "${command%:*}" >/dev/null || echo "${command#*:}: ${command%:*}"
	done
	while read -r header package; do
		[ -f "/usr/include/$header" ] || echo "$package: $header"
	done <<-'END'
		nats/nats.h libnats-dev
		librdkafka/rdkafka_mock.h librdkafka-dev
		hiredis/hiredis.h libhiredis-dev
	END
	pkg-config --exists libcurl 2>/dev/null || echo "libcurl4-openssl-dev: libcurl"
	pkg-config --exists 'libpq >= 14' 2>/dev/null || echo "libpq-dev: libpq"
	if [ "$mode" = long ]; then
		command -v sqlsmith >/dev/null || echo "sqlsmith: sqlsmith"
		command -v gnuplot >/dev/null || echo "gnuplot-nox: gnuplot"
		command -v clang >/dev/null || echo "clang: clang"
		# where libFuzzer is
		[ -f "$(clang -print-file-name=libclang_rt.fuzzer_no_main-x86_64.a 2>/dev/null)" ] ||
			ls /usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer_no_main-* >/dev/null 2>&1 ||
			echo "$(fuzzer_package): libFuzzer"
	fi
	# Debian's Python, whatever else is on the PATH
	for module in psycopg psycopg2; do
		/usr/bin/python3 -c "import $module" 2>/dev/null || echo "python3-$module: Python's $module"
	done
	if [ -z "$pg_config" ]; then
		echo "postgresql-$major-pgtap: pgTAP"
		echo "postgresql-$major-repack: pg_repack"
		echo "postgresql-$major-plproxy: PL/Proxy"
		echo "postgresql-$major-wal2json: wal2json"
		return
	fi
	[ -f "$share/extension/pgtap.control" ] || echo "postgresql-$major-pgtap: pgTAP"
	for module in amcheck dblink uuid-ossp; do
		[ -f "$share/extension/$module.control" ] || echo "postgresql-$major: $module"
	done
	[ -f "$("$pg_config" --pkglibdir)/wal2json.so" ] || echo "postgresql-$major-wal2json: wal2json"
	[ -x "$("$pg_config" --bindir)/pg_repack" ] && [ -f "$share/extension/pg_repack.control" ] ||
		echo "postgresql-$major-repack: pg_repack"
	[ -f "$share/extension/plproxy.control" ] || echo "postgresql-$major-plproxy: PL/Proxy"
	[ -f "$share/extension/postgres_fdw.control" ] || echo "postgresql-$major: postgres_fdw"
	[ -x "$("$pg_config" --bindir)/pgbench" ] || echo "postgresql-$major: pgbench"
	[ -x "$tests/regress/pg_regress" ] || echo "postgresql-server-dev-$major: pg_regress"
	# not to be had for 13: Debian's packages come without it
	[ "$major" -lt 14 ] || [ -x "$tests/isolation/pg_isolation_regress" ] ||
		echo "postgresql-server-dev-$major: the isolation tester"
	[ -f "$tests/perl/PostgreSQL/Test/Cluster.pm" ] || [ -f "$tests/perl/PostgresNode.pm" ] ||
		echo "postgresql-server-dev-$major: PostgreSQL's Perl test modules"
}

# --- apt --------------------------------------------------------------------

apt_get() {
	if ! as_root apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" \
		</dev/null >>"$scratch/apt.log" 2>&1; then
		return 1
	fi
}

apt_install() {
	apt_get install -y --no-install-recommends "$@"
}

# No daemon may start because of us, and Debian must not make its "main"
# cluster: the demo and the tests have clusters of their own.
hold_services_back() {
	# a run that was killed may have left its own
	if [ ! -e "$policy" ] || grep -q 'event_store set-up' "$policy"; then
		printf '#!/bin/sh\n# event_store set-up: no services now\nexit 101\n' >"$scratch/policy"
		policy_made=yes
		as_root install -m 755 "$scratch/policy" "$policy"
	fi
}

hold_main_cluster_back() {
	[ -e "$createcluster" ] || apt_install postgresql-common || return 1
	createcluster_kept=$createcluster.event_store_setup
	# there already: from the attempt before, or from a run that was killed
	[ -e "$createcluster_kept" ] || as_root cp -p "$createcluster" "$createcluster_kept"
	sed 's/^[# ]*create_main_cluster.*//; $a create_main_cluster = false' \
		"$createcluster_kept" >"$scratch/createcluster.conf"
	as_root install -m 644 "$scratch/createcluster.conf" "$createcluster"
}

install_packages() {
	local packages=("$@") service new=()

	for service in pgbouncer nats-server redis-server prometheus prometheus-postgres-exporter prometheus-sql-exporter; do
		command -v $service >/dev/null || new+=("$service")
	done
	hold_services_back
	case " ${packages[*]} " in
		*" postgresql-"[0-9]*) hold_main_cluster_back || return 1 ;;
	esac
	apt_install "${packages[@]}" || return 1

	# the tests start their own; the machine need not at the next boot
	for service in "${new[@]}"; do
		if [ -d /run/systemd/system ] && command -v "$service" >/dev/null; then
			as_root systemctl --quiet disable "$service.service" || true
		fi
	done
}

# --- main -------------------------------------------------------------------

pg_config=$(find_pg_config)
if [ -n "$pg_config" ]; then
	major=$("$pg_config" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
else
	major=$(debian_major)
fi
lacking=$(missing "$pg_config" "${major:-N}")

if [ -n "$lacking" ]; then
	command -v apt-get >/dev/null ||
		fail $'this machine has no apt-get; please install:\n'"$lacking"
	if [ "$(id -u)" -ne 0 ] && ! sudo -n true 2>/dev/null; then
		fail $'something is missing:\n'"$lacking"$'\nPlease run as root:\n\n\tapt-get install' \
			"$(cut -d: -f1 <<<"$lacking" | sort -u | tr '\n' ' ')" \
			$'\n\n(or run this as root, or where sudo asks for no password)'
	fi
	scratch=$(mktemp -d)
	updated=no
	if [ -z "$major" ]; then
		echo "setup: reading Debian's package lists ..." >&2
		apt_get update || { cat "$scratch/apt.log" >&2; fail "apt-get update failed"; }
		updated=yes
		major=$(debian_major)
		[ -n "$major" ] || fail "this Debian suite has no package postgresql"
		lacking=$(missing "$pg_config" "$major")
	fi
	mapfile -t packages < <(cut -d: -f1 <<<"$lacking" | sort -u)
	echo "setup: installing ${packages[*]} ..." >&2
	if ! install_packages "${packages[@]}"; then
		# the package lists may be missing or older than the archive
		if [ $updated = no ]; then
			apt_get update && install_packages "${packages[@]}"
		else
			false
		fi || {
			tail -n 40 "$scratch/apt.log" >&2
			fail "could not install ${packages[*]}"
		}
	fi
	restore

	hash -r
	pg_config=$(find_pg_config)
	[ -n "$pg_config" ] || fail "PostgreSQL $major is installed, but has no usable pg_config"
	lacking=$(missing "$pg_config" "$major")
	[ -z "$lacking" ] || fail $'still missing after installation:\n'"$lacking"
fi

if [ "$major" -lt 13 ]; then
	fail "event_store needs PostgreSQL 13 or newer, $pg_config belongs to $major"
fi
echo "$pg_config"
