// Prints the SQL of Emmett's schema, in the order in which it wants it run.
// usage: node emmett_schema.mjs <folder with node_modules>
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(pathToFileURL(`${process.argv[2]}/`));
const emmett = require('@event-driven-io/emmett-postgresql');

for (const sql of emmett.schemaSQL)
	process.stdout.write(`${String(sql).trim().replace(/;?$/, ';')}\n`);
