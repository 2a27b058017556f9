// Prints the SQL of @dcb-es/event-store-postgres, as its own ensureInstalled
// sends it; the argument is the folder of the unpacked package.
import { pathToFileURL } from 'node:url';

const base = pathToFileURL(`${process.argv[2]}/dist/src/eventStore/`).href;
const { ensureInstalled } = await import(`${base}ensureInstalled.js`);
const { advisoryLocks } = await import(`${base}lockStrategy.js`);
const client = {
  query: async (sql, params) => {
    if (!params?.length) console.log(`${sql};`);
    return { rows: [] };
  }
};
await ensureInstalled(client, 'peer', advisoryLocks());
