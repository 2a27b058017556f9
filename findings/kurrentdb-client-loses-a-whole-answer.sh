#!/usr/bin/env bash
#
# kurrentdb-client-loses-a-whole-answer.sh
#	  @kurrent/kurrentdb-client 1.3.1 reads all events and a status of OK, and
#	  says UnavailableError, when the server resets the stream behind its answer.
#
# A server that has answered before the client has ended its request may reset
# the stream with NO_ERROR (RFC 9113, 8.1); gRPC's C core does.  The client's
# reads are in Rust (@kurrent/bridge 0.2.2, h2 0.4.8): its h2 forgets with the
# reset that the answer had ended, and the bridge asks once more behind the end.
# h2 0.4.16 has "Fix resets received after END_OF_STREAM".
#
# The server below lets the client send its request but not the end of it, by
# flow control; in real life it takes a machine with much to do.
#
# Seen with Node.js 20, and compared below; exits 1 when it has changed.  Needs
# npm and node.

set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --no-audit --no-fund --silent @kurrent/kurrentdb-client@1.3.1

cat >try.js <<'END'
const net = require('node:net');
const K = require('@kurrent/kurrentdb-client');
const { ReadResp } = require('@kurrent/kurrentdb-client/generated/kurrentdb/protocols/v1/streams_pb');
const { Empty, StreamIdentifier, UUID } = require('@kurrent/kurrentdb-client/generated/kurrentdb/protocols/v1/shared_pb');

const DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, END_STREAM = 1, END_HEADERS = 4, ACK = 1;
const frame = (type, flags, id, payload = Buffer.alloc(0)) => {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(id, 5);
  return Buffer.concat([head, payload]);
};
const headers = (fields) => Buffer.concat(Object.entries(fields).map(([name, value]) =>
  Buffer.concat([Buffer.from([0x10, name.length]), Buffer.from(name), Buffer.from([value.length]), Buffer.from(value)])));
const opening = { ':status': '200', 'content-type': 'application/grpc' };

function event() {
  const recorded = new ReadResp.ReadEvent.RecordedEvent();
  const id = new UUID();
  id.setString('11111111-2222-4333-8444-555555555555');
  recorded.setId(id);
  const name = new StreamIdentifier();
  name.setStreamName(Buffer.from('Order-1').toString('base64'));
  recorded.setStreamIdentifier(name);
  for (const [key, value] of [['type', 'OrderPlaced'], ['content-type', 'application/json'], ['created', '17000000000000000']]) {
    recorded.getMetadataMap().set(key, value);
  }
  recorded.setData(Buffer.from('{}'));
  const read = new ReadResp.ReadEvent();
  read.setEvent(recorded);
  read.setNoPosition(new Empty());
  const response = new ReadResp();
  response.setEvent(read);
  const message = Buffer.from(response.serializeBinary());
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  return Buffer.concat([head, message]);
}

let length = 0;
function serve(window) {
  return net.createServer((socket) => {
    let rest = Buffer.alloc(0);
    let preface = 24;
    const size = Buffer.from([0, 4, 0, 0, 0, 0]);
    size.writeUInt32BE(window, 2);
    socket.on('error', () => {});
    socket.write(frame(SETTINGS, 0, 0, size));
    const answer = (id) => {
      if (id === 1) {
        // the features of the server: it says that it does not know them
        socket.write(frame(HEADERS, END_HEADERS | END_STREAM, id, headers({ ...opening, 'grpc-status': '12' })));
        return;
      }
      socket.write(Buffer.concat([
        frame(HEADERS, END_HEADERS, id, headers(opening)), frame(DATA, 0, id, event()),
        frame(HEADERS, END_HEADERS | END_STREAM, id, headers({ 'grpc-status': '0' })),
        ...(window < 65535 ? [frame(RST_STREAM, 0, id, Buffer.alloc(4))] : [])]));
    };
    socket.on('data', (data) => {
      rest = Buffer.concat([rest, data]);
      if (preface > 0 && rest.length >= preface) {
        rest = rest.subarray(preface);
        preface = 0;
      }
      while (preface === 0 && rest.length >= 9 && rest.length >= 9 + rest.readUIntBE(0, 3)) {
        const [size, type, flags, id] = [rest.readUIntBE(0, 3), rest[3], rest[4], rest.readUInt32BE(5)];
        if (type === SETTINGS && !(flags & ACK)) socket.write(frame(SETTINGS, ACK, 0));
        if (type === PING && !(flags & ACK)) socket.write(frame(PING, ACK, 0, rest.subarray(9, 17)));
        if (type === DATA && id > 1 && size > 0) length = size;
        if (type === DATA && (id > 1 && window < 65535 ? size > 0 : flags & END_STREAM)) answer(id);
        rest = rest.subarray(9 + size);
      }
    });
  });
}

async function read(window) {
  const server = serve(window);
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  const client = K.KurrentDBClient.connectionString(`kurrentdb://127.0.0.1:${server.address().port}?tls=false`);
  const got = [];
  try {
    for await (const { event: e } of client.readStream('Order-1')) {
      got.push(e.type);
      await new Promise((resolve) => { setTimeout(resolve, 200); });
    }
    got.push('end');
  } catch (error) {
    got.push(error.message);
  }
  return got.join(', ');
}

(async () => {
  console.log(`answered when the request has ended: ${await read(65535)}`);
  console.log(`answered before, and reset: ${await read(length)}`);
  process.exit(0);
})();
END
timeout 60 node try.js >seen

cat >expected <<'END'
answered when the request has ended: OrderPlaced, end
answered before, and reset: OrderPlaced, UnavailableError
END
cat seen
diff expected seen
