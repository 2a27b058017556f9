#!/usr/bin/env bash
#
# pg-attver-in-older-dumps.sh
#	  PostgreSQL 15.20 keeps a number in pg_attribute.attoptions of every column
#	  that it makes ("pg_attver").  Its own pg_dump leaves that out; the one of
#	  15.18, of the same major, writes it as an option of each column, which a
#	  server 15.20 takes and a server 15.18 refuses.
#
# Between minor releases a dump is expected to work with whatever pg_dump of the
# major is at hand.  Here a client that was not updated with its server makes
# dumps whose restore on another server of the older minor release raises an
# error for each column (the rows come back), and ends there with
# --exit-on-error or in one transaction.
#
# Seen with Debian's packages of both, and compared below; exits 1 when it has
# changed.  Needs apt and dpkg, and the libraries that postgresql-15 depends on;
# as root the servers run as user postgres.

set -euo pipefail

old=15.18-0+deb12u1
new=15.20-0+deb12u1

folder=$(mktemp -d)
as_server=()
[ "$(id -u)" -ne 0 ] || { chmod 755 "$folder"; as_server=(setpriv --reuid=postgres --regid=postgres --clear-groups); }
finish() {
	for version in "$old" "$new"; do
		"${as_server[@]}" "$folder/$version/usr/lib/postgresql/15/bin/pg_ctl" -D "$folder/data/$version" -s -m immediate stop || true
	done
	rm -rf "$folder"
}
trap finish EXIT
cd "$folder"

mkdir data
[ "$(id -u)" -ne 0 ] || chown postgres data
for version in "$old" "$new"; do
	for package in postgresql postgresql-client; do
		apt-get -qq download "$package-15=$version" 2>/dev/null
		dpkg -x "$package-15_$version"_*.deb "$version"
	done
	bin=$folder/$version/usr/lib/postgresql/15/bin
	"${as_server[@]}" "$bin/initdb" -D "data/$version" -U postgres -A trust >/dev/null
	"${as_server[@]}" "$bin/pg_ctl" -D "data/$version" -s -w -l "data/$version/log" \
		-o "-c listen_addresses='' -c unix_socket_directories='$folder/data/$version'" start
done

# run program of version, with the server of version
run() { PGHOST=$folder/data/$3 PGUSER=postgres "$folder/$2/usr/lib/postgresql/15/bin/$1" "${@:4}"; }

run psql "$new" "$new" -qXc 'CREATE TABLE orders (id int, note text)' -c "INSERT INTO orders VALUES (1, 'first')"
{
	for version in "$new" "$old"; do
		run pg_dump "$version" "$new" >"dump.$version"
		echo "pg_dump ${version%%-*} of a server 15.20: $(grep -c 'SET (pg_attver=' "dump.$version" || true) columns with pg_attver"
	done
	for version in "$old" "$new"; do
		run psql "$version" "$version" -qXc 'CREATE DATABASE copy'
		run psql "$version" "$version" -qX -d copy -f "dump.$old" >/dev/null 2>errors
		echo "the latter into ${version%%-*}: $(grep -c 'ERROR:  unrecognized parameter "pg_attver"' errors || true) errors," \
			"$(run psql "$version" "$version" -XAtq -d copy -c 'SELECT count(*) FROM orders') row"
	done
} >seen

cat >expected <<'END'
pg_dump 15.20 of a server 15.20: 0 columns with pg_attver
pg_dump 15.18 of a server 15.20: 2 columns with pg_attver
the latter into 15.18: 2 errors, 1 row
the latter into 15.20: 0 errors, 1 row
END
cat seen
diff expected seen
