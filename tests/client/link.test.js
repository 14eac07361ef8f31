import assert from "node:assert/strict";
import {test} from "node:test";

import {
  BETWEEN, FIRST_WAIT, HIDDEN_FOR, Link, LONGEST_WAIT, OPENING, OPENING_AGAIN, OTHERS,
} from "../../src/faststate/client/link.js";
import {FakeBrowser, HEARTBEAT} from "./fake_browser.js";
import {settled} from "./fake_clock.js";

function linked() {
  const browser = new FakeBrowser();
  return {browser, link: new Link(browser)};
}

async function live() {
  const {browser, link} = linked();
  link.follow();
  return {browser, link, stream: await browser.begin()};
}

test("a page is live when its stream has been heard", async () => {
  const {browser, link} = linked();
  link.follow();
  assert.equal(link.state, "connecting");
  const stream = await browser.begin();
  assert.equal(link.state, "live");
  await stream.write("event: a\ndata: 1\nid: e.1\n\n");
  assert.deepEqual(browser.taken, [{event: "a", data: "1"}]);
});

test("a stream that ends is asked for again, where it stood, after a random wait", async () => {
  const {browser, link, stream} = await live();
  await stream.write("data: 1\nid: e.1\n\n");
  await stream.end();
  assert.equal(link.state, "waiting");
  await browser.pass(FIRST_WAIT);
  assert.deepEqual(browser.asked.map((asked) => asked.lastId), ["", "e.1"]);
  assert.equal(browser.asked[1].at, FIRST_WAIT * 0.55);
});

test("a hundred pages come back spread over more than two seconds", async () => {
  const times = [];
  for (let page = 0; page < 100; page++) {
    const {browser, stream} = await live();
    browser.chance = page / 100;
    await stream.end();
    await browser.pass(FIRST_WAIT);
    times.push(browser.asked[1].at);
  }
  assert.ok(Math.max(...times) - Math.min(...times) >= 2_000);
});

test("a server that stays away is asked ever less often, up to a longest wait", async () => {
  const {browser, link} = linked();
  browser.chance = 1;
  link.follow();
  const waits = [];
  for (let attempt = 0; attempt < 8; attempt++) {
    const before = browser.time;
    await browser.fail();
    assert.equal(link.state, "waiting");
    for (const asked = browser.asked.length; browser.asked.length === asked; ) await browser.pass(100);
    waits.push(browser.asked.at(-1).at - before);
  }
  assert.equal(waits[0], FIRST_WAIT);
  assert.equal(waits.at(-1), LONGEST_WAIT);
  assert.deepEqual(waits, [...waits].sort((a, b) => a - b));
});

test("a silent stream is replaced within two heartbeats of its last sign of life", async () => {
  const {browser, link, stream} = await live();
  await browser.pass(1.5 * HEARTBEAT);
  await stream.write(": \n\n");
  await browser.pass(2 * HEARTBEAT - 1);
  assert.equal(browser.asked.length, 1);
  await browser.pass(1);
  assert.equal(browser.asked.length, 2);
  assert.ok(browser.asked[0].signal.aborted);
  assert.equal(link.state, "connecting");
});

test("a server that does not begin the stream is given up", async () => {
  const {browser, link} = linked();
  link.follow();
  await browser.pass(OPENING);
  assert.equal(browser.asked.length, 2);
});

test("a page that is not seen opens no stream before it is shown", async () => {
  const {browser, link} = linked();
  browser.isHidden = true;
  link.follow();
  await browser.pass(60_000);
  assert.equal(browser.asked.length, 0);
  browser.isHidden = false;
  link.wake();
  assert.equal(browser.asked.length, 1);
});

test("a hidden page gives its stream back after a while, and is live at once when it is shown", async () => {
  const {browser, link} = await live();
  browser.isHidden = true;
  link.hide();
  await browser.pass(HIDDEN_FOR - 1);
  assert.equal(link.state, "live");
  await browser.pass(1);
  assert.ok(browser.asked[0].signal.aborted);
  await browser.pass(60_000);
  assert.equal(browser.asked.length, 1);
  browser.isHidden = false;
  link.wake();
  assert.equal(browser.asked.length, 2);
});

test("a page that was hidden for a moment keeps its stream", async () => {
  const {browser, link} = await live();
  link.hide();
  await browser.pass(HIDDEN_FOR - 1);
  link.wake();
  await browser.pass(HIDDEN_FOR);
  assert.equal(browser.asked.length, 1);
  assert.equal(link.state, "live");
});

test("a machine that has slept replaces its stream when the page is seen again", async () => {
  const {browser, link} = await live();
  browser.time += 3_600_000;
  link.wake();
  assert.equal(browser.asked.length, 2);
});

test("a page without a network is offline, and tries at once when it is back", async () => {
  const {browser, link} = await live();
  browser.isOnline = false;
  link.offline();
  assert.equal(link.state, "live"); // the server may be on this machine
  await browser.pass(2 * HEARTBEAT);
  assert.equal(link.state, "connecting");
  await browser.fail();
  assert.equal(link.state, "offline");
  const before = browser.asked.length;
  browser.isOnline = true;
  link.online();
  assert.equal(browser.asked.length, before + 1);
  await browser.begin();
  assert.equal(link.state, "live");
});

test("a page that shows more is followed by a new stream, from its first paint on", async () => {
  const {browser, link, stream} = await live();
  await stream.write("data: 1\nid: e.1\n\n");
  link.follow();
  link.follow();
  assert.equal(browser.asked.length, 1);
  await stream.write("data: 2\nid: e.2\n\n"); // the old stream goes on meanwhile
  await browser.pass(BETWEEN);
  assert.deepEqual(browser.asked.map((asked) => asked.lastId), ["", ""]);
  assert.equal(browser.taken.length, 2);
});

test("what an old stream still says is not taken", async () => {
  const {browser, link, stream} = await live();
  link.follow();
  await browser.pass(BETWEEN);
  await stream.write("data: late\n\n").catch(() => {});
  assert.deepEqual(browser.taken, []);
});

for (const [status, state, again] of [
  [204, "stale", Infinity],
  [401, "stale", 60_000],
  [403, "stale", 60_000],
  [413, "stale", 60_000],
  [429, "waiting", 15_000],
  [404, "waiting", FIRST_WAIT],
  [500, "waiting", FIRST_WAIT],
  [503, "waiting", FIRST_WAIT],
]) {
  test(`a ${status} makes the page ${state}`, async () => {
    const {browser, link} = linked();
    browser.chance = 1;
    link.follow();
    await browser.refuse(status);
    assert.equal(link.state, state);
    await browser.pass(Math.min(again, 600_000) - 1);
    assert.equal(browser.asked.length, 1);
    await browser.pass(1);
    assert.equal(browser.asked.length, again === Infinity ? 1 : 2);
  });
}

test("a server that names a longer wait is given it", async () => {
  const {browser, link} = linked();
  link.follow();
  await browser.refuse(429, {"retry-after": "40"});
  await browser.pass(39_999);
  assert.equal(browser.asked.length, 1);
  await browser.pass(1);
  assert.equal(browser.asked.length, 2);
});

test("a page that was left gives its stream back at once", async () => {
  const {browser, link} = await live();
  link.pause();
  assert.ok(browser.asked[0].signal.aborted);
  assert.equal(link.state, "waiting");
  assert.equal(browser.timers.size, 0);
});

test("a page that is hidden for a moment has a stream after it, whatever happened meanwhile", async () => {
  for (const happens of ["follow", "online"]) {
    const {browser, link} = await live();
    browser.isHidden = true;
    link.hide();
    link[happens]();
    await browser.pass(HIDDEN_FOR - 1);
    browser.isHidden = false;
    link.wake();
    await browser.begin();
    assert.equal(link.state, "live");
    assert.equal(browser.asked.at(-1).signal.aborted, false);
  }
});

test("a page without states says nothing of a link", async () => {
  const {browser, link} = linked();
  link.hide();
  await browser.pass(HIDDEN_FOR);
  link.wake();
  link.pause();
  link.offline();
  link.online();
  assert.deepEqual([browser.states, browser.asked.length], [[], 0]);
  link.follow();
  assert.deepEqual([browser.states, browser.asked.length], [["connecting"], 1]);
});

test("one wake-up, of which the browser tells in several events, is one attempt", async () => {
  const {browser, link} = await live();
  link.pause();
  link.wake();
  await browser.pass(10);
  link.wake();
  assert.equal(browser.asked.length, 2);
});

test("an answer that is another page is no stream", async () => {
  const {browser, link} = linked();
  link.follow();
  const headers = {"content-type": "text/html"};
  browser.asked[0].answer(new Response("\nevent: datastar-patch-signals\ndata: signals {}\n\n", {headers}));
  await settled();
  assert.equal(link.state, "stale");
  assert.ok(!browser.states.includes("live"));
  assert.deepEqual(browser.taken, []);
  await browser.pass(60_000);
  assert.equal(browser.asked.length, 2);
});

test("an answer that only tells the page something is taken, and is no stream", async () => {
  const {browser, link} = linked();
  link.follow();
  browser.asked[0].answer(new Response("event: a\ndata: 1\n\n", {headers: {"content-type": "text/event-stream"}}));
  await settled();
  assert.deepEqual(browser.taken, [{event: "a", data: "1"}]);
  assert.equal(link.state, "stale");
  assert.ok(!browser.states.includes("live"));
  await browser.pass(600_000);
  assert.equal(browser.asked.length, 1);
});

test("streams that end at once are asked for ever less often", async () => {
  const {browser, link} = linked();
  browser.chance = 1;
  link.follow();
  const waits = [];
  for (let i = 0; i < 6; i++) {
    await (await browser.begin()).end();
    const asked = browser.asked.length;
    const before = browser.time;
    while (browser.asked.length === asked) await browser.pass(100);
    waits.push(browser.asked.at(-1).at - before);
  }
  assert.equal(waits[0], FIRST_WAIT);
  assert.equal(waits.at(-1), LONGEST_WAIT);
  const stream = await browser.begin();
  await browser.pass(LONGEST_WAIT);
  await stream.end();
  await browser.pass(FIRST_WAIT);
  assert.equal(browser.asked.length, 8);
});

test("a stream that fell silent is asked for over each other connection soon, and then of a slow server", async () => {
  const {browser} = await live();
  await browser.pass(2 * HEARTBEAT);
  const given = [];
  for (let asked = 2; asked < 11; asked++) {
    assert.equal(browser.asked.length, asked);
    const before = browser.time;
    while (browser.asked.length === asked) await browser.pass(500);
    given.push(browser.time - before);
  }
  assert.deepEqual(given, [...Array(OTHERS).fill(OPENING_AGAIN), OPENING, 2 * OPENING, 3 * OPENING, 3 * OPENING]);
});

test("a wait that is longer than a browser's longest timer is not none", async () => {
  const {browser, link} = linked();
  link.follow();
  await browser.refuse(429, {"retry-after": "31536000"});
  await browser.pass(60_000);
  assert.equal(browser.asked.length, 1);
});
