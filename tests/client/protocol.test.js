/** The page's side of docs/protocol.md, by the cases in tests/protocol; tests/protocol/test_protocol.py is the server's. */

import assert from "node:assert/strict";
import {readFileSync} from "node:fs";
import {test} from "node:test";

import {partsOf} from "../../src/faststate/client/datastar.js";
import {Events} from "../../src/faststate/client/events.js";
import {Fields} from "../../src/faststate/client/fields.js";
import {Link} from "../../src/faststate/client/link.js";
import {EventReader} from "../../src/faststate/client/sse.js";
import {FakeBrowser} from "./fake_browser.js";
import {settled} from "./fake_clock.js";

const cases = (name) => JSON.parse(readFileSync(new URL(`../protocol/${name}.json`, import.meta.url), "utf-8"));

/** What a page is told by these chunks of bytes, and where its stream goes on. */
function read(chunks) {
  const events = [];
  const reader = new EventReader(({event, data}) => {
    events.push([event, event.startsWith("datastar") ? partsOf(data) : JSON.parse(data)]);
  });
  for (const chunk of chunks) reader.push(chunk);
  return {events, id: reader.lastId};
}

for (const {name, text, events, id = ""} of cases("frames").cases) {
  test(`frames, cut anywhere: ${name}`, () => {
    const bytes = new TextEncoder().encode(text);
    for (let at = 0; at <= bytes.length; at++) {
      assert.deepEqual(read([bytes.subarray(0, at), bytes.subarray(at)]), {events, id}, `cut at ${at}`);
    }
    assert.deepEqual(read([...bytes].map((byte) => Uint8Array.of(byte))), {events, id});
  });
}

for (const name of ["Element", "HTMLInputElement", "HTMLSelectElement"]) globalThis[name] = class {};

for (const {name, path, parts, told = {}, signals = {}, body} of cases("events").sent) {
  test(`an event that is sent: ${name}`, async () => {
    globalThis.document = new EventTarget();
    const sent = [];
    globalThis.fetch = async (url, request) => {
      sent.push({url, ...request});
      return new Response(null, {status: 204});
    };
    const root = {...signals, _fs: {u: "/_faststate/", c: "stream-1", w: {p1: "$token"}}};
    const ignore = () => {};
    const getPath = (path) => path.split(".").reduce((inner, key) => inner?.[key], root);
    const datastar = {root, getPath, mergePatch: ignore, startPeeking: ignore, stopPeeking: ignore};
    const fields = new Fields(datastar);
    fields.take({event: "datastar-patch-signals", data: `signals ${JSON.stringify(told)}`}, {});
    await new Events(datastar, fields).send({}, path, parts);
    assert.equal(sent.length, 1);
    const [{url, method, headers, body: text}] = sent;
    assert.deepEqual([url, method], [`/_faststate/event/${path}`, "POST"]);
    assert.deepEqual(JSON.parse(text), body);
    const {"faststate-nonce": nonce, ...others} = headers;
    assert.match(nonce, /^[A-Za-z0-9_-]{8,64}$/);
    assert.deepEqual(others, {
      "content-type": "application/json",
      "datastar-request": "true",
      "faststate-connection": "stream-1",
    });
  });
}

for (const {name, status, headers, state, said, again} of cases("streams").cases) {
  test(`a stream is asked for: ${name} (${status})`, async () => {
    const browser = new FakeBrowser();
    browser.chance = 1;
    const link = new Link(browser);
    link.follow();
    if (status === 200) await browser.begin();
    else await browser.refuse(status, headers);
    assert.equal(link.state, state);
    assert.equal(browser.states.some((shown) => Array.isArray(shown) && shown[1] >= 400), said);
    if (again === null) {
      if (status !== 200) await browser.pass(3_600_000);
      assert.equal(browser.asked.length, 1);
    } else {
      await browser.pass(again - 1);
      assert.equal(browser.asked.length, 1);
      await browser.pass(1);
      assert.equal(browser.asked.length, 2);
    }
  });
}
