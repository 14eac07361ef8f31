// @ts-check
/**
 * Events: what a person does, sent to the server, which runs it once.
 * Each has a nonce, by which the server knows one that it has run, and a number, by which it knows the page's order.
 */

import {patch, tell} from "./datastar.js";
import {hasEvents, readEvents} from "./sse.js";

/**
 * The parts of an event as the page's markup writes them; `docs/protocol.md` describes the payload.
 * @typedef {object} Parts
 * @property {object} [a] arguments
 * @property {object} [b] bound fields
 * @property {[string, FormDataEntryValue][]} [f] a form's fields
 * @property {string} [i] the state's id on the page
 * @property {string[] | object} [s] names of signals that are arguments; sent as an object of their values
 * @property {string} [v] version of the state that the person has seen
 */

/** URL that the library's routes begin with, for a page without states, which does not say it. */
const OWN_URL = new URL(".", import.meta.url).href;

/** Make a nonce. `crypto.randomUUID` exists on secure origins only, and apps are tried out over plain HTTP. */
function nonce() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Sends the events of one page. */
export class Events {
  /** @type {import("./datastar.js").Datastar} */ #datastar;
  #number = 0;
  /**
   * The versions that forms have brought about, by form: a person who has sent one has seen what came of it.
   * @type {WeakMap<Element, {rendered: string, now: string}>}
   */
  #versions = new WeakMap();

  /** @param {import("./datastar.js").Datastar} datastar */
  constructor(datastar) {
    this.#datastar = datastar;
  }

  /**
   * Send the event at `path` ("Counter/add").
   * @param {Element} el
   * @param {string} path
   * @param {Parts} parts
   */
  async send(el, path, parts) {
    await this.#post(el, path, parts, nonce());
  }

  /**
   * Send a form's fields with the event, and reset the form if it succeeded.
   * @param {HTMLFormElement} form
   * @param {HTMLElement | null} submitter
   * @param {string} path
   * @param {Parts} parts
   */
  async submit(form, submitter, path, parts) {
    const own = nonce();
    // A button without a value means nothing, but FastHTML gives it its id as a name, and so a place in the form.
    const button = submitter instanceof HTMLButtonElement && submitter.value ? submitter : null;
    const input = submitter instanceof HTMLInputElement && submitter.value ? submitter : null;
    const rendered = parts.v;
    const seen = this.#versions.get(form);
    if (seen && seen.rendered === rendered) parts = {...parts, v: seen.now};
    await this.#post(form, path, {...parts, f: [...new FormData(form, button ?? input)]}, own);
    const {ok, status, v} = this.#signals();
    const succeeded = ok === own;
    if (rendered !== undefined && (succeeded || status === 409)) this.#versions.set(form, {rendered, now: v});
    if (succeeded) form.reset();
  }

  /**
   * @param {Element} el
   * @param {string} path
   * @param {Parts} parts
   * @param {string} own nonce
   */
  async #post(el, path, parts, own) {
    const {mergePatch} = this.#datastar;
    mergePatch({_fs: {err: "", status: 0}});
    const {body, connection, url} = this.#payload(parts);
    tell("started", el);
    try {
      const response = await fetch(`${url}event/${path}`, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          "datastar-request": "true",
          "faststate-nonce": own,
          "faststate-connection": connection,
        },
        body,
      });
      const {status, headers} = response;
      if (status === 200 && hasEvents(headers)) await readEvents(response, (event) => patch(event, el));
      else if (status !== 204) {
        // A proxy may answer with a page of its own, to sign in.
        const isPage = status === 200;
        const err = isPage ? "This was not answered. Please load the page again." : `The server refused this (${status}).`;
        mergePatch({_fs: {err, status}});
      }
    } catch (error) {
      console.warn("FastState: an event was not answered", error);
      const err = "The server could not be reached. Please look whether this was done before you try again.";
      mergePatch({_fs: {err}});
    } finally {
      tell("finished", el);
    }
  }

  /** @param {Parts} parts */
  #payload(parts) {
    const {root, startPeeking, stopPeeking} = this.#datastar;
    startPeeking(); // an expression that sends an event does not depend on the signals that are sent
    try {
      const given = Array.isArray(parts.s) ? parts.s.filter((name) => name in root) : null;
      const signals = given ? Object.fromEntries(given.map((name) => [name, root[name]])) : undefined;
      const payload = {...parts, s: signals, w: Object.values(root._fs.w ?? {}), q: ++this.#number};
      const url = Object.hasOwn(root._fs, "u") ? root._fs.u : OWN_URL;
      return {body: JSON.stringify(payload), connection: String(root._fs.c), url: String(url)};
    } finally {
      stopPeeking();
    }
  }

  #signals() {
    const {root, startPeeking, stopPeeking} = this.#datastar;
    startPeeking();
    try {
      return {ok: root._fs.ok, status: root._fs.status, v: root._fs.v};
    } finally {
      stopPeeking();
    }
  }
}
