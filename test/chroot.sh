#!/bin/sh
#
# Roots with other majors of PostgreSQL; to be sourced, from the top of the tree.
#
#	chroot_root major			where that major is: prints "/" for the one that this
#								machine's pg_config belongs to, else makes a chroot of
#								the Debian suite that carries it, and keeps it
#	chroot_overlay root command [argument ...]
#								runs a command as root with a throw-away overlay over
#								that root, in namespaces of its own: it changes neither
#								the machine's installation nor the chroots, and leaves
#								no process.  The sources lie in /tmp/source, where it is
#								started, a folder named by $share in /tmp/share.
#	chroot_bootstrap suite folder
#								a minimal Debian of that suite
#
# 13 comes from a suite whose libpq and Node.js are older than what
# contrib/gateway and its tests need, so its chroot is of the suite after it and
# takes the server alone from the older one.
#
# EVENT_STORE_MATRIX_DIR	where the chroots are (${TMPDIR:-/tmp}/event_store-matrix)
# PG_CONFIG					this machine's PostgreSQL (pg_config)
#
# The mirror is the one that this machine's apt uses for Debian.  To get newer
# packages, delete the chroots.

set -eu

chroots=${EVENT_STORE_MATRIX_DIR:-${TMPDIR:-/tmp}/event_store-matrix}
pg_config=${PG_CONFIG:-pg_config}
host_major=$("$pg_config" --version 2>/dev/null | sed 's/^PostgreSQL \([0-9]*\).*/\1/') || true

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

chroot_bootstrap()
{
	mirror=$(apt-get indextargets --format '$(REPO_URI)' \
		'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
	test -n "$mirror" || { echo "$0: apt knows no Debian mirror" >&2; return 1; }

	# A debootstrap that is older than the suite has no script by its name.
	script=
	test -e "/usr/share/debootstrap/scripts/$1" || script=sid

	debootstrap --variant=minbase "$1" "$2" "$mirror" $script
	# How this machine's apt gets to its mirror, and what it makes of its age.
	apt-config dump |
		grep -Ei '^Acquire::(https?::Proxy|Check-Valid-Until|Check-Date)' \
		> "$2/etc/apt/apt.conf.d/90machine" || true
}

# Make the chroot of a major.  It gets its name when it is complete, so that
# an interrupted attempt is not taken for a chroot.
make_chroot()
{
	root=$chroots/$1
	test ! -d "$root" || return 0

	mkdir -p "$chroots"
	rm -rf "$root.part"
	chroot_bootstrap "$(suite_of "$1")" "$root.part"
	test "$1" != 13 ||
		echo "deb $mirror bullseye main" >> "$root.part/etc/apt/sources.list"

	# No cluster and no daemon shall come up by installing the packages.
	mkdir -p "$root.part/etc/postgresql-common"
	echo 'create_main_cluster = false' \
		> "$root.part/etc/postgresql-common/createcluster.conf"
	printf '#!/bin/sh\nexit 101\n' > "$root.part/usr/sbin/policy-rc.d"
	chmod +x "$root.part/usr/sbin/policy-rc.d"

	cp test/chroot.sh test/setup.sh "$root.part/root"
	unshare --mount --pid --fork --kill-child sh -euc '
		mount -t proc proc "$1/proc"
		chroot "$1" env DEBIAN_FRONTEND=noninteractive sh /root/chroot.sh --install "$2"
		' sh "$root.part" "$1"
	rm "$root.part/root/chroot.sh" "$root.part/root/setup.sh"
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

chroot_root()
{
	if test "$1" = "$host_major"; then
		echo /
	else
		make_chroot "$1" >&2
		echo "$chroots/$1"
	fi
}

# The pg_config of a major, in its root.
chroot_pg_config()
{
	if test "$1" = "$host_major"; then
		command -v "$pg_config"
	else
		echo "/usr/lib/postgresql/$1/bin/pg_config"
	fi
}

chroot_overlay()
{
	chroot_overlay_root=$1
	shift
	git ls-files -z | tar --null -T - -cf - |
	unshare --mount --pid --ipc --fork --kill-child sh -euc '
		root=$1 share=$2
		shift 2
		new=$(mktemp -d)
		trap "umount -R -l \"$new\"; rmdir \"$new\"" EXIT
		mount -t tmpfs tmpfs "$new"
		mkdir "$new/upper" "$new/work" "$new/root"
		mount -t overlay -o "lowerdir=$root,upperdir=$new/upper,workdir=$new/work" \
			overlay "$new/root"
		mount -t proc proc "$new/root/proc"
		mount --rbind /dev "$new/root/dev"
		mount -t tmpfs tmpfs "$new/root/dev/shm"
		mount -t tmpfs tmpfs "$new/root/tmp"
		if test -n "$share"; then
			mkdir "$new/root/tmp/share"
			mount --bind "$share" "$new/root/tmp/share"
		fi
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
			sh -c "cd /tmp/source && exec \"\$@\"" sh "$@"
		' sh "$chroot_overlay_root" "${share:-}" "$@"
}

if test "${1:-}" = --install; then
	install_here "$2"
fi
