#!/usr/bin/env bash
#
# build.sh
#	  Build the extension in a copy of the tree and install it; to be sourced.
#
# The copy keeps the tree free of objects, of test output and of what another
# PostgreSQL's headers or other flags left behind.

# what "make check" was called with is not for the makes below
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

# build_copy folder: copy what belongs to the sources.
build_copy() {
	local top
	top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

	mkdir -p "$1"
	tar -C "$top" -cf - --exclude=.git --exclude=./build --exclude='*.o' --exclude='*.bc' --exclude='*.so' \
		--exclude='./regression.*' --exclude=./results --exclude=./output_iso \
		--exclude=./tmp_check --exclude=./tmp_check_iso --exclude=./log . |
		tar -C "$1" --no-same-owner -xf -
}

# build_make folder pg_config [make's arguments]: silent unless it fails.
build_make() {
	local folder=$1 pg_config=$2

	shift 2
	if ! make -C "$folder" --no-print-directory -j"$(nproc)" PG_CONFIG="$pg_config" "$@" \
		>"$folder/make.log" 2>&1; then
		cat "$folder/make.log" >&2
		return 1
	fi
}

# build_changed pg_config: build in a copy that the tree keeps, so that only what
# has changed is compiled the next time, and install.
build_changed() {
	local pg_config=$1 top folder file steps started=$SECONDS

	top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
	folder=$top/build/$("$pg_config" --version | sed 's/[^0-9]*\([0-9.]*\).*/\1/')
	build_copy "$folder"
	while read -r file; do
		[ -f "$top/$file" ] || rm -f "$folder/$file"
	done < <(cd "$folder" && find src sql -name '*.[ch]' -o -name '*.sql')
	steps=$(make -n -C "$folder" PG_CONFIG="$pg_config" 2>/dev/null | grep -cE -- ' -c -o |-emit-llvm') || true
	if [ "$steps" -gt 0 ]; then
		echo "compiling, $steps steps ..."
	else
		echo "nothing has changed since the last build"
	fi
	build_make "$folder" "$pg_config" && build_install "$folder" "$pg_config" || return 1
	echo "installed into $("$pg_config" --pkglibdir), $((SECONDS - started)) s"
}

# build_install folder pg_config [goal]: into the system's PostgreSQL.
build_install() {
	local folder=$1 pg_config=$2 library
	local sudo=()

	library=$("$pg_config" --pkglibdir)
	if [ ! -w "$library" ] || [ ! -w "$("$pg_config" --sharedir)/extension" ]; then
		if ! sudo -n true 2>/dev/null; then
			echo "cannot write to $library: run this as root, or where sudo asks for no password" >&2
			return 1
		fi
		sudo=(sudo -n)
	fi
	if ! "${sudo[@]}" make -C "$folder" --no-print-directory PG_CONFIG="$pg_config" "${3:-install}" \
		>"$folder/install.log" 2>&1; then
		cat "$folder/install.log" >&2
		return 1
	fi
}

# build_private_pg folder pg_config: a copy of that PostgreSQL, which finds its
# files where it is; prints the copy's pg_config.
build_private_pg() {
	local folder=$1 pg_config=$2 kind path

	for kind in --bindir --sharedir --pkglibdir --includedir-server --pkgincludedir; do
		path=$("$pg_config" $kind)
		[ -d "$path" ] && [ ! -d "$folder$path" ] || continue
		mkdir -p "$folder$(dirname "$path")"
		cp -aL "$path" "$folder$path"
	done
	# where Debian keeps the library and the programs in one folder
	path=$(dirname "$("$pg_config" --bindir)")/lib
	if [ -d "$path" ] && [ ! -d "$folder$path" ]; then
		cp -aL "$path" "$folder$path"
	fi
	chmod -R a+rX "$folder"
	echo "$folder$("$pg_config" --bindir)/pg_config"
}
