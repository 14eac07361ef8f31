import assert from "node:assert/strict";
import {test} from "node:test";

import {FIRST_WAIT, GIVE_UP, HOLDS, LONGEST_WAIT, MOST, Queue} from "../../src/faststate/client/queue.js";
import {FakeClock, settled} from "./fake_clock.js";

/** A page with a clock and a server of its own; each request that the queue makes is in `asked`. */
class FakePage extends FakeClock {
  asked = [];
  taken = [];
  outcomes = {};
  lates = [];
  #made = 0;

  constructor() {
    super(1_000);
    this.queue = new Queue(this);
  }

  post(events, leaving) {
    return new Promise((answer, fail) => {
      const names = events.map(({event}) => event.nonce);
      this.asked.push({names, ages: events.map(({age}) => age), leaving, answer, fail, at: this.time});
    });
  }
  random() {
    return 1;
  }

  /** Click something of a state; without a name, the clicks are called 1, 2, 3. */
  click(lane = "Counter/", name = String(++this.#made)) {
    this.queue.add({
      nonce: name,
      lane,
      take: ({event, data}) => this.taken.push([name, event, data]),
      done: (outcome) => {
        assert.ok(!(name in this.outcomes), `${name} is done twice`);
        this.outcomes[name] = outcome.status;
        if (outcome.told) this.told = [...(this.told ?? []), name];
      },
      late: () => this.lates.push(name),
    });
  }

  /** The nonces of each request so far. */
  get sent() {
    return this.asked.map(({names}) => names.join());
  }

  async answer(request, response) {
    this.asked[request].answer(response);
    await settled();
  }

  async lose(request) {
    this.asked[request].fail(new TypeError("Failed to fetch"));
    await settled();
  }
}

const done = (status = 204, headers = {}) => new Response(null, {status, headers});
const frame = (data) => `event: datastar-patch-signals\ndata: ${data}\n\n`;
const finished = (k, status = 204, more = {}) =>
  `event: faststate-done\ndata: ${JSON.stringify({k, status, ...more})}\n\n`;
const sse = (text, headers = {}) =>
  new Response(text, {headers: {"content-type": "text/event-stream; charset=utf-8", ...headers}});

test("a single event waits for nothing", () => {
  const page = new FakePage();
  page.click();
  assert.deepEqual(page.sent, ["1"]);
  assert.deepEqual([page.asked[0].ages, page.asked[0].leaving], [[0], false]);
});

test("an event that is sent for the first time has no age, however slow the machine", () => {
  const page = new FakePage();
  page.now = () => (page.time += 7);
  page.click();
  assert.deepEqual(page.asked[0].ages, [0]);
});

test("what is done meanwhile waits, and goes in its order when the answer is there", async () => {
  const page = new FakePage();
  for (let i = 0; i < 4; i++) page.click();
  assert.deepEqual(page.sent, ["1"]);
  await page.answer(0, done());
  assert.deepEqual(page.sent, ["1", "2,3,4"]);
  page.click();
  await page.answer(1, sse(finished("2") + frame("a") + finished("3", 409) + finished("4")));
  assert.deepEqual(page.sent, ["1", "2,3,4", "5"]);
  assert.deepEqual(page.outcomes, {1: 204, 2: 204, 3: 409, 4: 204});
  assert.deepEqual(page.taken, [["3", "datastar-patch-signals", "a"]]);
  assert.deepEqual(page.told, ["3"]);
});

test("an idle page keeps nothing", async () => {
  const page = new FakePage();
  page.click();
  page.click();
  await page.answer(0, done());
  await page.answer(1, done());
  assert.equal(page.timers.size, 0);
  page.click();
  assert.deepEqual(page.sent, ["1", "2", "3"]);
});

test("states do not wait for each other", async () => {
  const page = new FakePage();
  page.click("A/");
  page.click("B/");
  page.click("A/1");
  page.click("A/");
  assert.deepEqual(page.sent, ["1", "2", "3"]);
  await page.answer(1, done());
  assert.equal(page.asked.length, 3);
  await page.answer(0, done());
  assert.deepEqual(page.sent, ["1", "2", "3", "4"]);
});

test("a slow event holds up the next ones for two seconds", async () => {
  const page = new FakePage();
  page.click();
  page.click();
  page.click();
  await page.pass(HOLDS - 1);
  assert.equal(page.asked.length, 1);
  await page.pass(1);
  assert.deepEqual(page.sent, ["1", "2,3"]);
  page.click();
  await page.answer(0, done()); // the slow one: what waits has its turn behind the newest request
  assert.equal(page.asked.length, 2);
  await page.answer(1, sse(finished("2") + finished("3")));
  assert.deepEqual(page.sent, ["1", "2,3", "4"]);
});

test("a page that waits in silence for a slow event sends the next one at once", async () => {
  const page = new FakePage();
  page.click();
  await page.pass(HOLDS);
  page.click();
  assert.deepEqual(page.sent, ["1", "2"]);
  await page.answer(1, done());
  await page.answer(0, done());
  assert.deepEqual(page.outcomes, {1: 204, 2: 204});
});

test("no request brings more events than a server takes", async () => {
  const page = new FakePage();
  for (let i = 0; i < MOST + 3; i++) page.click();
  await page.answer(0, done());
  assert.equal(page.asked[1].names.length, MOST);
  await page.answer(1, sse(page.asked[1].names.map((name) => finished(name)).join("")));
  assert.deepEqual(page.sent[2], `${MOST + 2},${MOST + 3}`);
});

test("the answer to one event goes to it", async () => {
  const page = new FakePage();
  page.click();
  await page.answer(0, sse(frame("a") + frame("b"), {"faststate-status": "409"}));
  assert.deepEqual(page.taken.map(([name, , data]) => name + data), ["1a", "1b"]);
  assert.deepEqual([page.outcomes, page.told], [{1: 409}, ["1"]]);
  page.click();
  await page.answer(1, sse(frame("c")));
  assert.equal(page.outcomes[2], 204);
  page.click();
  await page.answer(2, done(403));
  assert.equal(page.outcomes[3], 403);
  assert.ok(!page.told.includes("3"), "nobody has said why");
});

test("a lost answer is asked for again, with longer waits, before what waits", async () => {
  const page = new FakePage();
  page.click();
  await page.pass(500);
  page.click();
  await page.lose(0);
  page.click();
  await page.pass(FIRST_WAIT - 1);
  assert.equal(page.asked.length, 1);
  await page.pass(1);
  assert.deepEqual(page.sent, ["1", "1,2,3"]);
  assert.deepEqual(page.asked[1].ages, [1_500, 0, 0]);
  await page.lose(1);
  assert.deepEqual(page.lates, ["1"]);
  await page.pass(2 * FIRST_WAIT);
  assert.deepEqual(page.sent, ["1", "1,2,3", "1,2,3"]);
  await page.answer(2, sse(finished("1") + finished("2") + finished("3")));
  assert.deepEqual(page.outcomes, {1: 204, 2: 204, 3: 204});
  assert.deepEqual([page.lates, page.timers.size], [["1"], 0]);
});

test("a part of an answer counts, and the rest is asked for again", async () => {
  const page = new FakePage();
  for (let i = 0; i < 4; i++) page.click();
  await page.answer(0, done());
  const parts = [finished("2") + frame("a") + frame("b").slice(0, 9)];
  const cut = new ReadableStream({
    pull(controller) {
      const part = parts.pop();
      if (part) controller.enqueue(new TextEncoder().encode(part));
      else controller.error(new TypeError("network error"));
    },
  });
  await page.answer(1, sse(cut));
  page.click();
  await page.pass(FIRST_WAIT);
  assert.deepEqual(page.sent.at(-1), "3,4,5");
  assert.deepEqual([page.outcomes, page.taken], [{1: 204, 2: 204}, []]);
});

for (const [what, response] of Object.entries({
  "a proxy without a server": () => done(502),
  "a busy server": () => sse(frame("busy"), {"faststate-status": "503", "retry-after": "1"}),
  "a body that took too long": () => done(408),
})) {
  test(`${what} has not run the event, which is sent again`, async () => {
    const page = new FakePage();
    page.click();
    await page.answer(0, response());
    await page.pass(FIRST_WAIT);
    assert.deepEqual(page.sent, ["1", "1"]);
    await page.answer(1, done());
    assert.deepEqual([page.outcomes, page.taken], [{1: 204}, []]);
  });
}

test("a page in place of the answer is told, and the event is not sent again", async () => {
  const page = new FakePage();
  page.click();
  await page.answer(0, new Response("<h1>Sign in</h1>", {headers: {"content-type": "text/html"}}));
  await page.pass(60_000);
  assert.deepEqual([page.sent, page.outcomes], [["1"], {1: 200}]);
});

test("one event of several that was not run is sent again, after what the server says", async () => {
  const page = new FakePage();
  for (let i = 0; i < 3; i++) page.click();
  await page.answer(0, done());
  await page.answer(1, sse(frame("a") + finished("2", 503, {after: 5}) + frame("b") + finished("3")));
  assert.deepEqual(page.taken, [["3", "datastar-patch-signals", "b"]]);
  await page.pass(4_999);
  assert.equal(page.asked.length, 2);
  await page.pass(1);
  assert.deepEqual(page.sent, ["1", "2,3", "2"]);
});

test("an event that was refused or has run is not sent again", async () => {
  const page = new FakePage();
  for (const [request, status] of [400, 403, 404, 409, 429, 500].entries()) {
    page.click();
    await page.answer(request, request % 2 ? done(status) : sse(frame("no"), {"faststate-status": String(status)}));
  }
  page.click();
  await page.answer(6, sse(frame("took too long"), {"faststate-status": "503"}));
  await page.pass(GIVE_UP);
  assert.equal(page.asked.length, 7);
  assert.deepEqual(Object.values(page.outcomes), [400, 403, 404, 409, 429, 500, 503]);
});

test("waits grow up to a limit, and the event is given up before the server forgets its nonce", async () => {
  const page = new FakePage();
  page.click();
  while (!("1" in page.outcomes)) {
    const attempts = page.asked.length;
    await page.lose(attempts - 1);
    for (let s = 0; s < LONGEST_WAIT && page.asked.length === attempts; s += 500) await page.pass(500);
  }
  const waits = page.asked.slice(1).map(({at}, i) => at - page.asked[i].at);
  assert.deepEqual(waits.slice(0, 6), [1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
  assert.equal(page.outcomes[1], 0);
  assert.ok(page.asked.at(-1).at - 1_000 <= GIVE_UP);
  page.click();
  assert.equal(page.sent.at(-1), "2");
});

test("a server that is back is asked at once", async () => {
  const page = new FakePage();
  page.click();
  await page.lose(0);
  page.click();
  page.queue.wake();
  assert.deepEqual(page.sent, ["1", "1,2"]);
  page.queue.wake();
  assert.equal(page.asked.length, 2);
  await page.pass(FIRST_WAIT);
  assert.equal(page.asked.length, 2);
});

test("a refusal of all of them is told once, and none of them is sent again", async () => {
  const page = new FakePage();
  for (let i = 0; i < 3; i++) page.click();
  await page.answer(0, done());
  await page.answer(1, sse(frame("go"), {"faststate-status": "303"}));
  assert.deepEqual(page.outcomes, {1: 204, 2: 303, 3: 303});
  assert.deepEqual(page.taken, [["2", "datastar-patch-signals", "go"]]);
  assert.deepEqual(page.told, ["2", "3"]);
});

for (const [what, tooLarge] of Object.entries({
  "a server": () => sse(frame("too large"), {"faststate-status": "413"}),
  "a proxy": () => done(413),
})) {
  test(`what is too large for ${what} together goes in parts`, async () => {
    const page = new FakePage();
    for (let i = 0; i < 5; i++) page.click();
    await page.answer(0, done());
    await page.answer(1, tooLarge());
    assert.deepEqual([page.sent[2], page.taken], ["2,3", []]);
    await page.answer(2, tooLarge());
    assert.equal(page.sent[3], "2");
    await page.answer(3, tooLarge());
    assert.equal(page.outcomes[2], 413);
    assert.equal(page.sent[4], "3");
    await page.answer(4, done());
    assert.equal(page.sent[5], "4");
  });
}

test("too large is said by what waited while the next request was under way already", async () => {
  const page = new FakePage();
  for (let i = 0; i < 3; i++) page.click();
  await page.answer(0, done());
  await page.pass(HOLDS);
  await page.answer(1, done(413));
  assert.deepEqual(page.sent, ["1", "2,3", "2"]);
});

test("when the page is left, what waits goes, and what may not have arrived goes again", async () => {
  const page = new FakePage();
  page.click("A/");
  page.click("B/");
  page.click("A/");
  page.queue.leave();
  assert.deepEqual([page.sent.at(-1), page.asked.at(-1).leaving], ["1,2,3", true]);
  await page.answer(2, sse(finished("1") + finished("2") + finished("3")));
  await page.lose(0); // its page was gone
  await page.answer(1, done());
  await page.pass(GIVE_UP);
  assert.equal(page.asked.length, 3);
  assert.deepEqual(page.outcomes, {1: 204, 2: 204, 3: 204});
});

test("a page that is left does not send again what has been under way for long", async () => {
  const page = new FakePage();
  page.click();
  await page.pass(HOLDS);
  page.click();
  page.queue.leave();
  assert.deepEqual(page.sent, ["1", "2", "2"]);
});

test("a page that comes back asks again for what was lost when it was left", async () => {
  const page = new FakePage();
  page.click();
  page.queue.leave();
  await page.lose(0);
  assert.equal(page.timers.size, 1, "the other request may still bring the answer");
  await page.lose(1);
  await page.pass(FIRST_WAIT);
  assert.deepEqual(page.sent, ["1", "1", "1"]);
});

test("a page that lost its server sends when it is left, without waiting", async () => {
  const page = new FakePage();
  page.click();
  await page.lose(0);
  page.click();
  page.queue.leave();
  assert.deepEqual(page.sent, ["1", "1,2"]);
  page.queue.leave();
  await page.answer(1, sse(finished("1") + finished("2")));
  assert.equal(page.asked.length, 3);
});

test("what a page does with an answer may fail, and the next event is sent all the same", async (t) => {
  const said = t.mock.method(console, "error", () => {});
  const page = new FakePage();
  page.queue.add({
    nonce: "broken",
    lane: "Counter/",
    take: () => assert.fail("a patch"),
    done: () => assert.fail("an outcome"),
    late: () => {},
  });
  page.click();
  await page.answer(0, sse(frame("a")));
  assert.deepEqual(page.sent, ["broken", "1"]);
  assert.equal(said.mock.callCount(), 2);
});
