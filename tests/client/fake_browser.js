/** What the tests of the link have in place of a browser and a server. */

export const HEARTBEAT = 10_000;

/** A browser with a clock and a server of its own; each stream that the link asks for is in `asked`. */
export class FakeBrowser {
  time = 0;
  timers = new Map();
  states = [];
  taken = [];
  asked = [];
  isHidden = false;
  isOnline = true;
  chance = 0.5;
  #ids = 0;

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
  now() {
    return this.time;
  }
  random() {
    return this.chance;
  }
  later(run, ms) {
    this.timers.set(++this.#ids, {run, at: this.time + (ms < 2 ** 31 ? ms : 1)}); // a browser takes no longer ones
    return this.#ids;
  }
  cancel(timer) {
    this.timers.delete(timer);
  }
  hidden() {
    return this.isHidden;
  }
  online() {
    return this.isOnline;
  }

  /** Let `ms` pass, and all that is due happen in its order. */
  async pass(ms) {
    const end = this.time + ms;
    for (;;) {
      const due = [...this.timers].filter(([, timer]) => timer.at <= end).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      this.time = due[1].at;
      this.timers.delete(due[0]);
      due[1].run();
      await settled();
    }
    this.time = end;
    await settled();
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

/** Let all that follows from what has happened so far happen. */
export const settled = () => new Promise((done) => setImmediate(done));
