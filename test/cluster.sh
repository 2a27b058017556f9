#!/usr/bin/env bash
#
# cluster.sh
#	  A throw-away PostgreSQL cluster that goes away with its user.
#
# Sourced:
#		. test/cluster.sh
#		cluster_start "$pg_config" ['setting = value' ...]
#	exports PGHOST, PGPORT, PGUSER, PGDATABASE and sets cluster_dir (a folder of
#	the server's user, for anything that has to go away too).  When the shell
#	ends, for whatever reason, cluster_stop is run, and before it the function
#	cluster_before_stop if there is one.
#
# Called:
#		test/cluster.sh [-c 'setting = value']... command [argument ...]
#	runs the command with the cluster's PG* variables and gives its exit status.
#
# The server listens on a Unix socket in a folder of its own and on nothing
# else.  PostgreSQL refuses to run as root: for root it is run as "postgres",
# or as "nobody" where there is no such user.

cluster_dir=
cluster_bin=
cluster_user=
cluster_drop=()					# what to put before a command of the server's user

# The unprivileged user who runs the server; empty: the caller.
cluster_find_user() {
	if [ "$(id -u)" -ne 0 ]; then
		cluster_user=
	elif id postgres >/dev/null 2>&1; then
		cluster_user=postgres
	else
		cluster_user=nobody
	fi
}

# Run a command as the server's user, at home in the cluster's folder.
cluster_run() {
	"${cluster_drop[@]}" "$@"
}

# A folder of the server's user; socket names have a limit of about 100 bytes.
cluster_make_dir() {
	local base=${TMPDIR:-/tmp}

	[ "$(id -u)" -ne 0 ] && [ ${#base} -le 60 ] || base=/tmp
	cluster_find_user
	cluster_dir=$(mktemp -d "$base/event_store.XXXXXX") || return 1
	trap cluster_stop EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	if [ -n "$cluster_user" ]; then
		chown "$cluster_user:" "$cluster_dir"
		cluster_drop=(setpriv --reuid="$cluster_user" --regid="$(id -g "$cluster_user")"
			--clear-groups env HOME="$cluster_dir" USER="$cluster_user" LOGNAME="$cluster_user")
	fi
}

# Arguments: pg_config, then lines for postgresql.conf.
cluster_start() {
	local pg_config=$1 variable

	shift
	cluster_bin=$("$pg_config" --bindir)
	[ -n "$cluster_dir" ] || cluster_make_dir || return 1

	# nothing of the caller's own server may leak in
	for variable in ${!PG*}; do
		case $variable in
			PG_*) ;;
			*) unset "$variable" ;;
		esac
	done

	(
		cd "$cluster_dir" || exit 1
		cluster_run "$cluster_bin/initdb" -D "$cluster_dir/data" -U postgres -A trust \
			-E UTF8 --locale=C --no-sync >"$cluster_dir/initdb.log" 2>&1
	) || {
		cat "$cluster_dir/initdb.log" >&2
		return 1
	}
	{
		echo "listen_addresses = ''"
		echo "unix_socket_directories = '$cluster_dir'"
		echo "max_connections = 100"
		echo "max_prepared_transactions = 20"
		printf '%s\n' "$@"
	} >>"$cluster_dir/data/postgresql.conf"

	(
		cd "$cluster_dir" || exit 1
		cluster_run "$cluster_bin/pg_ctl" -D "$cluster_dir/data" -l "$cluster_dir/server.log" \
			-s -w -t 60 start </dev/null >"$cluster_dir/start.log" 2>&1
	) || {
		cat "$cluster_dir/start.log" "$cluster_dir/server.log" >&2
		return 1
	}
	export PGHOST=$cluster_dir PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
}

# A server that was started in that data folder and still runs: its process.
cluster_running() {
	local pid

	pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) || return 1
	# after a crash the file is stale, and the number may be somebody else's
	[ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$1" ] && echo "$pid"
}

# Stop the server, also one that will not end by itself, and whatever else was
# started below its folder, and remove the folder.
cluster_stop() {
	local status=$? file data mode

	trap '' INT TERM HUP
	if declare -F cluster_before_stop >/dev/null; then
		cluster_before_stop
	fi
	cd / || true
	if [ -n "$cluster_dir" ]; then
		while read -r file; do
			data=$(dirname "$file")
			for mode in fast immediate; do
				cluster_running "$data" >/dev/null || break
				cluster_run "$cluster_bin/pg_ctl" -D "$data" -s -w -t 30 -m $mode stop || true
			done
			if cluster_running "$data" >/dev/null; then
				kill -KILL "$(cluster_running "$data")" || true
			fi
		done < <(find "$cluster_dir" -name postmaster.pid 2>/dev/null) >/dev/null 2>&1
		rm -rf "$cluster_dir"
		cluster_dir=
	fi
	trap - INT TERM HUP
	return "$status"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
	set -euo pipefail
	settings=()
	while getopts c: option; do
		case $option in
			c) settings+=("$OPTARG") ;;
			*) exit 2 ;;
		esac
	done
	shift $((OPTIND - 1))
	if [ $# -eq 0 ]; then
		echo "usage: $0 [-c 'setting = value']... command [argument ...]" >&2
		exit 2
	fi
	cluster_start "${PG_CONFIG:-pg_config}" "${settings[@]}"
	"$@"
fi
