#!/usr/bin/env bash
#
# soak_plot.sh FOLDER
#	  Picture of a soak: what 045_soak.pl has left in the folder (samples.tsv,
#	  latency.tsv, memory.tsv), as soak.svg.  Needs gnuplot.

set -euo pipefail

cd "$1"
events=$(tail -n 1 samples.tsv | cut -f2)
# what is restarted has another process: one line for each kind, broken where a process ends
awk -F '"' '
	/^"/ { kind = $2; sub(/ [0-9]+$/, "", kind); sub(/^soak-v-/, "", kind); part = "\n"; next }
	NF { lines[kind] = lines[kind] part $0 "\n"; part = "" }
	END { for (kind in lines) printf "\"%s\"%s\n\n", kind, lines[kind] }' memory.tsv >kinds.tsv
kinds=$(grep -c '^"' kinds.tsv)
lags=$(awk -F '\t' 'NR == 1 { for (i = 9; i <= NF; i++) printf "%s%s", i == 9 ? "" : " ", i }' samples.tsv)
gnuplot <<-END
	set terminal svg size 900,1200 font 'sans-serif,12' background '#ffffff'
	set output 'soak.svg'
	set datafile separator '\t'
	set key outside right top noenhanced autotitle columnheader font ',10' spacing 0.8 maxcols 1
	set grid lc rgb '#dddddd'
	set xlabel 'minutes'
	set xrange [0:$(tail -n 1 samples.tsv | cut -f1)]
	set lmargin 10
	set rmargin 32
	set multiplot layout 4,1 title 'Soak: $events positions, PostgreSQL ${SOAK_SERVER:-}, $(nproc) CPUs, $(date +%F)'
	set title 'latency of an append'
	set ylabel 'ms'
	set logscale y
	set yrange [0.1:*]
	plot 'latency.tsv' using 1:3 with lines lw 2 title 'p50', '' using 1:4 with lines lw 2 title 'p99'
	set title 'own memory of sessions and workers (one grows on purpose)'
	set ylabel 'MB'
	unset logscale y
	set yrange [0:*]
	plot for [i=0:$((kinds - 1))] 'kinds.tsv' index i using 1:2 with lines title columnheader(1)
	set title 'bookkeeping tables, dead rows'
	set ylabel 'kB, rows'
	set yrange [0:*]
	plot 'samples.tsv' using 1:4 with lines lw 2 title 'size in kB', '' using 1:5 with lines lw 2 title 'dead rows in all tables'
	set title 'events behind the head'
	set ylabel 'events'
	set logscale y
	set yrange [0.8:*]
	plot for [i in '$lags'] 'samples.tsv' using 1:(column(int(i)) + 0.9) with lines title columnheader(int(i))
	unset multiplot
END
