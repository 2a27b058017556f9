#!/usr/bin/env bash
#
# pg-cursor-lock-goes-with-a-later-savepoint.sh
#	  PostgreSQL 15.20: what a cursor's query has locked before a savepoint
#	  (pg_advisory_xact_lock in its select list) is unlocked by ROLLBACK TO that
#	  savepoint, if a FETCH behind it has failed.  A row that the same query has
#	  inserted by a function stays, and belongs to the transaction.
#
# The manual says of ROLLBACK TO SAVEPOINT that locks taken after the savepoint
# are released, and of pg_advisory_xact_lock that it holds to the end of the
# transaction.  A portal that fails is given to the subtransaction that is
# current, with all that its queries hold.  So who guards a write by such a lock in
# one function, called from a cursor, may have the write without its lock.
#
# Compared below; exits 1 when it has changed.  Needs apt and dpkg, and the
# libraries that postgresql-15 depends on; as root the server runs as user
# postgres.

set -euo pipefail

version=15.20-0+deb12u1

folder=$(mktemp -d)
as_server=()
[ "$(id -u)" -ne 0 ] || { chmod 755 "$folder"; as_server=(setpriv --reuid=postgres --regid=postgres --clear-groups); }
bin=$folder/usr/lib/postgresql/15/bin
finish() {
	"${as_server[@]}" "$bin/pg_ctl" -D "$folder/data" -s -m immediate stop || true
	rm -rf "$folder"
}
trap finish EXIT
cd "$folder"

for package in postgresql-15 postgresql-client-15; do
	apt-get -qq download "$package=$version" 2>/dev/null
	dpkg -x "${package}_$version"_*.deb .
done
mkdir data
[ "$(id -u)" -ne 0 ] || chown postgres data
"${as_server[@]}" "$bin/initdb" -D data -U postgres -A trust >/dev/null
"${as_server[@]}" "$bin/pg_ctl" -D data -s -w -l "$folder/data/log" \
	-o "-c listen_addresses='' -c unix_socket_directories='$folder/data'" start

seen=$("$bin/psql" -h "$folder/data" -U postgres -qAtX <<-'END' 2>&1
	CREATE TABLE written (n int);
	CREATE FUNCTION write(n int) RETURNS int LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_advisory_xact_lock(n);
		INSERT INTO written VALUES (n);
		RETURN n;
	END $$;
	CREATE FUNCTION held() RETURNS text LANGUAGE sql AS $$
		SELECT format('%s rows, %s locks', (SELECT count(*) FROM written),
			(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'))
	$$;
	BEGIN;
	DECLARE c CURSOR FOR SELECT write(n) / (2 - n) FROM generate_series(1, 3) n;
	MOVE 1 FROM c;
	SELECT 'before the savepoint: ' || held();
	SAVEPOINT s;
	FETCH c;
	ROLLBACK TO s;
	SELECT 'after ROLLBACK TO it: ' || held();
	CLOSE c;
	COMMIT;
	SELECT 'committed: ' || held();
END
)
echo "$seen"
[ "$seen" = 'before the savepoint: 1 rows, 1 locks
ERROR:  division by zero
after ROLLBACK TO it: 1 rows, 0 locks
committed: 1 rows, 0 locks' ] || { echo "this has changed"; exit 1; }
