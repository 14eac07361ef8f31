/** What the tests of the link have in place of a browser and a server. */

import {FakeClock, settled} from "./fake_clock.js";

export const HEARTBEAT = 10_000;

/** A browser with a clock and a server of its own; each stream that the link asks for is in `asked`. */
export class FakeBrowser extends FakeClock {
  states = [];
  taken = [];
  asked = [];
  isHidden = false;
  isOnline = true;
  chance = 0.5;

  constructor() {
    super(0);
  }

  open(signal, lastId) {
    return new Promise((answer, fail) => {
      signal.addEventListener("abort", () => fail(new Error("aborted")));
      this.asked.push({signal, lastId, answer, fail, at: this.time});
    });
  }
  take(event) {
    this.taken.push(event);
  }
  show(state, status) {
    this.states.push(status ? [state, status] : state);
  }
  random() {
    return this.chance;
  }
  hidden() {
    return this.isHidden;
  }
  online() {
    return this.isOnline;
  }

  /** Answer the newest request by a stream, and return what writes it. */
  async begin() {
    let writer;
    const body = new ReadableStream({start: (controller) => (writer = controller)});
    const {answer, signal} = this.asked.at(-1);
    signal.addEventListener("abort", () => {
      try {
        writer.error(new Error("aborted"));
      } catch {} // it has ended
    });
    const headers = {"content-type": "text/event-stream", "faststate-heartbeat": String(HEARTBEAT / 1_000)};
    answer(new Response(body, {headers}));
    const write = async (text) => {
      writer.enqueue(new TextEncoder().encode(text));
      await settled();
    };
    await write(": \n\n");
    return {write, end: async () => (writer.close(), await settled())};
  }

  async refuse(status, headers = {}) {
    this.asked.at(-1).answer(new Response(null, {status, headers}));
    await settled();
  }

  async fail() {
    this.asked.at(-1).fail(new TypeError("network"));
    await settled();
  }
}
