/** What the tests of the program have in place of time: it passes when a test says so. */
export class FakeClock {
  timers = new Map();
  #ids = 0;

  /** @param {number} time milliseconds */
  constructor(time) {
    this.time = time;
  }

  now() {
    return this.time;
  }
  later(run, ms) {
    this.timers.set(++this.#ids, {run, at: this.time + (ms < 2 ** 31 ? ms : 1)}); // a browser takes no longer ones
    return this.#ids;
  }
  cancel(timer) {
    this.timers.delete(timer);
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
}

/** Let all that follows from what has happened so far happen. */
export const settled = () => new Promise((done) => setImmediate(done));
