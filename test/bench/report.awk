# Medians of the results as a Markdown table.  Input: item, contestant,
# repetition, value, per cent lost, CPU time of the server per event.  Of a repetition given twice the later counts.

function median(list,    a, n, i, j, t)
{
	n = split(list, a, " ")
	for (i = 2; i <= n; i++)
		for (j = i; j > 1 && a[j] + 0 < a[j - 1] + 0; j--) {
			t = a[j]; a[j] = a[j - 1]; a[j - 1] = t
		}
	return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
}

function values(item, c,    r, s)
{
	s = ""
	for (r = 1; r <= reps; r++)
		if ((item, c, r) in value)
			s = s " " value[item, c, r]
	return s
}

function ratios(item, c, base_item, base,    r, s)
{
	s = ""
	for (r = 1; r <= reps; r++)
		if ((item, c, r) in value && (base_item, base, r) in value && value[base_item, base, r] > 0)
			s = s " " value[item, c, r] / value[base_item, base, r]
	return s
}

function losses(item, c,    r, s)
{
	s = ""
	for (r = 1; r <= reps; r++)
		if ((item, c, r) in value)
			s = s " " lost[item, c, r]
	return s
}

function row(item, label, base, op, target,    i, c, cell, ratio, v, l, line, verdict)
{
	if (!(item in seen))
		return
	line = "| " label
	verdict = "not run"
	for (i = 1; i <= n_contestants; i++) {
		c = contestant[i]
		v = values(item, c)
		if (v == "")
			cell = (c in note) ? "not run" : "–"
		else {
			cell = sprintf(item ~ / cpu$/ ? "%.1f" : "%.0f", median(v))
			ratio = ratios(item, c, item, "raw")
			if (c != "raw" && ratio != "")
				cell = cell sprintf(" (%.2f)", median(ratio))
			l = median(losses(item, c))
			if (l >= 0.1)
				cell = cell sprintf(", %.1f %% lost", l)
		}
		line = line " | " cell
	}
	ratio = ratios(item, "event_store", item, base)
	if (op == "cpu") {
		print line " |"
		return
	}
	if (op == "") {
		print line " | – | – |"
		return
	}
	if (ratio != "") {
		ratio = median(ratio)
		verdict = (op == ">=" ? ratio >= target : ratio <= target) ? "met" : "missed"
		if (item == "hot" && median(losses(item, "event_store")) > 0)
			verdict = "missed"
		verdict = sprintf("%.3f %s", ratio, verdict)
	}
	print line " | " (op == ">=" ? "≥ " : "≤ ") target " × " base " | " verdict " |"
}

function heading(more,    i, line, rule)
{
	line = "| work"
	rule = "|---"
	for (i = 1; i <= n_contestants; i++) {
		line = line " | " contestant[i]
		rule = rule "|---:"
	}
	print line more " |"
	gsub(/[^|]/, "", more)
	gsub(/\|/, "|---", more)
	print rule more "|"
}

BEGIN { FS = "\t" }
{
	value[$1, $2, $3] = $4
	lost[$1, $2, $3] = $5
	if ($6 > 0)
		value[$1 " cpu", $2, $3] = $6
	if ($6 > 0)
		seen[$1 " cpu"] = 1
	seen[$1] = 1
	if ($3 > reps)
		reps = $3
}
END {
	n_contestants = split(wanted, contestant, " ")
	n = split(notes, a, ";")
	for (i = 1; i <= n; i++)
		if (split(a[i], b, "=") == 2)
			note[b[1]] = b[2]
	heading(" | target | reached")
	row("append1", "append 1 event, 1 client, events/s", "raw", ">=", 1.0)
	row("append4", "append 1 event, 4 clients", "raw", ">=", 1.0)
	row("append16", "append 1 event, 16 clients", "raw", ">=", 1.0)
	row("exact16", "append 1 event, exact version, 16 clients", "raw", ">=", 0.95)
	row("batch", "batches of 100, 4 clients", "raw", ">=", 1.4)
	row("hot", "one hot stream, 16 clients", "message_db", ">=", 1.5)
	row("stream50", "read a stream of 50, 4 clients", "raw", ">=", 1.0)
	row("stream1000", "read a stream of 1000, 4 clients", "raw", ">=", 1.0)
	row("stream1000_index", "the same against an index scan", "raw", ">=", 1.0)
	row("all", "read all, pages of 1000, 4 clients", "raw", ">=", 0.97)
	row("category", "read a category, pages of 1000, 4 clients", "raw", ">=", 1.0)
	row("first10", "first 10 of an unbounded read, 4 clients", "raw", ">=", 0.6)
	row("sum", "a field summed over pages of 1000, 4 clients", "raw", ">=", 0.9)
	row("count", "all events counted without payload, 1 client", "raw", ">=", 0.6)
	row("size", "bytes per event, tables and indexes", "raw", "<=", 0.95)
	row("size_indexes", "of which indexes", "raw", "", 0)
	row("wal_steady", "WAL bytes per event, steady", "raw", "<=", 1.0)
	row("wal_first", "WAL bytes per event, first 8000 after a checkpoint", "raw", "<=", 0.5)
	print "\nCPU time of the server per event, µs; less is better, and it depends less on what else the machine does:\n"
	heading("")
	n = split("append1 append4 append16 exact16 batch hot stream50 stream1000 stream1000_index all category first10 sum count", item_list, " ")
	for (i = 1; i <= n; i++)
		row(item_list[i] " cpu", item_list[i], "raw", "cpu", 0)
	if ("big_big" in seen) {
		print ""
		print "| append 1 event, 16 clients | small store | large store | large : small |"
		print "|---|---:|---:|---:|"
		for (i = 1; i <= n_contestants; i++) {
			c = contestant[i]
			if (values("big_big", c) != "")
				printf "| %s | %.0f | %.0f | %.2f |\n", c, median(values("big_bench", c)), \
					median(values("big_big", c)), median(ratios("big_big", c, "big_bench", c))
		}
	}
	for (c in note)
		print "\nNot run: " c " (" note[c] ")."
}
