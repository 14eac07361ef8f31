import assert from "node:assert/strict";
import {test} from "node:test";

import {Batches} from "../../src/faststate/client/batches.js";

/** Signals that run their effects as Datastar's do: at the end of the outermost batch, in order, up to one that throws. */
class Signals {
  depth = 0;
  waiting = [];
  running = null;
  #before = null;

  beginBatch = () => void this.depth++;
  endBatch = () => {
    if (!--this.depth) this.#flush();
  };
  signal = (value) => {
    const followers = new Set();
    return (...given) => {
      if (!given.length) {
        if (this.running) followers.add(this.running);
        return value;
      }
      [value] = given;
      for (const run of followers) if (!this.waiting.includes(run)) this.waiting.push(run);
      if (!this.depth) this.#flush();
    };
  };
  effect = (run) => {
    const effect = () => {
      this.running = effect;
      try {
        run();
      } finally {
        this.running = null;
      }
    };
    effect();
    if (!this.depth) this.#flush();
    return () => {
      this.waiting = this.waiting.filter((waiting) => waiting !== effect);
    };
  };
  startPeeking = () => {
    this.#before = this.running;
    this.running = null;
  };
  stopPeeking = () => {
    this.running = this.#before;
    this.#before = null;
  };
  #flush() {
    while (this.waiting.length) this.waiting.shift()();
  }
}

function page(broken = []) {
  const reported = [];
  globalThis.reportError = (error) => reported.push(error.message);
  const signals = new Signals();
  const count = signals.signal(0);
  const shown = [];
  for (const name of ["a", "b", "c", "d"]) {
    signals.effect(() => {
      const value = count();
      if (value && broken.includes(name)) throw new Error(name);
      shown.push(`${name}${value}`);
    });
  }
  const batches = new Batches(signals);
  shown.length = 0;
  return {signals, count, shown, batches, reported};
}

test("where nothing has happened, nothing does", () => {
  const {signals, batches, shown} = page();
  batches.settle();
  batches.settle();
  assert.equal(signals.depth, 0);
  assert.deepEqual(shown, []);
});

test("batches that were left open are ended, and what they held back runs", () => {
  const {signals, count, batches, shown} = page();
  for (let i = 0; i < 3; i++) signals.beginBatch();
  count(1);
  assert.deepEqual(shown, []);
  batches.settle();
  assert.equal(signals.depth, 0);
  assert.deepEqual(shown, ["a1", "b1", "c1", "d1"]);
  count(2);
  assert.equal(shown.at(-1), "d2");
});

test("effects behind one that throws run, and each error is reported", () => {
  const {count, batches, shown, reported} = page(["a", "c"]);
  assert.throws(() => count(1), {message: "a"});
  assert.deepEqual(shown, []);
  batches.settle();
  assert.deepEqual(shown, ["b1", "d1"]);
  assert.deepEqual(reported, ["c"]);
});

test("an effect that was left running does not follow what is read later", () => {
  const {signals, batches} = page();
  signals.running = () => {};
  batches.settle();
  assert.equal(signals.running, null);
});

test("a batch that was left open is ended although effects in it throw", () => {
  const {signals, count, batches, shown, reported} = page(["a", "b"]);
  signals.beginBatch();
  count(1);
  batches.settle();
  assert.equal(signals.depth, 0);
  assert.deepEqual(shown, ["c1", "d1"]);
  assert.deepEqual(reported, ["a", "b"]);
});
