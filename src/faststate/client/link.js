// @ts-check
/**
 * The link of a page to its server: one stream, kept open while somebody sees the page.
 *
 *     state       what it means                                     what ends it
 *     connecting  a stream was asked for, nothing has come yet      its first bytes: live; a failure: waiting
 *     live        the stream was heard lately                       its end, or silence for two heartbeats: waiting
 *     waiting     there is no stream; the next is asked for soon    the next attempt: connecting
 *     offline     as waiting, and the browser has no network        the network is back: connecting
 *     stale       the server will not go on with this page          a reload; an attempt a minute later, if it may help
 *
 * A page that nobody has seen yet opens no stream, and a hidden one gives its own back after a while, since browsers
 * open six connections to a host over HTTP/1.1. When the page is shown, restored or wakes up, or when the network is
 * back, the next attempt is made at once.
 */

import {EventReader} from "./sse.js";

/** @typedef {"connecting" | "live" | "waiting" | "offline" | "stale"} LinkState */

/**
 * What the link needs of the browser; tests bring their own.
 * @typedef {object} Browser
 * @property {(signal: AbortSignal, lastId: string) => Promise<Response>} open asks for a stream
 * @property {(event: import("./sse.js").SSEEvent) => void} take is given each event of the stream
 * @property {(state: LinkState, why: number) => void} show is told the state, and the status of a refusal (0: none)
 * @property {() => number} now milliseconds
 * @property {() => number} random from 0 to 1
 * @property {(run: () => void, ms: number) => any} later
 * @property {(timer: any) => void} cancel
 * @property {() => boolean} hidden
 * @property {() => boolean} online
 */

/** Milliseconds until a hidden page gives its stream back: who looks at another tab for a moment loses nothing. */
export const HIDDEN_FOR = 2_000;

/** Milliseconds that a server may take to begin a stream. */
export const OPENING = 10_000;

/** The least that it is given after a stream that fell silent: the next may be asked for over a dead connection, too. */
const OPENING_AGAIN = 2_000;

/**
 * Longest wait (ms) before the first and before any later attempt. Each wait is random, and a tenth of it at least: all
 * pages of a server lose their streams in the same instant when it ends.
 */
export const FIRST_WAIT = 3_000;
export const LONGEST_WAIT = 10_000;

/** Milliseconds between two streams of one page: fragments may bring states faster than streams can be opened. */
export const BETWEEN = 250;

/** Milliseconds until a refused stream is asked for again, and one that was one too many. */
const REFUSED_FOR = 60_000;
const BUSY_FOR = 15_000;

export class Link {
  /** @type {LinkState} */
  state = "connecting";
  /** @type {Browser} */
  #browser;
  /** @type {AbortController | null} */
  #stream = null;
  #wanted = false;
  /** Where the next stream goes on; "" for one that shows more than the last one did. */
  #lastId = "";
  #isForMore = false;
  #failures = 0;
  /** Milliseconds between two signs of life of the stream, as the server says. */
  #heartbeat = 15_000;
  #heard = 0;
  #silence = OPENING;
  /** @type {Map<string, any>} */
  #timers = new Map();

  /** @param {Browser} browser */
  constructor(browser) {
    this.#browser = browser;
  }

  /** Follow what the page shows: open the stream, or soon another one in its place, since the page shows more. */
  follow() {
    this.#wanted = this.#isForMore = true;
    if (this.#timers.has("follow")) return;
    if (this.#stream === null) this.#attempt();
    else this.#later("follow", BETWEEN, () => this.#attempt());
  }

  /** The page is shown, restored or awake: try at once, unless the stream was heard lately. */
  wake() {
    this.#cancel("leave");
    const silent = this.#browser.now() - this.#heard;
    if (this.#wanted && (this.state !== "live" || silent > 1.5 * this.#heartbeat)) this.#attempt();
  }

  /** The network is back: a stream from before may be dead without a word. */
  online() {
    if (this.#wanted) this.#attempt();
  }

  /** The network is gone. A stream that is open may live on: the server may be on this machine. */
  offline() {
    if (this.state === "waiting") this.#become("offline");
  }

  /** The page is hidden: give the stream back, if it stays so. */
  hide() {
    if (!this.#timers.has("leave")) this.#later("leave", HIDDEN_FOR, () => this.pause());
  }

  /** Give the stream back, until `wake`. */
  pause() {
    this.#drop();
    if (this.state !== "stale") this.#become("waiting");
  }

  // -- a stream ------------------------------------------------------------------------------------------------------

  /** @param {number} [opening] milliseconds that the server may take to begin */
  #attempt(opening = OPENING) {
    this.#drop();
    this.#cancel("follow");
    if (this.#browser.hidden()) return;
    if (this.#isForMore) this.#lastId = "";
    this.#isForMore = false;
    const stream = (this.#stream = new AbortController());
    if (this.state !== "stale") this.#become("connecting");
    this.#listen(opening);
    this.#read(stream).then(
      ({status, after}) => this.#stream === stream && this.#ended(status, after),
      () => this.#stream === stream && this.#ended(0, 0),
    );
  }

  /**
   * Read a stream to its end. Return the status of a refusal (else 0), and the seconds that it asks to wait.
   * @param {AbortController} stream
   * @returns {Promise<{status: number, after: number}>}
   */
  async #read(stream) {
    const {status, body, headers} = await this.#browser.open(stream.signal, this.#lastId);
    const after = Number(headers.get("retry-after")) || 0;
    if (status !== 200 || !body) return {status, after};
    this.#heartbeat = 1_000 * (Number(headers.get("faststate-heartbeat")) || 15);
    const reader = body.getReader();
    const events = new EventReader((event) => this.#stream === stream && this.#browser.take(event));
    for (;;) {
      const {done, value} = await reader.read();
      if (done || this.#stream !== stream) return {status: 0, after: 0};
      this.#listen(2 * this.#heartbeat);
      events.push(value);
      if (events.lastId) this.#lastId = events.lastId;
      this.#failures = 0;
      if (this.#stream === stream) this.#become("live");
    }
  }

  /**
   * @param {number} status of a refusal; 0 if there was no answer, or if the stream has ended
   * @param {number} after seconds that the server asks to wait
   */
  #ended(status, after) {
    this.#drop();
    const browser = this.#browser;
    const isRefused = status === 204 || (status >= 400 && status < 500 && ![404, 405, 408, 429].includes(status));
    if (isRefused) {
      this.#become("stale", status);
      if (status !== 204) this.#later("retry", REFUSED_FOR, () => this.#attempt());
      return;
    }
    this.#become(browser.online() ? "waiting" : "offline", status === 429 ? status : 0);
    const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 1.6 ** this.#failures++);
    const wait = status === 429 ? Math.max(BUSY_FOR, 1_000 * after) : longest * (0.1 + 0.9 * browser.random());
    this.#later("retry", wait, () => this.#attempt());
  }

  /**
   * Replace the stream if it is silent for `ms` from now on.
   * @param {number} ms
   */
  #listen(ms) {
    const browser = this.#browser;
    this.#heard = browser.now();
    if (ms !== this.#silence) this.#cancel("silence");
    this.#silence = ms;
    const check = () => {
      const left = this.#silence - (browser.now() - this.#heard);
      if (left <= 0) this.#attempt(Math.min(OPENING, Math.max(OPENING_AGAIN, this.#heartbeat)));
      else this.#later("silence", left, check);
    };
    // One timer for many chunks: it is set anew when it is due.
    if (!this.#timers.has("silence")) this.#later("silence", ms, check);
  }

  /** End the stream, and all that was planned for it. */
  #drop() {
    const stream = this.#stream;
    this.#stream = null;
    stream?.abort();
    this.#cancel("retry");
    this.#cancel("silence");
  }

  /**
   * @param {LinkState} state
   * @param {number} [status] of the refusal that led to it; 0 for none
   */
  #become(state, status = 0) {
    if (state === this.state && !status) return;
    this.state = state;
    this.#browser.show(state, status);
  }

  /**
   * @param {string} name
   * @param {number} ms
   * @param {() => void} run
   */
  #later(name, ms, run) {
    this.#cancel(name);
    const timer = this.#browser.later(() => {
      this.#timers.delete(name);
      run();
    }, ms);
    this.#timers.set(name, timer);
  }

  /** @param {string} name */
  #cancel(name) {
    const timer = this.#timers.get(name);
    this.#timers.delete(name);
    if (timer !== undefined) this.#browser.cancel(timer);
  }
}
