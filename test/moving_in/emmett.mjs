// Fills a database with Emmett's own client: three streams, written to in turns,
// several events in an append, ids of the client's and of the application's making.
// usage: node emmett.mjs <connection string>
import { webcrypto } from 'node:crypto';
import { getPostgreSQLEventStore } from '@event-driven-io/emmett-postgresql';

// Emmett takes it for granted; Node.js 18 does not have it as a global
globalThis.crypto ??= webcrypto;

const store = getPostgreSQLEventStore(process.argv[2]);

for (let turn = 0; turn < 5; turn++)
	for (const cart of ['shopping_cart-1', 'shopping_cart-2', 'shopping_cart-3'])
		await store.appendToStream(cart, [
			{ type: 'ProductItemAdded', data: { cart, turn, price: 12.5, note: 'a "quoted" wörd' } },
			{ type: 'DiscountApplied', data: { percent: turn }, metadata: { user: 'u1' } },
		]);
// an id that is no UUID
await store.appendToStream('shopping_cart-1', [
	{ type: 'Confirmed', data: {}, metadata: { messageId: 'confirmation/1', user: 'u2' } },
], { expectedStreamVersion: 10n });
await store.close();
