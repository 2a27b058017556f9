#!/usr/bin/env bash
#
# libpq-next-host-has-the-old-sockets-number.sh
#	  libpq 15.20: where PQconnectPoll goes on to the next host of a connection
#	  string (here the first one is read-only and target_session_attrs is
#	  read-write), PQsocket says the same number before and after, but it is
#	  another socket, of which epoll knows nothing: EPOLL_CTL_MOD is ENOENT.
#
# The manual warns that the socket may change between the calls.  Who looks
# whether it has, by its number, finds that it has not; the old one was closed,
# which took it out of the epoll set, and an event loop waits for ever.  poll() and
# select() do not notice.  Adding the socket anew after each call connects.
#
# Compared below; exits 1 when it has changed.  Needs apt, dpkg and python3, and
# the libraries that postgresql-15 depends on; as root the servers run as user
# postgres.

set -euo pipefail

version=15.20-0+deb12u1

folder=$(mktemp -d)
as_server=()
[ "$(id -u)" -ne 0 ] || { chmod 755 "$folder"; as_server=(setpriv --reuid=postgres --regid=postgres --clear-groups); }
bin=$folder/usr/lib/postgresql/15/bin
finish() {
	for data in first second; do
		"${as_server[@]}" "$bin/pg_ctl" -D "$folder/$data" -s -m immediate stop || true
	done
	rm -rf "$folder"
}
trap finish EXIT
cd "$folder"

for package in postgresql-15 postgresql-client-15 libpq5; do
	apt-get -qq download "$package=$version" 2>/dev/null
	dpkg -x "${package}_$version"_*.deb .
done
for data in first second; do
	mkdir "$data"
	[ "$(id -u)" -ne 0 ] || chown postgres "$data"
	"${as_server[@]}" "$bin/initdb" -D "$data" -U postgres -A trust >/dev/null
	read_only=off
	[ "$data" = second ] || read_only=on
	"${as_server[@]}" "$bin/pg_ctl" -D "$data" -s -w -l "$folder/$data/log" \
		-o "-c listen_addresses='' -c unix_socket_directories='$folder/$data' -c default_transaction_read_only=$read_only" start
done

seen=$(python3 - "$folder" <<'END'
import ctypes, glob, select, sys

folder = sys.argv[1]
pq = ctypes.CDLL(glob.glob(folder + '/usr/lib/*/libpq.so.5')[0])
for name in ('PQconnectStart', 'PQhost'):
	getattr(pq, name).restype = ctypes.c_void_p if name == 'PQconnectStart' else ctypes.c_char_p
for name in ('PQconnectPoll', 'PQsocket', 'PQstatus', 'PQfinish', 'PQhost'):
	getattr(pq, name).argtypes = [ctypes.c_void_p]
FAILED, READING, WRITING, OK = 0, 1, 2, 3
wanted = {READING: select.EPOLLIN, WRITING: select.EPOLLOUT}


def connect(anew):
	conninfo = 'host=%s/first,%s/second user=postgres dbname=postgres target_session_attrs=read-write' % (folder, folder)
	conn = pq.PQconnectStart(conninfo.encode())
	epoll = select.epoll()
	number, state, said = pq.PQsocket(conn), WRITING, set()
	epoll.register(number, wanted[state])
	while state in wanted:
		if not epoll.poll(3):
			said.add('no event for 3 s')
			break
		if anew:
			epoll.unregister(number)
		state = pq.PQconnectPoll(conn)
		if pq.PQsocket(conn) != number:
			said.add('another number')
		if state not in wanted:
			break
		try:
			(epoll.register if anew else epoll.modify)(pq.PQsocket(conn), wanted[state])
		except FileNotFoundError:
			said.add('ENOENT')
	said.add('connected' if state == OK else 'not connected')
	print('added anew:' if anew else 'modified:', ', '.join(sorted(said)), 'with', pq.PQhost(conn).decode().rsplit('/', 1)[1])
	pq.PQfinish(conn)


connect(False)
connect(True)
END
)
echo "$seen"
[ "$seen" = 'modified: ENOENT, no event for 3 s, not connected with second
added anew: connected with second' ] || { echo "this has changed"; exit 1; }
