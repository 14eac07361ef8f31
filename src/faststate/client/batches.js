// @ts-check
/**
 * Datastar's signals after an error.
 * An expression that throws leaves Datastar 1.0 in the middle of something. It begins a batch before `data-on`,
 * `data-init`, `data-on-interval` and `data-on-intersect` run their expression, and does not end it when that throws: from
 * then on nothing on the page would follow its signals. And when an effect throws, the one that ran before it goes on
 * counting as the one that runs: it would follow all signals that are read from then on. `settle` repairs both.
 */

/** Batches and effects that `settle` goes through at most. */
const MOST = 1_000;

/** @typedef {import("./datastar.js").Datastar} Datastar */

/** The batches of one Datastar. */
export class Batches {
  #datastar;

  /** @param {Pick<Datastar, "signal" | "effect" | "endBatch" | "startPeeking" | "stopPeeking">} datastar */
  constructor(datastar) {
    this.#datastar = datastar;
  }

  /** End the batches that were left open, and run all effects that wait. Only outside of any expression. */
  settle() {
    for (let round = 0; round < MOST; round++) {
      this.#forgetRunning();
      try {
        if (this.#isOpen()) this.#datastar.endBatch();
        else return;
      } catch (error) {
        reportError(error); // of one that waited: those behind it go on in the next round
      }
    }
  }

  /** Tell whether a batch is open: whether an effect waits. It is a new one, since an error may have hurt any other. */
  #isOpen() {
    const {effect, signal} = this.#datastar;
    const written = signal(0);
    let seen = 0;
    const end = effect(() => {
      seen = written();
    });
    try {
      written(1);
      return seen === 0;
    } finally {
      end();
    }
  }

  /** Have no effect count as the one that runs. Datastar remembers the last two: the second time, both are none. */
  #forgetRunning() {
    const {startPeeking, stopPeeking} = this.#datastar;
    startPeeking();
    startPeeking();
    stopPeeking();
    stopPeeking();
  }
}
