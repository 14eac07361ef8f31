import assert from "node:assert/strict";
import {test} from "node:test";

import {EventReader} from "../../src/faststate/client/sse.js";

const STREAM = [
  ": a comment\n\n",
  "event: datastar-patch-signals\ndata: signals {\"a\": \"ä€\"}\n\n",
  "event:tight\ndata:one\ndata: two\nid: e.7\n\n",
  "data: without a type\r\n\r\n",
  "id: e.8\n\n",
  "event: odd\rdata: old line ends\r\r",
].join("");

const EVENTS = [
  {event: "datastar-patch-signals", data: 'signals {"a": "ä€"}'},
  {event: "tight", data: "one\ntwo"},
  {event: "", data: "without a type"},
  {event: "odd", data: "old line ends"},
];

/** @param {Uint8Array[]} chunks */
function read(chunks) {
  const found = [];
  const reader = new EventReader((event) => found.push(event));
  for (const chunk of chunks) reader.push(chunk);
  return {found, lastId: reader.lastId};
}

test("a stream is read the same wherever it is cut", () => {
  const bytes = new TextEncoder().encode(STREAM + "\n"); // what follows tells that the last "\r" was a line end
  for (let at = 0; at <= bytes.length; at++) {
    const {found, lastId} = read([bytes.subarray(0, at), bytes.subarray(at)]);
    assert.deepEqual(found, EVENTS);
    assert.equal(lastId, "e.8");
  }
  assert.deepEqual(read([...bytes].map((byte) => Uint8Array.of(byte))).found, EVENTS);
});

test("an id counts when its event is whole", () => {
  const {lastId} = read([new TextEncoder().encode("id: e.1\n\ndata: x\nid: e.2\n")]);
  assert.equal(lastId, "e.1");
});

test("what is cut off is not an event", () => {
  const {found} = read([new TextEncoder().encode("event: a\ndata: half")]);
  assert.deepEqual(found, []);
});
