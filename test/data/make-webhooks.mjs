// Makes webhooks.jsonl.gz, the real events of the demo and the tests.
//
// Wanted only when the file is renewed, never by the demo or the tests:
//
//		npm pack @octokit/webhooks-examples && tar xzf octokit-*.tgz
//		node make-webhooks.mjs package/api.github.com/index.json webhooks.jsonl.gz
//
// One line per payload, in the package's order: {"name": …, "payload": …}.
// The same package gives the same bytes.

import { readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const [source, target] = process.argv.slice(2);

if (!source || !target) {
	console.error("usage: make-webhooks.mjs index.json webhooks.jsonl.gz");
	process.exit(2);
}

const text = readFileSync(source, "utf8");
const webhooks = JSON.parse(text);

// JavaScript's numbers are doubles: a payload that came back otherwise than
// it was written would not be the real one any more.
const literals = (json) =>
	json.replace(/"(?:[^"\\]|\\.)*"/g, "").match(/-?\d[\d.eE+-]*/g) ?? [];
const before = literals(text);
const after = literals(JSON.stringify(webhooks));
const changed = before.filter((number, i) => number !== after[i]);

if (before.length !== after.length || changed.length > 0)
	throw new Error(`numbers would change: ${changed.slice(0, 5)}`);

const lines = webhooks.flatMap(({ name, examples }) =>
	examples.map((payload) => JSON.stringify({ name, payload }) + "\n"));
const packed = gzipSync(lines.join(""), { level: 9 });

packed[9] = 255;				// "operating system unknown", else it names the author's

writeFileSync(target, packed);
console.log(`${lines.length} payloads of ${webhooks.length} webhooks, ${packed.length} bytes`);
