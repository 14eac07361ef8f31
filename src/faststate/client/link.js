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

import {EventReader, hasEvents} from "./sse.js";

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

/**
 * What it is given after a stream that fell silent, once for each other connection that a browser may have to a host: these
 * may be as dead as the one of the stream, and an attempt that is given up ends one.
 */
export const OPENING_AGAIN = 1_000;
export const OTHERS = 5;

/** The most: a slow server is given ever more time, since it begins anew with each attempt. */
const LONGEST_OPENING = 30_000;

/** Milliseconds that an attempt may take before a wake-up makes another: browsers tell of one in several events. */
const WAKING = 1_000;

/** Milliseconds after which a stream that ends has not ended at once. */
const STEADY = 2_000;

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

/** The longest timer of a browser, in milliseconds: a longer one would be due at once. */
const LONGEST_TIMER = 2 ** 31 - 1;

export class Link {
  /** @type {LinkState} */
  state = "connecting";
  /** @type {Browser} */
  #browser;
  /** @type {AbortController | null} */
  #stream = null;
  /** True if the page shows something that can be followed. */
  isWanted = false;
  /** Where the next stream goes on; "" for one that shows more than the last one did. */
  #lastId = "";
  #isForMore = false;
  #failures = 0;
  /** Milliseconds between two signs of life of the stream, as the server says. */
  #heartbeat = 15_000;
  #heard = 0;
  #liveSince = 0;
  #unanswered = 0;
  #silence = OPENING;
  /** @type {Map<string, any>} */
  #timers = new Map();

  /** @param {Browser} browser */
  constructor(browser) {
    this.#browser = browser;
  }

  /** Follow what the page shows: open the stream, or soon another one in its place, since the page shows more. */
  follow() {
    if (!this.isWanted) this.#browser.show(this.state, 0); // a page without states is never live, nor has to be
    this.isWanted = this.#isForMore = true;
    if (this.#timers.has("follow")) return;
    if (this.#stream === null) this.#attempt();
    else this.#later("follow", BETWEEN, () => this.#attempt());
  }

  /** The page is shown, restored or awake: try at once, unless the stream was heard lately. */
  wake() {
    this.#cancel("leave");
    const silent = this.#browser.now() - this.#heard;
    const patience = this.state === "live" ? 1.5 * this.#heartbeat : WAKING;
    if (this.isWanted && (this.#stream === null || silent > patience)) this.#attempt();
  }

  /** The network is back: a stream from before may be dead without a word. */
  online() {
    if (this.isWanted) this.#attempt();
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
    if (this.isWanted && this.state !== "stale") this.#become("waiting");
  }

  // -- a stream ------------------------------------------------------------------------------------------------------

  /** @param {number} [opening] milliseconds that the server may take to begin */
  #attempt(opening = OPENING) {
    this.#drop();
    this.#cancel("follow");
    if (this.#browser.hidden()) {
      if (this.state === "live") this.#become("waiting"); // until just now: a page that is hidden keeps it for a while
      return;
    }
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
   * Read a stream to its end. Return the status of a refusal (else 0), and the seconds that it asks to wait. A proxy may
   * answer 200 with a page of its own, to sign in, and the server with an event that says why there is no stream.
   * @param {AbortController} stream
   * @returns {Promise<{status: number, after: number}>}
   */
  async #read(stream) {
    const {status, body, headers} = await this.#browser.open(stream.signal, this.#lastId);
    const after = Number(headers.get("retry-after")) || 0;
    if (status !== 200 || !body || !hasEvents(headers)) return {status, after};
    const heartbeat = Number(headers.get("faststate-heartbeat"));
    if (heartbeat) this.#heartbeat = 1_000 * heartbeat;
    const reader = body.getReader();
    const events = new EventReader((event) => this.#stream === stream && this.#browser.take(event));
    for (;;) {
      const {done, value} = await reader.read();
      if (done || this.#stream !== stream) return {status: heartbeat ? 0 : 204, after: 0};
      if (heartbeat) this.#listen(2 * this.#heartbeat);
      events.push(value);
      if (events.lastId) this.#lastId = events.lastId;
      if (heartbeat && this.#stream === stream) this.#become("live");
    }
  }

  /**
   * @param {number} status of a refusal; 0 if there was no answer, or if the stream has ended
   * @param {number} after seconds that the server asks to wait
   */
  #ended(status, after) {
    this.#drop();
    const browser = this.#browser;
    const isPassing = status === 0 || status >= 500 || [404, 405, 408, 429].includes(status);
    if (!isPassing) {
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
      if (left <= 0) this.#attempt(this.#openingAgain());
      else this.#later("silence", left, check);
    };
    // One timer for many chunks: it is set anew when it is due.
    if (!this.#timers.has("silence")) this.#later("silence", ms, check);
  }

  /** Return the milliseconds that the server is given to begin a stream in place of one that is silent. */
  #openingAgain() {
    this.#unanswered = this.state === "live" ? 0 : this.#unanswered + 1;
    if (this.#unanswered < OTHERS) return OPENING_AGAIN;
    return Math.min(LONGEST_OPENING, OPENING * 2 ** (this.#unanswered - OTHERS));
  }

  /** End the stream, and all that was planned for it. */
  #drop() {
    const stream = this.#stream;
    if (stream && this.state === "live" && this.#browser.now() - this.#liveSince >= STEADY) this.#failures = 0;
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
    if (state === "live") this.#liveSince = this.#browser.now();
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
    }, Math.min(ms, LONGEST_TIMER));
    this.#timers.set(name, timer);
  }

  /** @param {string} name */
  #cancel(name) {
    const timer = this.#timers.get(name);
    this.#timers.delete(name);
    if (timer !== undefined) this.#browser.cancel(timer);
  }
}
