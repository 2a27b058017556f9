#!/usr/bin/env bash
#
# plot.sh RESULTS FOLDER
#	  Pictures of a benchmark: what run.sh has written to BENCH_OUT (item,
#	  contestant, repetition, value, % lost, CPU us per event), as SVG.
#
# append.svg: events appended; read.svg: events read; cpu.svg: CPU time per event; all as ratios to the median of
# "raw", which must be among the results.  Each bar is the median of the repetitions, the line on it goes from the
# lowest to the highest.  Needs gnuplot.

set -euo pipefail

results=$1 folder=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
machine="$(nproc) CPUs, PostgreSQL ${BENCH_SERVER:-$(pg_config --version 2>/dev/null | sed 's/[^0-9]*\([0-9.]*\).*/\1/')}, $(date +%F)"
declare -A colour=([raw]='#8a8f98' [tutorial]='#d98324' [message_db]='#5b8c5a' [emmett]='#b5577a' [event_store]='#2f6db5')
contestants=$(awk '!seen[$2]++ { printf "%s ", $2 }' "$results")

# column item contestant: the sorted values
values() {
	awk -v item="$2" -v who="$3" -v column="$1" '$1 == item && $2 == who { print $column }' "$results" | sort -n
}

# table column item:label...: for each contestant a file with label, median, lowest, highest
table() {
	local column=$1 contestant pair raw

	shift
	for contestant in $contestants; do
		for pair in "$@"; do
			raw=$(values "$column" "${pair%%:*}" raw | awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)] }')
			[ -n "$raw" ] || continue					# was not measured
			values "$column" "${pair%%:*}" "$contestant" | awk -v label="${pair#*:}" -v raw="$raw" '{ v[NR] = $1 / raw }
				END { if (NR) printf "\"%s\" %s %s %s\n", label, v[int((NR + 1) / 2)], v[1], v[NR];
					  else printf "\"%s\" 0 0 0\n", label }'
		done >"$work/$contestant"
	done
}

# plot name title y-axis
plot() {
	local contestant plots=

	for contestant in $contestants; do
		plots+="${plots:+, }'$work/$contestant' using 2:3:4:xtic(1) lc rgb '${colour[$contestant]}' title '${contestant//_/-}'"
	done
	gnuplot <<-END
		set terminal svg size 760,380 font 'sans-serif,12' background '#ffffff'
		set output '$folder/$1.svg'
		set title '$2 ($machine)'
		set style data histograms
		set style histogram errorbars gap 1 lw 1
		set style fill solid 0.85 noborder
		set boxwidth 0.9
		set yrange [0:*]
		set ylabel '$3'
		set errorbars lc rgb '#333333'
		set key outside right top
		set bmargin 4
		set grid ytics lc rgb '#dddddd'
		plot $plots
	END
}

mkdir -p "$folder"
table 4 append1:'1 client' append4:'4 clients' append16:'16 clients' batch:'batches\\nof 100' hot:'one stream,\\n16 clients'
plot append 'Events appended a second' 'of plain INSERTs'
table 4 stream50:'streams\\nof 50' stream1000_index:'streams\\nof 1000' all:'everything' category:'a category'
plot read 'Events read a second, 4 clients' 'of a plain SELECT'
table 6 append1:'1 client' append4:'4 clients' append16:'16 clients' batch:'batches\\nof 100'
plot cpu 'CPU time for an event appended' 'of plain INSERTs'
