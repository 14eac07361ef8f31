// @ts-check
/**
 * The order of the page's events. What a person does with one state reaches the server in that order, and runs once.
 * Each state has a lane of its own:
 *
 *   nothing of it is under way    an event is sent at once, alone
 *   a request is under way        events wait, and go together when it is answered, or when it has taken two seconds
 *   an answer is lost             its events go again, before those that wait, with the nonces that the server knows
 *   the page is left              all that is not answered goes at once, by requests that outlive the page
 */

import {hasEvents, readEvents} from "./sse.js";

/**
 * An event, as the page has made it.
 * @typedef {object} Sendable
 * @property {string} nonce by which the server knows that it has run it
 * @property {string} lane names the state
 * @property {(event: import("./sse.js").SSEEvent) => void} take is given what the server answers to it
 * @property {(outcome: Outcome) => void} done is told what became of it, once
 * @property {() => void} late is told that it did not get through so far, and is sent again
 */

/**
 * What became of an event: the status of its answer, 0 if there was none; and whether the answer says it to the person.
 * @typedef {{status: number, told: boolean}} Outcome
 */

/**
 * An event on its way: `age` is how many milliseconds ago it was sent first.
 * @typedef {{event: Sendable, age: number}} Sent
 */

/**
 * What the queue needs of the browser; tests bring their own.
 * @typedef {object} Network
 * @property {(events: Sent[], leaving: boolean) => Promise<Response>} post sends events; if the page is `leaving`, the
 *   request has to outlive it
 * @property {() => number} now milliseconds; they go on while the machine sleeps
 * @property {() => number} random from 0 to 1
 * @property {(run: () => void, ms: number) => any} later
 * @property {(timer: any) => void} cancel
 */

/** Most events in one request. The server takes no more. */
export const MOST = 50;

/** Milliseconds that a request holds up what comes behind it: an event may take minutes. */
export const HOLDS = 2_000;

/** Milliseconds until an event is not sent again any more. The server remembers its nonce for five minutes. */
export const GIVE_UP = 240_000;

/** Milliseconds before the second attempt, and most before a later one; each wait is twice the last one. */
export const FIRST_WAIT = 1_000;
export const LONGEST_WAIT = 15_000;

/** Attempts after which the person is told. */
const ATTEMPTS_IN_SILENCE = 2;

/** Statuses that say that an event was not run: the server's while it ends, or those of a proxy before it. */
const NOT_RUN = [408, 502, 503, 504];

/** An event in a queue. Lifetime: until its outcome is known. */
class Item {
  /** When it was sent first. @type {number | null} */
  since = null;
  attempts = 0;
  /** Requests under way that bring it. */
  carriers = 0;
  isDone = false;
  told = false;

  /**
   * @param {Sendable} event
   * @param {number} number in the order of the person
   */
  constructor(event, number) {
    this.event = event;
    this.number = number;
  }

  /** @param {import("./sse.js").SSEEvent[]} frames */
  take(frames) {
    if (this.isDone) return; // another request brought the answer
    for (const frame of frames) safely(() => this.event.take(frame));
    if (frames.length) this.told = true;
  }

  /** @param {number} status */
  done(status) {
    if (this.isDone) return;
    this.isDone = true;
    safely(() => this.event.done({status, told: this.told}));
  }
}

/** The events of one state that are to be sent. Lifetime: while there are any. */
class Lane {
  /** @type {Item[]} */
  waiting = [];
  /** The newest request, while it holds up what waits. @type {{items: Item[]} | null} */
  held = null;
  /** The timer of the next attempt. @type {any} */
  retry = null;
}

/** Sends events, each lane in its order. Lifetime: the page. */
export class Queue {
  #network;
  /** @type {Map<string, Lane>} */
  #lanes = new Map();
  #number = 0;
  #most = MOST;

  /** @param {Network} network */
  constructor(network) {
    this.#network = network;
  }

  /** @param {Sendable} event */
  add(event) {
    this.#lane(event.lane).waiting.push(new Item(event, ++this.#number));
    this.#next(event.lane);
  }

  /** The server can be reached again: do not wait for the next attempt. */
  wake() {
    for (const [name, lane] of [...this.#lanes]) {
      if (lane.retry === null) continue;
      this.#network.cancel(lane.retry);
      lane.retry = null;
      this.#next(name);
    }
  }

  /**
   * The page is left: send what waits, and again what was sent a moment ago, since a request may end with its page.
   */
  leave() {
    /** @type {Item[]} */
    const items = [];
    for (const lane of this.#lanes.values()) {
      items.push(...(lane.held?.items ?? []), ...lane.waiting.splice(0));
      if (lane.retry !== null) this.#network.cancel(lane.retry);
      lane.retry = null;
    }
    const unanswered = [...new Set(items)].filter((item) => !item.isDone).sort(byNumber);
    while (unanswered.length) this.#send(unanswered.splice(0, this.#most), true);
  }

  /** @param {string} name */
  #lane(name) {
    let lane = this.#lanes.get(name);
    if (!lane) this.#lanes.set(name, (lane = new Lane()));
    return lane;
  }

  /**
   * Send what waits in a lane, unless it has to wait.
   * @param {string} name
   */
  #next(name) {
    const lane = this.#lanes.get(name);
    if (!lane || lane.held || lane.retry !== null) return;
    const items = lane.waiting.splice(0, this.#most);
    if (items.length) this.#send(items, false);
    else this.#lanes.delete(name);
  }

  /**
   * @param {Item[]} items
   * @param {boolean} leaving
   */
  async #send(items, leaving) {
    const network = this.#network;
    const now = network.now();
    const names = [...new Set(items.map((item) => item.event.lane))];
    const request = {items};
    for (const name of names) this.#lane(name).held = request;
    for (const item of items) {
      item.since ??= now;
      item.carriers++;
    }
    const goOn = () => {
      for (const name of names) {
        const lane = this.#lanes.get(name);
        if (lane?.held === request) lane.held = null;
        this.#next(name);
      }
    };
    const timer = network.later(goOn, HOLDS);
    const {status, after} = await this.#answer(items, leaving, now).catch(() => ({status: 0, after: 0}));
    network.cancel(timer);
    for (const item of items) item.carriers--;
    const open = items.filter((item) => !item.isDone && !item.carriers);
    if (status === 413 && items.length > 1) {
      // Nothing of it was run: together they were more than a server takes, or a proxy.
      this.#most = Math.max(1, items.length >> 1);
      this.#putBack(open);
    } else if (status === 0) {
      this.#again(open, after);
    } else {
      for (const item of open) item.done(status);
    }
    goOn();
  }

  /**
   * Send events and read the answer. Return the status of those of which the answer says nothing: 0 if they are lost,
   * with the seconds after which the server wants them again.
   * @param {Item[]} items
   * @param {boolean} leaving
   * @param {number} now as the events have it that are sent for the first time: their age is 0
   * @returns {Promise<{status: number, after: number}>}
   */
  async #answer(items, leaving, now) {
    const sent = items.map(({event, since}) => ({event, age: Math.max(0, now - (since ?? now))}));
    const response = await this.#network.post(sent, leaving);
    const {status, headers} = response;
    const after = Number(headers.get("retry-after")) || 0;
    if (NOT_RUN.includes(status)) return {status: 0, after};
    if (status !== 200) return {status, after};
    const meant = Number(headers.get("faststate-status")) || 0;
    if (!hasEvents(headers)) return {status, after}; // a page of a proxy's
    if (meant === 503 && after) return {status: 0, after};

    /** @type {import("./sse.js").SSEEvent[]} */
    let frames = [];
    let wanted = 0;
    await readEvents(response, (event) => {
      if (event.event !== "faststate-done") {
        frames.push(event);
        return;
      }
      wanted = Math.max(wanted, finish(items, frames, event.data));
      frames = [];
    });
    if (items.length > 1 && !meant) return {status: 0, after: wanted};
    if (meant !== 413 || items.length === 1) {
      items[0]?.take(frames);
      for (const item of items) item.told = true; // one message for all of them
    }
    return {status: meant || 204, after};
  }

  /**
   * Send lost events again, later; or give them up.
   * @param {Item[]} items
   * @param {number} after seconds that the server asks to wait
   */
  #again(items, after) {
    const network = this.#network;
    const now = network.now();
    /** @type {Map<string, number>} */
    const waits = new Map();
    for (const item of items) {
      const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** item.attempts++);
      const wait = Math.max(longest * (0.5 + 0.5 * network.random()), 1_000 * after);
      if (now - (item.since ?? now) + wait > GIVE_UP) {
        item.done(0);
        continue;
      }
      if (item.attempts === ATTEMPTS_IN_SILENCE) safely(() => item.event.late());
      this.#putBack([item]);
      waits.set(item.event.lane, Math.max(wait, waits.get(item.event.lane) ?? 0));
    }
    for (const [name, wait] of waits) {
      const lane = this.#lane(name);
      if (lane.retry !== null) network.cancel(lane.retry);
      lane.retry = network.later(() => {
        lane.retry = null;
        this.#next(name);
      }, wait);
    }
  }

  /**
   * Put events before those that wait.
   * @param {Item[]} items
   */
  #putBack(items) {
    for (const item of items) {
      const {waiting} = this.#lane(item.event.lane);
      waiting.push(item);
      waiting.sort(byNumber);
    }
  }
}

/**
 * Finish one event of several, as its part of the answer says. Return the seconds after which the server wants it
 * again, since it has not run it; 0 if it is finished.
 * @param {Item[]} items
 * @param {import("./sse.js").SSEEvent[]} frames
 * @param {string} data
 * @returns {number}
 */
function finish(items, frames, data) {
  const {k, status, after} = JSON.parse(data);
  if (after) return after;
  const item = items.find(({event}) => event.nonce === k);
  item?.take(frames);
  item?.done(status);
  return 0;
}

/**
 * @param {Item} a
 * @param {Item} b
 */
function byNumber(a, b) {
  return a.number - b.number;
}

/**
 * What the page does with an answer may fail, and that is no reason to send the event again.
 * @param {() => void} run
 */
function safely(run) {
  try {
    run();
  } catch (error) {
    console.error("FastState: the page could not take the answer to an event.", error);
  }
}
