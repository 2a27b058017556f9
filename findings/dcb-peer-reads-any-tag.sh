#!/usr/bin/env bash
#
# dcb-peer-reads-any-tag.sh
#	  The same query means two things in @dcb-es/event-store-postgres 7.0.1:
#	  read() gives events that carry ANY of an item's tags, a condition of
#	  append() is about events that carry ALL of them.
#
# dcb.events says that an item matches an event that carries all of its tags,
# and the package's own store in memory reads so.  Whoever builds a decision
# from what read() gives decides on events that its condition does not guard.
#
# The package cannot be installed by name: its published manifest depends on
# "workspace:*".  So both packages are unpacked beside each other.
#
# Seen with PostgreSQL 15 and Node.js 20, and compared below; exits 1 when it
# has changed.  Needs npm, node, and a PostgreSQL (pg_config on the PATH); as
# root the server runs as user postgres.

set -euo pipefail

folder=$(mktemp -d)
bin=$(pg_config --bindir)
as_server=()
[ "$(id -u)" -ne 0 ] || { chown postgres "$folder"; as_server=(setpriv --reuid=postgres --regid=postgres --clear-groups); }
trap '"${as_server[@]}" "$bin/pg_ctl" -D "$folder/data" -s -m immediate stop || true; rm -rf "$folder"' EXIT
cd "$folder"

mkdir -p node_modules/@dcb-es
npm install --no-audit --no-fund --silent pg@8.16.3 pg-copy-streams@7.0.0
for name in event-store event-store-postgres; do
	npm pack --silent "@dcb-es/$name@7.0.1" >/dev/null
	mkdir "node_modules/@dcb-es/$name"
	tar -xzf "dcb-es-$name-7.0.1.tgz" --strip-components=1 -C "node_modules/@dcb-es/$name"
done

"${as_server[@]}" "$bin/initdb" -D "$folder/data" -U postgres -A trust >/dev/null
"${as_server[@]}" "$bin/pg_ctl" -D "$folder/data" -s -w -l "$folder/data/log" \
	-o "-c listen_addresses='' -c unix_socket_directories='$folder'" start

cat >try.mjs <<'END'
import pg from 'pg';
import { MemoryEventStore, Query, Tags, streamAllEventsToArray } from '@dcb-es/event-store';
import { PostgresEventStore } from '@dcb-es/event-store-postgres';

const pool = new pg.Pool({ host: process.argv[2], user: 'postgres', database: 'postgres' });
const postgres = new PostgresEventStore({ pool });
await postgres.ensureInstalled();

const event = (...tags) => ({ type: 'Happened', tags: Tags.from(tags), data: {}, metadata: {} });
const both = Query.fromItems([{ types: ['Happened'], tags: Tags.from(['course=c1', 'student=s1']) }]);

for (const [name, store] of [['memory', new MemoryEventStore()], ['postgres', postgres]]) {
  // none of these carries both tags
  await store.append({ events: [event('course=c1', 'student=s2'), event('course=c2', 'student=s1')] });
  const read = await streamAllEventsToArray(store.read(both));
  const appended = await store.append({ events: event('course=c1', 'student=s1'), condition: { failIfEventsMatch: both } })
    .then(() => 'does not match', () => 'matches');
  console.log(`${name}: read gives ${read.length} events, as a condition the query ${appended}`);
}
await pool.end();
END
node try.mjs "$folder" >seen

cat >expected <<'END'
memory: read gives 0 events, as a condition the query does not match
postgres: read gives 2 events, as a condition the query does not match
END
cat seen
diff expected seen
