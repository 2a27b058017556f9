#!/usr/bin/env bash
#
# packages.sh
#	  The Debian packages and the Dockerfile, in fresh copies of a clean Debian.
#
# 1. META.json: every field that PGXN requires, and what each file name names.
# 2. debian/ is built with dpkg-buildpackage, and lintian finds nothing.
# 3. In another copy, without anything that building needs: a package of an
#    older version with a 0.1 store in use is upgraded to the new one, the store
#    updated, every package tried, all purged, and nothing stays behind.
# 4. The RUN lines of the Dockerfile, COPY, ENV, and its CMD, without docker.
#
# Needs root (chroot).  Environment: MAJOR (15): in the Debian suite that carries
# this PostgreSQL, without step docker for others than the Dockerfile's (not 13,
# whose suite is older than what the programs need).  CLEAN: a folder with a clean
# Debian of that suite, which is copied and not changed; without it debootstrap
# makes one.  STEPS: which of "meta build install docker" (all).

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(dirname "$here")
# shellcheck source=test/build.sh
. "$here/build.sh"
# shellcheck source=test/chroot.sh
. "$here/chroot.sh"
major=${MAJOR:-15}
suite=$(suite_of "$major")
steps=${STEPS:-meta build install}
[ -n "${STEPS:-}" ] || ! grep -q "^FROM.*$suite" "$top/Dockerfile" || steps="$steps docker"
passed=0
failed=0

[ "$major" -ne 13 ] || { echo "packages: no Debian suite has both PostgreSQL 13 and what the programs need" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || { echo "packages: needs root, for chroot" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/event_store_packages.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

result() {
	if [ "$2" -eq 0 ]; then
		echo "ok: $1"
		passed=$((passed + 1))
	else
		echo "FAILED: $1"
		failed=$((failed + 1))
	fi
}

# What belongs to the sources, as in a release.
copy_sources() {
	build_copy "$1"
	rm -rf "$1"/contrib/*/build "$1"/build
	find "$1" -name node_modules -prune -exec rm -rf {} +
}

# fresh name: a copy of the clean Debian at $work/name.
fresh() {
	if [ -z "${CLEAN:-}" ]; then
		CLEAN=$work/clean
		chroot_bootstrap "$suite" "$CLEAN" >"$work/debootstrap.log" 2>&1 ||
			{ cat "$work/debootstrap.log"; exit 1; }
	fi
	cp -a "$CLEAN" "$work/$1"
	cp /etc/resolv.conf "$work/$1/etc/resolv.conf"
	mkdir -p "$work/$1/usr/local/share/ca-certificates"
	cp -r /usr/local/share/ca-certificates/. "$work/$1/usr/local/share/ca-certificates/" 2>/dev/null || true
	# no daemon starts by itself
	printf '#!/bin/sh\nexit 101\n' >"$work/$1/usr/sbin/policy-rc.d"
	chmod 755 "$work/$1/usr/sbin/policy-rc.d"
}

# inside name: a script from standard input, in that copy, with processes of its own.
inside() {
	local root=$work/$1

	cat >"$root/script"
	# shellcheck disable=SC2016 # expanded inside
	unshare --mount --pid --ipc --fork --kill-child sh -euc '
		mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; mount -t tmpfs tmpfs "$1/dev/shm"
		exec chroot "$1" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
			DEBIAN_FRONTEND=noninteractive bash -eu /script' sh "$root" </dev/null
}

check_meta() {
	perl -MJSON::PP -e '
		local $/; chdir shift; open my $file, "<", "META.json" or die; my $m = decode_json(<$file>); my @wrong;
		my $semver = qr/^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-[A-Za-z][0-9A-Za-z-]*)?$/;
		for (qw(name version abstract maintainer license provides meta-spec)) { push @wrong, "no $_" unless $m->{$_} }
		push @wrong, "name" if $m->{name} =~ m{[\s/\\\0-\x1f]} || length $m->{name} < 2;
		push @wrong, "version" unless $m->{version} =~ $semver;
		push @wrong, "meta-spec" unless $m->{"meta-spec"}{version} =~ /^1\.0\.\d+$/;
		push @wrong, "license" unless $m->{license} =~ /^(postgresql|mit|bsd|apache_2_0)$/;
		push @wrong, "release_status" unless $m->{release_status} =~ /^(stable|testing|unstable)$/;
		push @wrong, "tags" if grep { ref || length > 255 || m{[/\\\0-\x1f]} } @{ $m->{tags} };
		for my $name (sort keys %{ $m->{provides} }) {
			my $p = $m->{provides}{$name};
			push @wrong, "$name: version" unless $p->{version} =~ $semver;
			for my $key ("file", "docfile") { push @wrong, "$name: $key" unless defined $p->{$key} && -f $p->{$key} }
		}
		for my $phase (keys %{ $m->{prereqs} }) {
			push @wrong, "prereqs: $phase" unless $phase =~ /^(configure|build|test|runtime|develop)$/;
			for my $relation (keys %{ $m->{prereqs}{$phase} }) {
				push @wrong, "prereqs: $relation" unless $relation =~ /^(requires|recommends|suggests|conflicts)$/;
				push @wrong, "prereqs: version" if grep { $_ ne "0" && !/$semver/ } values %{ $m->{prereqs}{$phase}{$relation} };
			}
		}
		for (keys %$m) { push @wrong, "unknown: $_" unless /^(name|version|abstract|description|maintainer|license|provides|meta-spec|prereqs|release_status|resources|tags|generated_by|no_index|x_.*)$/ }
		print "META.json: $_\n" for @wrong; exit(@wrong ? 1 : 0)' "$top"
}

build_packages() {
	fresh build
	copy_sources "$work/build/src/event-store"
	inside build <<-'END' >"$work/build.log" 2>&1 || return 1
		apt-get -qq update
		apt-get -qq install -y --no-install-recommends build-essential lintian postgresql-common postgresql-server-dev-all >/dev/null
		cd /src/event-store
		pg_buildext updatecontrol
		apt-get -qq build-dep -y --no-install-recommends ./ >/dev/null
		chown -R nobody: /src
		setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME=/tmp dpkg-buildpackage -us -uc -b
		cd ..
		echo === lintian
		lintian --allow-root --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs *.changes
	END
	ls "$work"/build/src/postgresql-"$major"-event-store_*.deb >/dev/null
}

# The package before this one: the same files, a lower version, and only 0.1 in it.
make_previous() {
	local package new=$work/previous

	package=$(ls "$work"/build/src/postgresql-"$major"-event-store_*.deb)
	dpkg-deb -R "$package" "$new"
	sed -i 's/^Version: .*/Version: 0.1.0/' "$new/DEBIAN/control"
	find "$new" -name 'event_store--0.2.sql' -delete -o -name 'event_store--0.1--0.2.sql' -delete
	sed -i "s/^default_version.*/default_version = '0.1'/" "$new"/usr/share/postgresql/*/extension/event_store.control
	(cd "$new" && find . -type f -not -path './DEBIAN/*' -printf '%P\0' | xargs -0 md5sum >DEBIAN/md5sums)
	dpkg-deb --root-owner-group -b "$new" "$work/install/debs/previous.deb" >/dev/null
}

install_packages() {
	fresh install
	mkdir "$work/install/debs"
	cp "$work"/build/src/*.deb "$work/install/debs/"
	rm -f "$work"/install/debs/*dbgsym*
	make_previous
	inside install <<-'END' >"$work/install.log" 2>&1
		cd /debs
		find / -xdev -not -path '/proc/*' \( -name '*event?store*' -o -name '*event?store*' \) -not -path '/debs/*' | sort >/before
		apt-get -qq update
		echo === the previous version, in use
		apt-get -qq install -y --no-install-recommends ./previous.deb >/dev/null
		major=$(ls /usr/lib/postgresql)
		pg_ctlcluster $major main start
		sql() { su postgres -c "psql -XAtq -v ON_ERROR_STOP=1 -d shop" <<<"$1"; }
		su postgres -c 'createdb shop'
		sql "CREATE EXTENSION event_store; SELECT es_append('Order-1', 0, 'OrderPlaced', '{\"total\": 42}')"
		[ "$(sql "SELECT extversion FROM pg_extension WHERE extname = 'event_store'")" = 0.1 ]

		echo === upgrade
		rm previous.deb
		apt-get -qq install -y --no-install-recommends ./*.deb >/dev/null
		sql 'ALTER EXTENSION event_store UPDATE'
		[ "$(sql "SELECT extversion FROM pg_extension WHERE extname = 'event_store'")" = 0.2 ]
		[ "$(sql "SELECT count(*) FROM es_read_stream('Order-1')")" = 1 ]
		sql "SELECT es_append_if('[{\"event_type\": \"Paid\", \"data\": {}, \"tags\": [\"a\"]}]', '{}', es_head())"

		echo === each package
		sql 'CREATE EXTENSION event_store_message_db; CREATE EXTENSION event_store_gateway; CREATE EXTENSION event_store_shard'
		sql "SELECT message_store.write_message(gen_random_uuid()::text, 'account-1', 'Opened', '{}')"
		su postgres -c 'event_store_top --once --interval=0.1 -d shop' | grep '^head  *[1-9]'
		event_store_gateway --version
		event_store_feed --version
		test -s /usr/share/event-store/monitoring/dashboard.json
		for p in gateway feed top; do test -s /usr/share/man/man1/event_store_$p.1.gz || grep -q man /etc/dpkg/dpkg.cfg.d/*; done
		test -f /lib/systemd/system/event_store_gateway.service -o -f /usr/lib/systemd/system/event_store_gateway.service
		for p in $(dpkg-query -W -f '${Package}\n' '*event-store*'); do dpkg --verify $p; done

		echo === purge
		sql 'DROP EXTENSION event_store CASCADE'
		apt-get -qq purge -y 'postgresql-*-event-store*' 'event-store-*' >/dev/null
		find / -xdev -not -path '/proc/*' -name '*event?store*' -not -path '/debs/*' -not -path '/var/lib/apt/*' | sort | diff /before -
		if dpkg-query -W -f '${Status} ${Package}\n' '*event-store*' 2>/dev/null | grep -v 'not-installed'; then exit 1; fi
		su postgres -c 'psql -XAtqc "SELECT 1"'
		pg_ctlcluster $major main stop
	END
}

# The Dockerfile's instructions, one by one.
docker_steps() {
	local line instruction rest user=root script=$work/docker.script

	fresh docker
	rm "$work/docker/usr/sbin/policy-rc.d"
	mkdir "$work/docker/context"
	copy_sources "$work/docker/context"
	echo 'cd /' >"$script"
	while IFS= read -r line; do
		instruction=${line%% *}
		rest=${line#* }
		case $instruction in
			FROM | VOLUME | EXPOSE | STOPSIGNAL) ;;
			ENV) printf 'export %q\n' "$rest" >>"$script" ;;
			COPY) printf 'mkdir -p %q && cp -r /context/. %q\n' "${rest##* }" "${rest##* }" >>"$script" ;;
			RUN) printf 'sh -c %q\n' "$rest" >>"$script" ;;
			USER) user=$rest ;;
			CMD)
				perl -MJSON::PP -e 'print join(" ", map { "\x27$_\x27" } @{ decode_json(shift) }), "\n"' "$rest" >"$work/docker/cmd"
				;;
			*) echo "the Dockerfile has $instruction, which packages.sh does not know"; return 1 ;;
		esac
	done < <(sed -e '/^#/d' -e '/^$/d' "$top/Dockerfile" | sed -e ':a' -e '/\\$/N; s/\\\n//; ta')
	cat >>"$script" <<-END
		su $user -s /bin/sh -c "exec sh /cmd" &
		for i in \$(seq 180); do su $user -s /bin/sh -c 'psql -XAtqc "SELECT 1"' 2>/dev/null && break; sleep 1; done
		su $user -s /bin/sh -c 'psql -XAtq -v ON_ERROR_STOP=1' <<'SQL' >/said
		CREATE EXTENSION event_store;
		SELECT version FROM es_append('Order-1', 0, 'OrderPlaced', '{}');
		SHOW server_encoding;
		SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'event_store launcher';
		CREATE EXTENSION event_store_message_db;
		SQL
		cat /said
		[ "\$(tr '\n' ' ' </said)" = '1 UTF8 1 ' ]
	END
	inside docker <"$script" >"$work/docker.log" 2>&1
}

for step in $steps; do
	status=0
	echo "=== $step"
	case $step in
		meta) check_meta || status=1 ;;
		build) build_packages || status=1 ;;
		install) install_packages || status=1 ;;
		docker) docker_steps || status=1 ;;
		*) echo "packages: no step $step" >&2; exit 2 ;;
	esac
	if [ $status -ne 0 ] && [ -f "$work/$step.log" ]; then
		tail -n "${LINES_OF_LOG:-60}" "$work/$step.log"
	elif [ "$step" = build ]; then
		(cd "$work/build/src" && ls -- *.deb)
	fi
	result "$step" $status
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
