// Streams: every call of the README's table that "works".  Run with each client
// by streams_eventstore.js and streams_kurrentdb.js.
'use strict';
const { assert, collect, delay, failure, flavour, fresh, gather, Gateway, Postgres, run, test, until } = require('./lib');

const pg = new Postgres();
const gateway = new Gateway(pg);

module.exports = (client_name) => {
  const F = flavour(client_name);
  const { K, expecting } = F;
  const event = (n, type = 'Happened', more = {}) => K.jsonEvent({ type, data: { n }, ...more });
  const events = (count, type) => Array.from({ length: count }, (_, n) => event(n, type));
  const revisions = (list) => list.map(({ event: e }) => Number(e.revision));
  const on = (name, body, limit) => test(name, body, limit);
  let client;

  on('connects', async () => {
    assert.equal((await client.appendToStream(fresh('Hello'), event(1))).success, true);
  });

  on('the example: any, no stream, exact revision, a stream, its category', async () => {
    const category = `Order${F.scheme}`;
    const stream = fresh(category);
    const placed = (n) => K.jsonEvent({ type: 'OrderPlaced', data: { orderId: stream, n } });
    let result = await client.appendToStream(stream, placed(0), expecting(K.NO_STREAM));
    assert.equal(result.nextExpectedRevision, 0n);
    result = await client.appendToStream(stream, placed(1), expecting(0n));
    assert.equal(result.nextExpectedRevision, 1n);
    result = await client.appendToStream(stream, placed(2), expecting(K.ANY));
    assert.equal(result.nextExpectedRevision, 2n);
    assert.ok(result.position.commit > 0n);
    assert.equal((await failure(client.appendToStream(stream, placed(3), expecting(K.NO_STREAM)))).type, 'wrong-expected-version');
    assert.equal((await failure(client.appendToStream(stream, placed(3), expecting(0n)))).type, 'wrong-expected-version');
    assert.deepEqual(revisions(await collect(client.readStream(stream))), [0, 1, 2]);
    const linked = await collect(client.readStream(`$ce-${category}`, { resolveLinkTos: true }));
    assert.deepEqual(linked.map(({ event: e }) => [e.streamId, e.data.n]), [[stream, 0], [stream, 1], [stream, 2]]);
    assert.deepEqual(linked.map(({ link }) => [link.streamId, link.type]), Array(3).fill([`$ce-${category}`, '$>']));
  });

  for (const [way, options] of [['batch', {}], ['unary', { credentials: { username: 'x', password: 'y' } }]]) {
    on(`wrong expected version says what is there (${way})`, async () => {
      const stream = fresh('Conflict');
      let error = await failure(client.appendToStream(stream, event(1), expecting(K.STREAM_EXISTS, options)));
      assert.equal(error.type, 'wrong-expected-version');
      assert.equal(F.actual(error), 'no_stream');
      assert.equal(F.wanted(error), 'stream_exists');
      error = await failure(client.appendToStream(stream, event(1), expecting(4n, options)));
      assert.equal(F.actual(error), 'no_stream');
      assert.equal(F.wanted(error), 4n);
      await client.appendToStream(stream, events(3), expecting(K.NO_STREAM, options));
      for (const [expected, shown] of [[K.NO_STREAM, 'no_stream'], [0n, 0n], [7n, 7n]]) {
        error = await failure(client.appendToStream(stream, event(1), expecting(expected, options)));
        assert.equal(error.type, 'wrong-expected-version');
        assert.equal(error.streamName, stream);
        assert.equal(F.actual(error), 2n);
        assert.equal(F.wanted(error), shown);
      }
      const result = await client.appendToStream(stream, event(9), expecting(K.STREAM_EXISTS, options));
      assert.equal(result.nextExpectedRevision, 3n);
    });

    on(`a retry is answered with the first result and writes nothing (${way})`, async () => {
      const stream = fresh('Retry');
      const batch = events(3);
      const first = await client.appendToStream(stream, batch, expecting(K.NO_STREAM, options));
      await client.appendToStream(stream, event(9), expecting(2n, options));
      for (const expected of [K.NO_STREAM, K.ANY, K.STREAM_EXISTS]) {
        assert.deepEqual(await client.appendToStream(stream, batch, expecting(expected, options)), first);
      }
      assert.equal((await collect(client.readStream(stream))).length, 4);
      // some known, some new: KurrentDB calls that a conflict
      const error = await failure(client.appendToStream(stream, [batch[0], event(5)], expecting(K.ANY, options)));
      assert.equal(error.type, 'wrong-expected-version');
      assert.equal(F.actual(error), 3n);
    });
  }

  on('an id that another stream has is no conflict of this one, whatever their names', async () => {
    const stream = fresh('Known');
    const known = event(1);
    await client.appendToStream(`${stream} b`, known);
    for (const options of [{}, { credentials: { username: 'x', password: 'y' } }]) {
      await client.appendToStream(stream, event(1), options);
      const error = await failure(client.appendToStream(stream, { ...known, data: { n: 2 } }, options));
      assert.notEqual(error.type, 'wrong-expected-version');
      assert.match(error.message, /VE002/);
    }
  });

  // the database has event_store.upcast = off
  on('events have the types of today, also those appended under another one', async () => {
    const stream = fresh('Shape');
    await client.appendToStream(stream, [event(0, `${stream}Old`), event(1, `${stream}New`)]);
    pg.psql(`SELECT es_define_upcaster('${stream}Old', 1, 'today', '${stream}New')`);
    const data = async (name) => (await collect(client.readStream(name, { resolveLinkTos: true }))).map(({ event: e }) => [e.type, e.data]);
    const wanted = [[`${stream}New`, { n: 0, today: true }], [`${stream}New`, { n: 1 }]];
    assert.deepEqual(await data(stream), wanted);
    assert.deepEqual(await data(`$et-${stream}New`), wanted);
    assert.deepEqual(await data(`$et-${stream}Old`).catch(() => []), []);
    pg.psql(`SELECT es_drop_upcaster('${stream}Old', 1)`);
  });

  on('failures can be returned instead of thrown', async () => {
    const quiet = F.connect(gateway.uri('esdb', '&throwOnAppendFailure=false'));
    const stream = fresh('Quiet');
    await quiet.appendToStream(stream, event(1));
    assert.equal((await quiet.appendToStream(stream, event(1), expecting(K.NO_STREAM))).success, false);
    await quiet.dispose();
  });

  on('an append without events checks and writes nothing', async () => {
    const stream = fresh('Empty');
    assert.equal((await client.appendToStream(stream, [], expecting(K.ANY))).success, true);
    await client.appendToStream(stream, events(2));
    assert.equal((await client.appendToStream(stream, [], expecting(1n))).nextExpectedRevision, 1n);
    assert.equal((await failure(client.appendToStream(stream, [], expecting(0n)))).type, 'wrong-expected-version');
  });

  on('JSON comes back as JSON, anything else byte for byte', async () => {
    const stream = fresh('Bytes');
    const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
    const sent = [
      K.jsonEvent({ type: 'J', data: { a: [1, 2.5, null, 'ü\u{1F600}'], b: { c: true } }, metadata: { who: 'me', $correlationId: 'c' } }),
      K.jsonEvent({ type: 'J', data: 'just text' }),
      K.jsonEvent({ type: 'J', data: { nul: 'a\u0000b', half: '\ud800' } }),
      K.jsonEvent({ type: 'J', data: {}, metadata: { '$content-type': 'not ours', x: 1 } }),
      K.binaryEvent({ type: 'B', data: bytes }),
      K.binaryEvent({ type: 'B', data: bytes, metadata: { a: 1 } }),
      K.binaryEvent({ type: 'B', data: new Uint8Array(0), metadata: bytes }),
      K.jsonEvent({ type: 'J', data: { ok: 1 }, metadata: bytes }),
    ];
    await client.appendToStream(stream, sent);
    const got = (await collect(client.readStream(stream))).map((r) => r.event);
    for (const [i, e] of got.entries()) {
      assert.equal(e.id, sent[i].id);
      assert.equal(e.type, sent[i].type);
      assert.equal(e.isJson, sent[i].contentType === 'application/json');
      const plain = (v) => (v instanceof Uint8Array ? [...v] : v);
      assert.deepEqual(plain(e.data), plain(sent[i].data));
      assert.deepEqual(plain(e.metadata), plain(sent[i].metadata));
      assert.ok(Math.abs(e.created - Date.now()) < 60000);
    }
    // for SQL the JSON is jsonb
    assert.equal(pg.psql(`SELECT data->'b'->>'c', metadata->>'who' FROM es_read_stream('${stream}', 1, 1)`), 'true|me');
  });

  on('reads a stream forwards and backwards, from anywhere, with a limit', async () => {
    const stream = fresh('Read');
    await client.appendToStream(stream, events(20));
    const read = async (options) => revisions(await collect(client.readStream(stream, options)));
    assert.deepEqual(await read({}), [...Array(20).keys()]);
    assert.deepEqual(await read({ fromRevision: 15n }), [15, 16, 17, 18, 19]);
    assert.deepEqual(await read({ fromRevision: 15n, maxCount: 2 }), [15, 16]);
    assert.deepEqual(await read({ direction: K.BACKWARDS, fromRevision: K.END, maxCount: 3 }), [19, 18, 17]);
    assert.deepEqual(await read({ direction: K.BACKWARDS, fromRevision: 2n }), [2, 1, 0]);
    // the newer client goes by the start alone: forwards from START, backwards from END
    if (client_name === 'eventstore') {
      assert.deepEqual(await read({ fromRevision: K.END }), []);
      assert.deepEqual(await read({ direction: K.BACKWARDS, fromRevision: K.START }), [0]);
    }
    assert.deepEqual(await read({ fromRevision: 50n }), []);
    const error = await failure(collect(client.readStream(fresh('Nobody'))));
    assert.equal(error.type, 'stream-not-found');
  });

  on('reads $all forwards and backwards, from a position, with a limit', async () => {
    const stream = fresh('All');
    const { position } = await client.appendToStream(stream, events(5));
    const positions = async (options) => (await collect(client.readAll(options))).map(({ event: e }) => e.position.commit);
    const all = await positions({});
    assert.deepEqual(all, [...all].sort((a, b) => (a < b ? -1 : 1)));
    assert.equal(all.at(-1), position.commit);
    assert.deepEqual(await positions({ direction: K.BACKWARDS, fromPosition: K.END }), [...all].reverse());
    assert.deepEqual(await positions({ fromPosition: position }), [position.commit]);
    assert.deepEqual(await positions({ direction: K.BACKWARDS, fromPosition: position, maxCount: 2 }), all.slice(-3, -1).reverse());
    assert.deepEqual(await positions({ maxCount: 3 }), all.slice(0, 3));
  });

  // version 6 filters subscriptions only
  if (client_name === 'kurrentdb') on('reads $all with filters', async () => {
    const a = fresh('FilterA');
    const b = fresh('FilterB');
    const { position } = await client.appendToStream(a, [event(0, 'first-type'), event(1, 'second-type')]);
    await client.appendToStream(b, [event(2, 'first-type'), event(3, '$system-type')]);
    const read = async (filter) => (await collect(client.readAll({ fromPosition: { ...position, commit: position.commit - 1n, prepare: position.prepare - 1n }, filter })))
      .map(({ event: e }) => e.data.n);
    assert.deepEqual(await read(K.streamNameFilter({ prefixes: ['FilterA', 'None'] })), [0, 1]);
    assert.deepEqual(await read(K.streamNameFilter({ regex: '^Filter[BC]' })), [2, 3]);
    assert.deepEqual(await read(K.eventTypeFilter({ prefixes: ['first'] })), [0, 2]);
    assert.deepEqual(await read(K.eventTypeFilter({ regex: 'd-type$' })), [1]);
    assert.deepEqual(await read(K.excludeSystemEvents()), [0, 1, 2]);
    assert.notEqual(await failure(read(K.eventTypeFilter({ regex: '(' }))), undefined);
  });

  on('$ce- and $et- with and without their links resolved', async () => {
    const category = `Cat${F.scheme}`;
    const stream = fresh(category);
    const type = `Type${F.scheme}`;
    await client.appendToStream(stream, events(4, type));
    for (const name of [`$ce-${category}`, `$et-${type}`]) {
      const links = await collect(client.readStream(name));
      assert.equal(links.length, 4);
      assert.equal(links[0].event.type, '$>');
      assert.equal(Buffer.from(links[1].event.data).toString(), `1@${stream}`);
      const resolved = await collect(client.readStream(name, { resolveLinkTos: true, fromRevision: links[2].event.revision }));
      assert.deepEqual(resolved.map(({ event: e }) => e.data.n), [2, 3]);
      assert.equal(resolved[0].link.id, links[2].event.id);
      const last = await collect(client.readStream(name, { resolveLinkTos: true, direction: K.BACKWARDS, fromRevision: K.END, maxCount: 1 }));
      assert.equal(last[0].event.data.n, 3);
    }
    assert.equal((await failure(collect(client.readStream('$ce-NobodyAtAll')))).type, 'stream-not-found');
  });

  on('reads the category of streams that begin with a dash', async () => {
    const stream = `-${fresh('Dash')}`;
    await client.appendToStream(stream, events(2));
    const read = await collect(client.readStream('$ce-', { resolveLinkTos: true }));
    assert.deepEqual(read.filter(({ event: e }) => e.streamId === stream).map(({ event: e }) => e.data.n), [0, 1]);
    assert.ok(read.every(({ event: e, link }) => e.streamId.startsWith('-') && link.streamId === '$ce-'));
  });

  on('subscribes to a stream from the start, a revision, the end', async () => {
    const stream = fresh('Sub');
    await client.appendToStream(stream, events(10));
    const fromStart = client.subscribeToStream(stream);
    const fromMiddle = client.subscribeToStream(stream, { fromRevision: 6n });
    const fromEnd = client.subscribeToStream(stream, { fromRevision: K.END });
    const got = [fromStart, fromMiddle, fromEnd].map(gather);
    await until('subscriptions are live', () => got.every((g) => g.caughtUp === 1 && g.confirmed));
    await client.appendToStream(stream, events(3));
    await got[0].count(13);
    await got[1].count(6);
    await got[2].count(3);
    assert.deepEqual(revisions(got[0].events), [...Array(13).keys()]);
    assert.deepEqual(revisions(got[1].events), [7, 8, 9, 10, 11, 12]);
    assert.deepEqual(revisions(got[2].events), [10, 11, 12]);
    await Promise.all([fromStart, fromMiddle, fromEnd].map((s) => s.unsubscribe()));
  });

  on('subscribes to a stream that does not exist yet', async () => {
    const stream = fresh('Later');
    const subscription = client.subscribeToStream(stream);
    const got = gather(subscription);
    await until('live', () => got.caughtUp);
    await client.appendToStream(stream, event(1));
    await got.count(1);
    await subscription.unsubscribe();
  });

  on('subscribes to $all, with a filter and checkpoints', async () => {
    const checkpoints = [];
    const { position } = await client.appendToStream(fresh('Before'), event(0));
    const prefix = `Watched${F.scheme}`;
    const filtered = client.subscribeToAll({
      fromPosition: position,
      filter: K.streamNameFilter({
        prefixes: [prefix], maxSearchWindow: 10, checkpointInterval: 1,
        checkpointReached: (_, p) => { checkpoints.push(p.commit); },
      }),
    });
    const everything = client.subscribeToAll({ fromPosition: position });
    const got = [filtered, everything].map(gather);
    await until('live', () => got.every((g) => g.caughtUp));
    for (let i = 0; i < 5; i++) await client.appendToStream(fresh('Other'), events(10));
    const last = await client.appendToStream(fresh(prefix), events(2));
    await got[0].count(2);
    await got[1].count(52);
    assert.equal(got[0].events.length, 2);
    assert.ok(got[1].events.every(({ event: e }, i, a) => i === 0 || a[i - 1].event.position.commit < e.position.commit));
    // a filtered checkpoint moves over what does not match
    assert.ok(checkpoints.length >= 5, `${checkpoints.length} checkpoints`);
    assert.ok(checkpoints.some((c) => c > position.commit && c < last.position.commit));
    await Promise.all([filtered, everything].map((s) => s.unsubscribe()));
  });

  on('subscribes to $ce-', async () => {
    const category = `Live${F.scheme}`;
    await client.appendToStream(fresh(category), events(2));
    const subscription = client.subscribeToStream(`$ce-${category}`, { resolveLinkTos: true });
    const got = gather(subscription);
    await until('live', () => got.caughtUp);
    await client.appendToStream(fresh(category), events(2));
    await client.appendToStream(fresh(`${category}Not`), events(2));
    await got.count(4);
    await delay(100);
    assert.deepEqual(got.events.map(({ event: e }) => e.data.n), [0, 1, 0, 1]);
    await subscription.unsubscribe();
  });

  on('metadata of a stream is kept and given back', async () => {
    const stream = fresh('Meta');
    assert.deepEqual(await client.getStreamMetadata(stream), { streamName: stream });
    await client.setStreamMetadata(stream, { maxCount: 3, owner: 'us' });
    const { metadata } = await client.getStreamMetadata(stream);
    assert.equal(metadata.maxCount, 3);
    assert.equal(metadata.owner, 'us');
  });

  on('delete and tombstone are refused with a reason', async () => {
    const stream = fresh('Kept');
    await client.appendToStream(stream, event(1));
    for (const call of [() => client.deleteStream(stream), () => client.tombstoneStream(stream)]) {
      assert.match((await failure(call())).message, /UNIMPLEMENTED.*keeps all events/);
    }
    assert.equal((await collect(client.readStream(stream))).length, 1);
  });

  on('events of 1 MB come through, larger ones are refused', async () => {
    const stream = fresh('Large');
    const text = 'x'.repeat(1000000);
    const bytes = Buffer.alloc(700000, 7);
    await client.appendToStream(stream, [K.jsonEvent({ type: 'L', data: { text } }), K.binaryEvent({ type: 'L', data: bytes })]);
    for (let i = 0; i < 4; i++) await client.appendToStream(stream, K.jsonEvent({ type: 'L', data: { text, i } }));
    const got = (await collect(client.readStream(stream))).map((r) => r.event);
    assert.equal(got.length, 6);
    assert.equal(got[0].data.text, text);
    assert.ok(Buffer.from(got[1].data).equals(bytes));
    const tooLarge = K.jsonEvent({ type: 'L', data: 'x'.repeat(1100000) });
    for (const options of [{}, { credentials: { username: 'x', password: 'y' } }]) {
      const error = await failure(client.appendToStream(stream, tooLarge, options));
      assert.equal(error.type, 'maximum-append-size-exceeded');
      assert.equal(error.maxAppendSize, 1048576);
    }
  });

  on('small events, then large ones, then small ones', async () => {
    const stream = fresh('Mixed');
    const text = 'x'.repeat(300000);
    await client.appendToStream(stream, events(4000));
    for (let i = 0; i < 4; i++) {
      await client.appendToStream(stream, Array.from({ length: 10 }, (_, n) => K.jsonEvent({ type: 'L', data: { n, text } })));
    }
    await client.appendToStream(stream, events(200));
    assert.deepEqual(revisions(await collect(client.readStream(stream))), [...Array(4240).keys()]);
    assert.deepEqual(revisions(await collect(client.readStream(stream, { direction: K.BACKWARDS, fromRevision: K.END }))),
      [...Array(4240).keys()].reverse());
  });

  on('many events in one append', async () => {
    const stream = fresh('Many');
    const result = await client.appendToStream(stream, events(5000), expecting(K.NO_STREAM));
    assert.equal(result.nextExpectedRevision, 4999n);
    assert.deepEqual(revisions(await collect(client.readStream(stream))), [...Array(5000).keys()]);
  });

  on('appends to one stream keep the order in which they were sent', async () => {
    const stream = fresh('Ordered');
    // the first one of a client is sent after the others: it makes the call
    await client.appendToStream(fresh('Ordered'), event(0));
    await Promise.all(Array.from({ length: 200 }, (_, n) => client.appendToStream(stream, event(n))));
    const got = await collect(client.readStream(stream));
    assert.deepEqual(got.map(({ event: e }) => e.data.n), [...Array(200).keys()]);
  });

  on('a deadline ends an append that waits, and nothing else', async () => {
    const stream = `Locked-${F.scheme}`;
    await client.appendToStream(stream, event(0));
    const session = pg.session();
    await session.query(`BEGIN; SELECT es_append('${stream}', es_any(), 'Locking', '{}');`);
    const waiting = failure(client.appendToStream(stream, event(1), { deadline: 300 }));
    const unary = failure(client.appendToStream(stream, event(2), { deadline: 300, credentials: { username: 'x', password: 'y' } }));
    assert.equal((await waiting).type, 'deadline-exceeded');
    assert.equal((await unary).type, 'deadline-exceeded');
    // more than the connections that are open: none of them waits behind the first
    const free = Array.from({ length: 40 }, (_, n) => client.appendToStream(`Free-${F.scheme}${n}`, event(3)));
    assert.ok((await Promise.all(free)).every((result) => result.success));
    await session.query('COMMIT;');
    session.end();
    assert.equal((await client.appendToStream(stream, event(4))).success, true);
  });

  on('a reader that goes away in the middle costs nothing', async () => {
    const stream = fresh('Left');
    await client.appendToStream(stream, events(3000));
    // the newer client gives up its stream when memory is collected, no sooner
    for (let i = 0; i < 4; i++) {
      let n = 0;
      for await (const _ of client.readStream(stream)) if (++n === 5) break;
    }
    assert.equal((await collect(client.readStream(stream))).length, 3000);
  });

  on('keep-alive pings are answered', async () => {
    const pinging = F.connect(gateway.uri('esdb', '&keepAliveInterval=500&keepAliveTimeout=400'));
    const subscription = pinging.subscribeToStream(fresh('Idle'));
    const got = gather(subscription);
    await until('live', () => got.caughtUp);
    await delay(2500);
    assert.equal(got.error, null);
    await subscription.unsubscribe();
    await pinging.dispose();
  });

  on('discovers the node by gossip', async () => {
    const finder = F.connect(`esdb+discover://127.0.0.1:${gateway.port}?tls=false`);
    assert.equal((await finder.appendToStream(fresh('Found'), event(1))).success, true);
    await finder.dispose();
  });

  on('projections of the store by name', async () => {
    const name = `projection_${F.scheme}`;
    pg.psql(`SELECT es_create_projection('${name}', 'project(es_event[])'::regprocedure, ARRAY['NoSuch'],
      reset_handler => 'forget()'::regprocedure)`);
    assert.ok((await client.listProjections()).some((p) => p.name === name));
    assert.equal((await client.getProjectionStatus(name)).projectionStatus, 'Running');
    await client.disableProjection(name);
    assert.equal((await client.getProjectionStatus(name)).projectionStatus, 'Stopped');
    await client.enableProjection(name);
    assert.equal((await client.getProjectionStatus(name)).projectionStatus, 'Running');
    await client.resetProjection(name);
    await client.enableProjection('$by_category');
    assert.equal((await client.getProjectionStatus('$by_event_type')).projectionStatus, 'Running');
    assert.equal((await failure(client.enableProjection('none'))).code, 5);
    assert.match((await failure(client.createProjection('js', 'fromAll()'))).message, /es_create_projection/);
    pg.psql(`SELECT es_drop_projection('${name}')`);
    // what has no reset handler would be applied twice
    pg.psql(`SELECT es_create_projection('${name}', 'project(es_event[])'::regprocedure, ARRAY['NoSuch'])`);
    assert.match((await failure(client.resetProjection(name))).message, /FAILED_PRECONDITION.*reset handler/);
    pg.psql(`SELECT es_drop_projection('${name}')`);
  });

  if (F.has('multiStreamAppend')) {
    on('several streams in one append', async () => {
      const a = fresh('Multi');
      const b = fresh('Multi');
      const one = (n) => K.jsonEvent({ type: 'M', data: { n }, metadata: { key: 'value' } });
      const done = await client.multiStreamAppend([
        { streamName: a, expectedState: K.NO_STREAM, events: [one(0), one(1)] },
        { streamName: b, expectedState: K.ANY, events: [one(2)] },
      ]);
      assert.deepEqual(done.responses, [{ streamName: a, revision: 1n }, { streamName: b, revision: 0n }]);
      const error = await failure(client.multiStreamAppend([
        { streamName: fresh('Multi'), expectedState: K.ANY, events: [one(3)] },
        { streamName: b, expectedState: K.NO_STREAM, events: [one(3)] },
      ]));
      assert.equal(error.type, 'wrong-expected-version');
      assert.equal(error.streamName, b);
      assert.equal(error.actualState, 0n);
      // a name that looks like what the store says of a conflict
      const odd = `${b} expected=5 actual=9`;
      await client.appendToStream(odd, one(3));
      const other = await failure(client.multiStreamAppend([
        { streamName: b, expectedState: K.ANY, events: [one(4)] },
        { streamName: odd, expectedState: K.NO_STREAM, events: [one(4)] },
      ]));
      assert.equal(other.type, 'wrong-expected-version');
      assert.equal(other.streamName, odd);
      assert.equal(other.actualState, 0n);
      const [{ event: first }] = await collect(client.readStream(a));
      assert.deepEqual(first.metadata, { key: 'value', '$schema.name': 'M', '$schema.format': 'Json' });
    });

    on('records of several streams with checks', async () => {
      const a = fresh('Rec');
      const b = fresh('Rec');
      const one = (n) => K.jsonEvent({ type: 'R', data: { n } });
      await client.appendToStream(b, one(0));
      const done = await client.appendRecords([{ streamName: a, record: one(1) }],
        [{ type: 'streamState', streamName: b, expectedState: 0n }]);
      assert.deepEqual(done.responses, [{ streamName: a, revision: 0n }]);
      const error = await failure(client.appendRecords([{ streamName: a, record: one(2) }],
        [{ type: 'streamState', streamName: b, expectedState: K.NO_STREAM }]));
      assert.equal(error.type, 'append-consistency-violation');
      assert.equal((await collect(client.readStream(a))).length, 1);
    });
  }

  run(async () => {
    await pg.start();
    pg.psql('CREATE EXTENSION event_store');
    pg.psql(`CREATE FUNCTION project(es_event[]) RETURNS void LANGUAGE sql AS '';
      CREATE FUNCTION forget() RETURNS void LANGUAGE sql AS '';
      CREATE FUNCTION today(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data || '{"today": true}' $$;
      ALTER DATABASE postgres SET event_store.upcast = off`);
    await gateway.start();
    client = F.connect(gateway.uri());
  }, () => client.dispose());
};
