#!/usr/bin/env bash
#
# Failover and backup with the tools that servers are really run with: Patroni
# and etcd, pgBackRest.  The long form of test/t/025_failover.pl; "make check-ha".
#
# Environment: PG_CONFIG; ES_FAILOVERS (20) in synchronous mode and
# ES_ASYNC_FAILOVERS (3) in asynchronous mode; ES_SEED; CHECK_MINUTES (60).

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=test/cluster.sh
. "$here/../cluster.sh"
# shellcheck source=test/build.sh
. "$here/../build.sh"

lacking=
for command in patroni:patroni patronictl:patroni etcd:etcd-server pgbackrest:pgbackrest; do
	command -v "${command%:*}" >/dev/null || lacking="$lacking ${command#*:}"
done
/usr/bin/python3 -c 'import etcd' 2>/dev/null || lacking="$lacking python3-etcd"
if [ -n "$lacking" ]; then
	echo "make check-ha needs what is not installed here. As root, without letting services start:" >&2
	echo "	apt-get install --no-install-recommends$(printf '%s\n' $lacking | sort -u | xargs printf ' %s')" >&2
	exit 1
fi

pg_config=$("$here/../setup.sh" check)
cluster_make_dir
cluster_bin=$("$pg_config" --bindir)
work=$cluster_dir/work
mkdir -p "$work/tap/tmp"
build_copy "$work/tree"
build_make "$work/tree" "$pg_config"
build_install "$work/tree" "$pg_config"
build_make "$work/tree/contrib/feed" "$pg_config"
[ -z "$cluster_user" ] || chown -R "$cluster_user:" "$work"

tests=$(cd "$(dirname "$("$pg_config" --pgxs)")/../test" && pwd)
cd "$work/tree"
timeout --kill-after=30 "${CHECK_MINUTES:-60}m" "${cluster_drop[@]}" \
	env -u PGHOST -u PGPORT -u PGUSER -u PGDATABASE PATH="$cluster_bin:$work/tree/contrib/feed/build:$PATH" \
	HOME="$work/tap" TMPDIR="$work/tap/tmp" TESTDIR="$work/tap" \
	TESTDATADIR="$work/tap/tmp_check" TESTLOGDIR="$work/tap/tmp_check/log" \
	PG_CONFIG="$pg_config" PG_REGRESS="$tests/regress/pg_regress" \
	perl test/prove.pl --tally "$work/tap/ha" --include "$tests/perl" --include test/perl \
	--logs "$work/tap/tmp_check/log" test/ha/*.pl
