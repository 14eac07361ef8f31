// @ts-check
/**
 * Events: what a person does, sent to the server, which runs it once.
 * Each has a nonce, by which the server knows one that it has run, and a number, by which it knows the page's order.
 */

import {contentOf, takeBack} from "./choices.js";
import {peek, tell} from "./datastar.js";
import {contentsOf, hold, isSending, resetUnchanged} from "./forms.js";
import {Queue} from "./queue.js";

/**
 * The parts of an event as the page's markup writes them; `docs/protocol.md` describes the payload.
 * @typedef {object} Parts
 * @property {object} [a] arguments
 * @property {string[] | object} [b] names of the state's bound fields; sent as an object of the values that were changed
 * @property {[string, FormDataEntryValue][]} [f] a form's fields
 * @property {string} [i] the state's id on the page
 * @property {string} [n] path of the state's signals, where it has bound fields; not sent
 * @property {string[] | object} [s] names of signals that are arguments; sent as an object of their values
 * @property {string} [v] version of the state that the person has seen
 */

/** URL that the library's routes begin with, for a page without states, which does not say it. */
const OWN_URL = new URL(".", import.meta.url).href;

/** Most bytes of a request that outlives its page; a browser allows 64 KB for all of them together. */
const MOST_AT_LEAVING = 60_000;

const LATE = "The server does not answer just now. What you did is sent again until it does.";
/** A proxy answered with a page of its own, to sign in: the same again would be answered so, too. */
const PAGE = "This was not answered. Please load the page again.";
const LOST = "The server could not be reached. Please look whether this was done before you try again.";

/**
 * An event as its request brings it.
 * @typedef {import("./queue.js").Sendable & {state: string, name: string, parts: Parts & {q: number}}} PageEvent
 */

/** Make a nonce. `crypto.randomUUID` exists on secure origins only, and apps are tried out over plain HTTP. */
function nonce() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Sends the events of one page. */
export class Events {
  /** @type {import("./datastar.js").Datastar} */ #datastar;
  /** @type {import("./fields.js").Fields} */ #fields;
  #number = 0;
  /**
   * The versions that forms have brought about, by form: a person who has sent one has seen what came of it.
   * @type {WeakMap<Element, {rendered: string, now: string}>}
   */
  #versions = new WeakMap();
  #queue;

  /**
   * @param {import("./datastar.js").Datastar} datastar
   * @param {import("./fields.js").Fields} fields
   */
  constructor(datastar, fields) {
    this.#datastar = datastar;
    this.#fields = fields;
    this.#queue = new Queue({
      post: (events, leaving) => this.#request(events, leaving),
      now: () => Date.now(),
      random: () => Math.random(),
      later: (run, ms) => setTimeout(run, ms),
      cancel: (timer) => clearTimeout(timer),
    });
  }

  /** The server can be reached again. */
  wake() {
    this.#queue.wake();
  }

  /** The page is left. */
  leave() {
    this.#queue.leave();
  }

  /**
   * Send the event at `path` ("Counter/add"). A choice is taken back if its event is refused.
   * @param {Element} el
   * @param {string} path
   * @param {Parts} parts
   * @param {Event} [evt] that it is sent for
   */
  async send(el, path, parts, evt) {
    const control = evt?.target instanceof Element ? evt.target : el;
    const content = contentOf(control);
    const {status} = await this.#post(el, path, parts, nonce());
    if (status >= 400) takeBack(control, content);
  }

  /**
   * Send a form's fields with the event, unless they are on their way already. If it succeeds, the form is reset.
   * @param {HTMLFormElement} form
   * @param {HTMLElement | null} submitter
   * @param {string} path
   * @param {Parts} parts
   */
  async submit(form, submitter, path, parts) {
    if (isSending(form)) return;
    // A button without a value means nothing, but FastHTML gives it its id as a name, and so a place in the form.
    const button = submitter instanceof HTMLButtonElement && submitter.value ? submitter : null;
    const input = submitter instanceof HTMLInputElement && submitter.value ? submitter : null;
    const rendered = parts.v;
    const seen = this.#versions.get(form);
    if (seen && seen.rendered === rendered) parts = {...parts, v: seen.now};
    const [data, contents] = [[...new FormData(form, button ?? input)], contentsOf(form)];
    const release = hold(form);
    const {status, v} = await this.#post(form, path, {...parts, f: data}, nonce()).finally(release);
    const succeeded = status === 204;
    if (rendered !== undefined && (succeeded || status === 409)) this.#versions.set(form, {rendered, now: v});
    if (succeeded) resetUnchanged(form, contents);
  }

  /**
   * Send an event when it is its turn. Return the status of its answer (0 for none), and the version that the form's
   * state has then.
   * @param {Element} el
   * @param {string} path
   * @param {Parts} parts
   * @param {string} nonce
   * @returns {Promise<{status: number, v: string}>}
   */
  #post(el, path, parts, nonce) {
    const {mergePatch} = this.#datastar;
    const [state, name] = path.split("/");
    const carried = this.#fields.carried(parts.n, /** @type {string[]} */ (parts.b));
    const own = this.#parts(parts, carried?.values);
    mergePatch({_fs: {err: "", status: 0}});
    tell("started", el);
    return new Promise((resolve) => {
      /** @type {PageEvent} */
      const event = {
        nonce,
        lane: `${state}/${parts.i ?? ""}`,
        state,
        name,
        parts: own,
        take: (frame) => this.#fields.take(frame, el, carried),
        late: () => mergePatch({_fs: {err: LATE}}),
        done: ({status, told}) => {
          this.#fields.settle(carried, status >= 400);
          const {err, v} = this.#signals();
          if (!status) mergePatch({_fs: {err: LOST}});
          else if (status === 200 && !told) mergePatch({_fs: {err: PAGE, status}});
          else if (status >= 300 && !told) mergePatch({_fs: {err: `The server refused this (${status}).`, status}});
          else if (err === LATE) mergePatch({_fs: {err: ""}});
          tell("finished", el);
          resolve({status, v});
        },
      };
      this.#queue.add(event);
    });
  }

  /**
   * The parts of an event as the page is at this moment.
   * @param {Parts} parts
   * @param {object} [bound] values of bound fields
   */
  #parts({n: namespace, b, s: wanted, ...parts}, bound) {
    const names = Array.isArray(b) ? b : [];
    return this.#peek((root) => {
      /** @param {string} name */
      const path = (name) => (name in root ? name : names.includes(name) ? `${namespace}.${name}` : "");
      const given = Array.isArray(wanted) ? wanted.filter(path) : null;
      const signals = given
        ? Object.fromEntries(given.map((name) => [name, this.#datastar.getPath(path(name))]))
        : undefined;
      // A copy: what an argument or a bound field holds may change until it is sent.
      return JSON.parse(JSON.stringify({...parts, b: bound, s: signals, q: ++this.#number}));
    });
  }

  /**
   * Send events, by the page's tokens of now: a single one to its own URL, several to one for all.
   * @param {import("./queue.js").Sent[]} sent
   * @param {boolean} leaving
   */
  #request(sent, leaving) {
    const {c, u, w} = this.#peek(({_fs}) => ({
      c: String(_fs.c),
      u: String(Object.hasOwn(_fs, "u") ? _fs.u : OWN_URL),
      w: Object.values(_fs.w ?? {}),
    }));
    const events = sent.map(({event, age}) => {
      const {state, name, nonce, parts} = /** @type {PageEvent} */ (event);
      return {state, name, nonce, parts: age ? {...parts, t: Math.round(age)} : parts};
    });
    const [{state, name, nonce, parts}] = events;
    const isOne = events.length === 1;
    // Among others an event has names of its own for what the URL and the headers of a single one say.
    const several = events.map(({state, name, nonce, parts: {s: g, ...parts}}) => {
      return {s: state, e: name, k: nonce, ...parts, g};
    });
    const body = JSON.stringify(isOne ? {...parts, w} : {w, e: several});
    return fetch(isOne ? `${u}event/${state}/${name}` : `${u}events`, {
      method: "POST",
      headers: {
        "content-type": "application/json",
        "datastar-request": "true",
        "faststate-connection": c,
        ...(isOne ? {"faststate-nonce": nonce} : {}),
      },
      body,
      keepalive: leaving && new TextEncoder().encode(body).length < MOST_AT_LEAVING,
    });
  }

  #signals() {
    return this.#peek((root) => ({err: root._fs.err, v: root._fs.v}));
  }

  /**
   * Read signals. An expression that sends an event does not depend on those that are sent with it.
   * @template T
   * @param {(root: any) => T} read
   * @returns {T}
   */
  #peek(read) {
    return peek(this.#datastar, () => read(this.#datastar.root));
  }
}
