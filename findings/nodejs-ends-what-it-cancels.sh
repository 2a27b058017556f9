#!/usr/bin/env bash
#
# nodejs-ends-what-it-cancels.sh
#	  Node.js ends an HTTP/2 stream before it resets it: who cancels a request
#	  in the middle of its body tells the server first that the body was whole.
#
# http2stream.close(NGHTTP2_CANCEL) is documented to send RST_STREAM.  With a
# writable side that is still open it sends an empty DATA frame with END_STREAM
# before that.  gRPC for Node.js (@grpc/grpc-js) cancels and ends calls at their
# deadline so: a server that streams a request in sees the end of the messages,
# and nothing tells it from the end that the client would have sent.
#
# Seen with Node.js 20, and compared below; exits 1 when it has changed.

set -euo pipefail

got=$(node - <<'END'
const http2 = require('node:http2');
const net = require('node:net');
const names = { 0: 'DATA', 1: 'HEADERS', 3: 'RST_STREAM' };

// prints the frames of stream 1
const server = net.createServer((socket) => {
  let rest = Buffer.alloc(0);
  let preface = 24;
  socket.on('error', () => {});
  socket.on('data', (data) => {
    rest = Buffer.concat([rest, data]);
    if (preface > 0 && rest.length >= preface) {
      rest = rest.subarray(preface);
      preface = 0;
      socket.write(Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]));
    }
    while (preface === 0 && rest.length >= 9 && rest.length >= 9 + rest.readUIntBE(0, 3)) {
      const length = rest.readUIntBE(0, 3);
      const [type, flags, stream] = [rest[3], rest[4], rest.readUInt32BE(5)];
      if (stream === 1 && type in names) {
        console.log(names[type], type === 1 ? '' : `length ${length}`, type === 0 && flags & 1 ? 'END_STREAM' : '');
      }
      if (type === 3) process.exit(0);
      rest = rest.subarray(9 + length);
    }
  });
});
server.listen(0, '127.0.0.1', () => {
  const session = http2.connect(`http://127.0.0.1:${server.address().port}`);
  session.on('error', () => {});
  const request = session.request({ ':method': 'POST', ':path': '/' });
  request.on('error', () => {});
  request.write('part', () => request.close(http2.constants.NGHTTP2_CANCEL));
});
setTimeout(() => process.exit(1), 10000);
END
)
printf '%s\n' "$got"
want='HEADERS
DATA length 4
DATA length 0 END_STREAM
RST_STREAM length 4'
[ "$(sed 's/ *$//; s/  */ /g' <<<"$got")" = "$want" ] || { echo "this has changed"; exit 1; }
