// @ts-check
/**
 * All that the client needs of Datastar: what its bundle exports, and the one thing that it does not.
 * Datastar 1.0 exports `action`, `attribute`, `effect`, `mergePatch`, `root` and more. It has no way to hand it a patch
 * that somebody else has received, so `patch` dispatches the DOM event by which its own requests do that. A test in
 * `tests/browser/test_client.py` fails first when that moves.
 */

/**
 * @typedef {object} Datastar
 * @property {(plugin: object) => void} action
 * @property {(plugin: object) => void} attribute
 * @property {(run: () => void) => () => void} effect
 * @property {(patch: object, options?: {ifMissing?: boolean}) => void} mergePatch
 * @property {any} root
 * @property {() => void} startPeeking
 * @property {() => void} stopPeeking
 */

const NEEDED = ["action", "attribute", "effect", "mergePatch", "root", "startPeeking", "stopPeeking"];

/** The DOM event of Datastar's own requests. */
const FETCH = "datastar-fetch";

/**
 * Load Datastar from `source`, or the copy that the page loads by a tag of its own: two copies would run each click
 * twice. Throws if there is none, or if it is not Datastar 1.0.
 * @param {string} source
 * @returns {Promise<Datastar>}
 */
export async function load(source) {
  const wanted = new URL(source, document.baseURI).href;
  const own = [...document.querySelectorAll("script[src]")]
    .map((script) => /** @type {HTMLScriptElement} */ (script).src)
    .find((src) => /\/datastar[^/]*\.js([?#]|$)/.test(src));
  const datastar = await import(own ?? wanted);
  const missing = NEEDED.filter((name) => !(name in datastar));
  if (missing.length) throw new Error(`${own ?? wanted} is not Datastar 1.0: it lacks ${missing.join(", ")}`);
  return datastar;
}

/**
 * Hand Datastar a patch, as if one of its own requests had received it.
 * @param {import("./sse.js").SSEEvent} event
 * @param {Element} el
 */
export function patch({event, data}, el) {
  if (!event.startsWith("datastar")) return;
  /** @type {Record<string, string[]>} */
  const parts = {};
  for (const line of data.split("\n")) {
    const at = line.indexOf(" ");
    (parts[line.slice(0, at)] ??= []).push(line.slice(at + 1));
  }
  const args = Object.fromEntries(Object.entries(parts).map(([name, lines]) => [name, lines.join("\n")]));
  tell(event, el, args);
}

/**
 * Tell the page of the progress of a request, as Datastar does of its own: `data-indicator` listens to it.
 * @param {string} type
 * @param {Element} el
 * @param {object} [args]
 */
export function tell(type, el, args = {}) {
  document.dispatchEvent(new CustomEvent(FETCH, {detail: {type, el, argsRaw: args}}));
}
