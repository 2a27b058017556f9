// Persistent subscriptions, with one of the clients.
'use strict';
const { assert, delay, failure, flavour, fresh, Gateway, Postgres, run, test, until } = require('./lib');

module.exports = (client_name) => {
  const pg = new Postgres();
  const gateway = new Gateway(pg);
  const F = flavour(client_name);
  const { K } = F;
  const streamSettings = K.persistentSubscriptionToStreamSettingsFromDefaults;
  const allSettings = K.persistentSubscriptionToAllSettingsFromDefaults;
  const event = (n, type = 'Work', more = {}) => K.jsonEvent({ type, data: { n }, ...more });
  const events = (count, from = 0) => Array.from({ length: count }, (_, n) => event(from + n));
  let client;

  // A consumer: judges each event by a function that acknowledges if it says nothing.
  function consume(subscription, judge = () => {}) {
    const got = { list: [], retries: [], error: null, ended: false };
    subscription.on('error', (e) => { got.error = e; });
    subscription.on('end', () => { got.ended = true; });
    subscription.on('data', async (e) => {
      got.list.push(e.event.data.n);
      got.retries.push(e.retryCount);
      const verdict = await judge(e, got);
      if (verdict === undefined) await subscription.ack(e);
      else if (verdict !== 'nothing') await subscription.nack(verdict, `it says ${verdict}`, e);
    });
    got.count = (n) => until(`${n} events`, () => {
      if (got.error) throw got.error;
      return got.list.length >= n;
    });
    return got;
  }
  const parked = (stream) => pg.psql(`SELECT string_agg((e.data->>'n') || ':' || k.reason || ':' || k.retries, ', ' ORDER BY e.version)
    FROM event_store_gateway.parked k, es_read_stream('${stream}') e WHERE e.global_position = k.global_position`);
  const lag = (stream) => pg.psql(`SELECT lag_events FROM event_store.subscriptions WHERE name LIKE '${stream}::%'`);

  test('create, info, update, list, delete, and what they say when they fail', async () => {
    const stream = fresh('Life');
    const settings = streamSettings({ startFrom: K.START, maxRetryCount: 3, consumerStrategyName: K.PINNED });
    await client.createPersistentSubscriptionToStream(stream, 'g', settings);
    const again = await failure(client.createPersistentSubscriptionToStream(stream, 'g', settings));
    assert.equal(again.type, 'persistent-subscription-exists');
    let info = await client.getPersistentSubscriptionToStreamInfo(stream, 'g');
    assert.deepEqual(info.settings, settings);
    assert.equal(info.eventSource, stream);
    assert.equal(info.groupName, 'g');
    const changed = streamSettings({ startFrom: 7n, maxSubscriberCount: 5 });
    await client.updatePersistentSubscriptionToStream(stream, 'g', changed);
    info = await client.getPersistentSubscriptionToStreamInfo(stream, 'g');
    assert.deepEqual(info.settings, changed);
    assert.deepEqual((await client.listPersistentSubscriptionsToStream(stream)).map((i) => i.groupName), ['g']);
    assert.ok((await client.listAllPersistentSubscriptions()).some((i) => i.eventSource === stream));
    await client.deletePersistentSubscriptionToStream(stream, 'g');
    for (const call of [
      () => client.getPersistentSubscriptionToStreamInfo(stream, 'g'),
      () => client.updatePersistentSubscriptionToStream(stream, 'g', changed),
      () => client.deletePersistentSubscriptionToStream(stream, 'g'),
      () => client.replayParkedMessagesToStream(stream, 'g'),
      () => client.listPersistentSubscriptionsToStream(stream),
    ]) assert.equal((await failure(call())).type, 'persistent-subscription-does-not-exist');
    const got = consume(client.subscribeToPersistentSubscriptionToStream(stream, 'g'));
    await until('refused', () => got.error);
    assert.equal(got.error.type, 'persistent-subscription-does-not-exist');
    assert.equal(pg.psql(`SELECT count(*) FROM event_store.subscriptions WHERE name LIKE '${stream}%'`), '0');
  });

  test('from the start, a revision, the end; acknowledged events do not come again', async () => {
    const stream = fresh('From');
    await client.appendToStream(stream, events(10));
    for (const [group, startFrom, expected] of [['start', K.START, 13], ['revision', 6n, 7], ['end', K.END, 3]]) {
      await client.createPersistentSubscriptionToStream(stream, group, streamSettings({ startFrom }));
      // what comes later comes to all
      if (group === 'end') await client.appendToStream(stream, events(3, 10));
      if (group !== 'end') continue;
      for (const [g, , n] of [['start', 0, 13], ['revision', 0, 7], ['end', 0, 3]]) {
        const subscription = client.subscribeToPersistentSubscriptionToStream(stream, g);
        const got = consume(subscription);
        await got.count(n);
        assert.deepEqual(got.list, Array.from({ length: n }, (_, i) => 13 - n + i));
        await until('acknowledged in the store', () => pg.psql(
          `SELECT lag_events FROM event_store.subscriptions WHERE name = '${stream}::${g}'`) === '0');
        await subscription.unsubscribe();
      }
      assert.equal(expected, 3);
    }
    const subscription = client.subscribeToPersistentSubscriptionToStream(stream, 'start');
    const got = consume(subscription);
    await client.appendToStream(stream, event(99));
    await got.count(1);
    assert.deepEqual(got.list, [99]);
    await subscription.unsubscribe();
  });

  test('retry, skip and park; parked events are replayed, all or the first', async () => {
    const stream = fresh('Nack');
    await client.createPersistentSubscriptionToStream(stream, 'g', streamSettings({ startFrom: K.START, maxRetryCount: 2 }));
    await client.appendToStream(stream, events(10));
    let replaying = false;
    const subscription = client.subscribeToPersistentSubscriptionToStream(stream, 'g');
    const got = consume(subscription, ({ event: e, retryCount }) => {
      if (replaying) return undefined;
      const { n } = e.data;
      if (n === 1) return retryCount < 1 ? K.RETRY : undefined;
      if (n === 2) return K.SKIP;
      if (n === 3 || n === 4) return K.PARK;
      if (n === 5) return K.RETRY;		// for ever: parked after two
      return undefined;
    });
    await got.count(13);
    await until('parked', () => parked(stream).split(', ').length === 3);
    assert.equal(parked(stream), '3:it says park:0, 4:it says park:0, 5:it says retry:2');
    assert.deepEqual([...got.list].sort((a, b) => a - b), [0, 1, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9]);
    assert.deepEqual([...new Set(got.retries)].sort(), [0, 1, 2]);
    await until('the rest is done', () => lag(stream) === '0');
    let info = await client.getPersistentSubscriptionToStreamInfo(stream, 'g');
    assert.equal(info.stats.parkedMessageCount, 3n);
    assert.equal(info.connections.length, 1);
    replaying = true;
    await client.replayParkedMessagesToStream(stream, 'g', { stopAt: 2 });
    await got.count(15);
    assert.deepEqual(got.list.slice(13), [3, 4]);
    await client.replayParkedMessagesToStream(stream, 'g');
    await got.count(16);
    assert.equal(got.list[15], 5);
    await until('nothing is parked', () => parked(stream) === '');
    await subscription.unsubscribe();
    assert.equal(got.error, null);
  });

  test('no more events at a time than the consumer has room for', async () => {
    const stream = fresh('Room');
    await client.createPersistentSubscriptionToStream(stream, 'g', streamSettings({ startFrom: K.START }));
    await client.appendToStream(stream, events(50));
    const subscription = client.subscribeToPersistentSubscriptionToStream(stream, 'g', { bufferSize: 5 });
    const pending = [];
    const got = consume(subscription, (e) => { pending.push(e); return 'nothing'; });
    await got.count(5);
    await delay(200);
    assert.equal(got.list.length, 5);
    // out of order: the last first
    await subscription.ack(pending[4], pending[3]);
    await got.count(7);
    await delay(200);
    assert.equal(got.list.length, 7);
    await subscription.unsubscribe();
    // the rest, and what was not acknowledged, comes to the next one
    const next = client.subscribeToPersistentSubscriptionToStream(stream, 'g');
    const rest = consume(next);
    await rest.count(48);
    assert.deepEqual([...rest.list].sort((a, b) => a - b), [...Array(50).keys()].filter((n) => n !== 3 && n !== 4));
    await next.unsubscribe();
  });

  test('an event that takes too long comes again', async () => {
    const stream = fresh('Slow');
    await client.createPersistentSubscriptionToStream(stream, 'g', streamSettings({ startFrom: K.START, messageTimeout: 500 }));
    await client.appendToStream(stream, events(2));
    const subscription = client.subscribeToPersistentSubscriptionToStream(stream, 'g');
    const got = consume(subscription, (e) => (e.event.data.n === 0 && e.retryCount === 0 ? 'nothing' : undefined));
    await got.count(3);
    assert.deepEqual([got.list[2], got.retries[2]], [0, 1]);
    await until('done', () => lag(stream) === '0');
    await subscription.unsubscribe();
  });

  test('a subscription that is set back delivers everything again, one that retries does not', async () => {
    const stream = fresh('Back');
    // a page of any size may be asked for
    await client.createPersistentSubscriptionToStream(stream, 'g', streamSettings({ startFrom: K.START, readBatchSize: 500000000 }));
    await client.appendToStream(stream, events(20));
    const subscription = client.subscribeToPersistentSubscriptionToStream(stream, 'g');
    const got = consume(subscription, ({ event: e, retryCount }) => (e.data.n % 5 === 0 && retryCount < 2 ? K.RETRY : undefined));
    await got.count(28);
    await until('done', () => lag(stream) === '0');
    await client.appendToStream(stream, events(5, 20));
    await got.count(28 + 7);
    await until('done', () => lag(stream) === '0');
    assert.equal(got.list.length, 35);
    for (const [from, to] of [[0, 25], [20, 26]]) {
      const before = got.list.length;
      pg.psql(`SELECT es_reset_subscription('${stream}::g',
        coalesce((SELECT global_position FROM es_read_stream('${stream}') WHERE version = ${from}), 0))`);
      await client.appendToStream(stream, event(to));
      const expected = Array.from({ length: to - from + 1 }, (_, i) => from + i).flatMap((n) => (n % 5 === 0 ? [n, n, n] : [n]));
      await got.count(before + expected.length);
      await until('done', () => lag(stream) === '0');
      assert.deepEqual(got.list.slice(before).sort((a, b) => a - b), expected);
    }
    assert.equal(got.error, null);
    await subscription.unsubscribe();
  });

  test('consumers share the work: round robin, one after the other, pinned', async () => {
    const category = `Share${F.scheme}`;
    const strategies = [K.ROUND_ROBIN, K.DISPATCH_TO_SINGLE, K.PINNED];
    for (const strategy of strategies) {
      await client.createPersistentSubscriptionToStream(`$ce-${category}`, strategy,
        streamSettings({ startFrom: K.START, consumerStrategyName: strategy, resolveLinkTos: true }));
    }
    for (let s = 0; s < 10; s++) await client.appendToStream(`${category}-${s}`, events(10));
    for (const strategy of strategies) {
      const subscriptions = [1, 2].map(() => client.subscribeToPersistentSubscriptionToStream(`$ce-${category}`, strategy, { bufferSize: 100 }));
      const seen = [[], []];
      const got = subscriptions.map((s, i) => consume(s, ({ event: e }) => { seen[i].push(e.streamId); }));
      await until('all events', () => got[0].list.length + got[1].list.length >= 100);
      const [a, b] = seen;
      if (strategy === K.PINNED) assert.ok(!a.some((s) => b.includes(s)), 'a stream stays with its consumer');
      if (strategy === K.DISPATCH_TO_SINGLE) assert.ok(Math.max(a.length, b.length) > 60);
      await Promise.all(subscriptions.map((s) => s.unsubscribe()));
    }
  });

  test('no more consumers than allowed', async () => {
    const stream = fresh('Few');
    await client.createPersistentSubscriptionToStream(stream, 'g', streamSettings({ startFrom: K.START, maxSubscriberCount: 1 }));
    const first = client.subscribeToPersistentSubscriptionToStream(stream, 'g');
    const got = consume(first);
    await client.appendToStream(stream, event(1));
    await got.count(1);
    const second = consume(client.subscribeToPersistentSubscriptionToStream(stream, 'g'));
    await until('refused', () => second.error);
    assert.equal(second.error.type, 'maximum-subscribers-reached');
    await first.unsubscribe();
  });

  test('to $all, with a filter', async () => {
    const prefix = `Picked${F.scheme}`;
    await client.createPersistentSubscriptionToAll('g1', allSettings({ startFrom: K.END }),
      { filter: K.streamNameFilter({ prefixes: [prefix] }) });
    const { position } = await client.appendToStream(fresh('Mark'), event(0));
    await client.createPersistentSubscriptionToAll('g2', allSettings({ startFrom: position }),
      { filter: K.eventTypeFilter({ regex: '^Chosen' }) });
    await client.appendToStream(fresh(prefix), [event(1), event(2, 'ChosenOne')]);
    await client.appendToStream(fresh('Other'), [event(3), event(4, 'ChosenTwo')]);
    const subscriptions = ['g1', 'g2'].map((g) => client.subscribeToPersistentSubscriptionToAll(g));
    const got = subscriptions.map((s) => consume(s));
    await Promise.all(got.map((g) => g.count(2)));
    assert.deepEqual(got.map((g) => g.list), [[1, 2], [2, 4]]);
    const info = await client.getPersistentSubscriptionToAllInfo('g2');
    assert.equal(info.settings.startFrom.commit, position.commit);
    assert.deepEqual((await client.listPersistentSubscriptionsToAll()).map((i) => i.groupName), ['g1', 'g2']);
    await client.replayParkedMessagesToAll('g1');
    await client.updatePersistentSubscriptionToAll('g1', allSettings({ startFrom: K.END }));
    await until('an update ends its consumers', () => got[0].error || got[0].ended);
    for (const s of subscriptions) await s.unsubscribe();
    for (const g of ['g1', 'g2']) await client.deletePersistentSubscriptionToAll(g);
    await client.restartPersistentSubscriptionSubsystem();
  });

  test('a gateway that is killed delivers again what was not acknowledged, and nothing is lost', async () => {
    const stream = fresh('Killed');
    await client.createPersistentSubscriptionToStream(stream, 'g', streamSettings({ startFrom: K.START, checkPointAfter: 100, checkPointLowerBound: 1 }));
    await client.appendToStream(stream, events(300));
    const seen = new Map();
    const take = (e) => { seen.set(e.event.data.n, (seen.get(e.event.data.n) || 0) + 1); };
    const before = consume(client.subscribeToPersistentSubscriptionToStream(stream, 'g'), take);
    await until('some events', () => seen.size > 100);
    await gateway.kill();
    await until('the client notices', () => before.error || before.ended);
    await gateway.start();
    const other = F.connect(gateway.uri());
    const subscription = other.subscribeToPersistentSubscriptionToStream(stream, 'g');
    const after = consume(subscription, take);
    await until('all events', () => { if (after.error) throw after.error; return seen.size === 300; });
    await until('done', () => lag(stream) === '0');
    await subscription.unsubscribe();
    await other.dispose();
  });

  test('PostgreSQL restarts under consumers: nothing is lost', async () => {
    client = F.connect(gateway.uri());
    const stream = fresh('Restarted');
    await client.createPersistentSubscriptionToStream(stream, 'g', streamSettings({ startFrom: K.START }));
    await client.appendToStream(stream, events(100));
    const seen = new Set();
    const subscription = client.subscribeToPersistentSubscriptionToStream(stream, 'g');
    const got = consume(subscription, async (e) => { seen.add(e.event.data.n); await delay(3); });
    await until('some events', () => seen.size > 20);
    await pg.stop('immediate');
    // it looks now and then whether PostgreSQL is back, and says how often once a second
    const mark = Gateway.log().length;
    const said = () => [...Gateway.log().slice(mark).matchAll(/unsaid=(\d+)/g)].map((m) => Number(m[1]));
    await until('two lines', () => said().length >= 2);
    assert.ok(Math.max(...said()) < 200, `${said()}`);
    await pg.start();
    await until('the gateway is back', () => client.appendToStream(stream, events(20, 100)).then(() => true, () => false));
    await until('all events', () => seen.size === 120);
    await until('done', () => lag(stream) === '0');
    assert.equal(got.error, null);
    await subscription.unsubscribe();
    await client.dispose();
  });

  run(async () => {
    await pg.start();
    pg.psql('CREATE EXTENSION event_store');
    pg.psql('CREATE EXTENSION event_store_gateway');
    await gateway.start();
    client = F.connect(gateway.uri());
  });
};
