#!/usr/bin/env bash
#
# repository.sh <clone of github.com/message-db/message-db>
#	  message-db's own test scripts, which print for a reader and assert nothing,
#	  against message-db and against event_store_message_db on one throw-away
#	  server; what they print must be the same.
#
# Both sides draw the same identifiers (an uuidgen that counts).  Times, ids that
# the server makes, global positions and CONTEXT lines are left out.  Not part
# of "make check": the scripts are not in message-db's package.

set -euo pipefail
clone=$(cd "$1" && pwd)
cd "$(dirname "$0")/../../.."

# shellcheck source=test/cluster.sh
. test/cluster.sh
cluster_start "${PG_CONFIG:-pg_config}" "shared_preload_libraries = 'event_store'"
work=$cluster_dir/message-db
mkdir "$work"
cp -R "$clone/database" "$clone/test" "$clone/test.sh" "$work"
cat >"$work/uuidgen" <<-'END'
	#!/bin/sh
	echo x >>"$COUNTER"
	wc -l <"$COUNTER" | md5sum | sed -E 's/^(.{8})(.{4})(.{4})(.{4})(.{12}).*/\1-\2-\3-\4-\5/'
END
chmod +x "$work/uuidgen"
PATH=$work:$cluster_bin:$PATH
export PGTZ=UTC COUNTER

# in the order of test.sh, and the one that it leaves out
run_tests() {
	local name status

	COUNTER=$work/counter.$1
	for name in $(grep '^test/' test.sh) test/acquire-lock.sh; do
		status=0
		echo "@ $name"
		bash "$name" 2>&1 || status=$?
		echo "@ status $status"
	done >"$1.raw"
	sed -E -e '/^(CONTEXT: |SQL statement "|PL/pgSQL function )/d' -e 's/[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?/(time)/g' \
		-e 's/^(global_position +\| ).*/\1(position)/' -e 's/^(-\[ RECORD [0-9]+ \])[-+]*$/\1/' \
		-e '/^id +\| [0-9a-f]{8}-/s/\|.*/| (id)/' "$1.raw" >"$1.txt"
	echo "$1: $(grep -c '^@ test' "$1.raw") scripts, $(grep -c '^@ status 0' "$1.raw") with status 0," \
		"$(grep -c '^ERROR' "$1.raw") errors told, $(wc -l <"$1.raw") lines"
}

cd "$work"
bash database/install.sh >install.log 2>&1
run_tests message-db
psql -XAtq -d postgres -c 'DROP DATABASE message_store' -c 'CREATE DATABASE message_store' \
	-c 'ALTER DATABASE message_store SET search_path = message_store, public'
psql -XAtq -d message_store -c 'SET client_min_messages = warning' -c 'CREATE EXTENSION event_store_message_db CASCADE' \
	-c "SELECT message_store.grant_client('message_store')"
run_tests event_store
diff message-db.txt event_store.txt && echo 'no difference'
