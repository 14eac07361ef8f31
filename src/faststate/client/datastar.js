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
 * @property {() => void} endBatch
 * @property {(path: string) => any} getPath
 * @property {(patch: object, options?: {ifMissing?: boolean}) => void} mergePatch
 * @property {any} root
 * @property {(value: any) => (...value: any[]) => any} signal
 * @property {() => void} startPeeking
 * @property {() => void} stopPeeking
 */

/** What the client needs of Datastar's exports. */
export const NEEDED = [
  "action", "attribute", "effect", "endBatch", "getPath", "mergePatch", "root", "signal", "startPeeking", "stopPeeking",
];

/** The DOM event of Datastar's own requests. */
const FETCH = "datastar-fetch";

/**
 * A script that is Datastar's by its name, which may end in a version or a hash; that it is so, its exports say. Not a
 * name like `datastar-own.js`: such a script may itself wait for this one.
 */
export const NAMED = /\/datastar(-pro)?([-.@]v?\d[\w.-]*|[-.][\da-f]{6,})?(\.min)?\.js([?#]|$)/;

/**
 * Load Datastar from `source`, or take the copy that the page loads by a tag of its own: two copies would run each click
 * twice. Throws if there is none, or if it is not Datastar 1.0.
 * @param {string} source
 * @returns {Promise<Datastar>}
 */
export async function load(source) {
  const wanted = new URL(source, document.baseURI).href;
  const tags = /** @type {NodeListOf<HTMLScriptElement>} */ (document.querySelectorAll('script[type="module"][src]'));
  const own = [...new Set([...tags].map((tag) => tag.src).filter((src) => NAMED.test(src)))];
  const loaded = await Promise.allSettled(own.map((src) => import(src)));
  const usable = loaded.flatMap((result, at) =>
    result.status === "fulfilled" && !missing(result.value).length ? [{src: own[at], datastar: result.value}] : [],
  );
  if (usable.length > 1) reportTwo();
  const datastar = usable.length ? usable[0].datastar : await import(wanted);
  const lacking = missing(datastar);
  if (lacking.length) throw new Error(`${wanted} is not Datastar 1.0: it lacks ${lacking.join(", ")}`);
  return {...datastar, mergePatch: careful(datastar.mergePatch)};
}

/** @param {object} module */
function missing(module) {
  return NEEDED.filter((name) => !(name in module));
}

/**
 * Make a `mergePatch` that does not throw: what fails there is an expression of the page, not the patch.
 * @param {Datastar["mergePatch"]} mergePatch
 * @returns {Datastar["mergePatch"]}
 */
function careful(mergePatch) {
  return (patch, options) => {
    try {
      mergePatch(patch, options);
    } catch (error) {
      reportError(error);
    }
  };
}

/** Log that the page has loaded more than one Datastar, and from where. */
export function reportTwo() {
  const urls = performance.getEntriesByType("resource").map(({name}) => name);
  const from = [...new Set(urls)].filter((url) => /\/datastar[^/]*$/.test(url)).join(" and ");
  console.error(
    `FastState: this page loads Datastar twice, and so runs its expressions twice (${from}). ` +
      "Load it from one URL: remove a tag, or name that URL in `datastar_src`.",
  );
}

/**
 * Hand Datastar a patch, as if one of its own requests had received it.
 * @param {import("./sse.js").SSEEvent} event
 * @param {Element} el
 */
export function patch({event, data}, el) {
  if (event.startsWith("datastar")) tell(event, el, partsOf(data));
}

/**
 * Read the data of a patch: each line is the name of a part and a line of its text.
 * @param {string} data
 * @returns {Record<string, string>}
 */
export function partsOf(data) {
  /** @type {Record<string, string[]>} */
  const parts = {};
  for (const line of data.split("\n")) {
    const at = line.indexOf(" ");
    (parts[line.slice(0, at)] ??= []).push(line.slice(at + 1));
  }
  return Object.fromEntries(Object.entries(parts).map(([name, lines]) => [name, lines.join("\n")]));
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

/**
 * Read signals without depending on them: who reads them in an effect or an expression does not run again when they change.
 * @template T
 * @param {Pick<Datastar, "startPeeking" | "stopPeeking">} datastar
 * @param {() => T} read
 * @returns {T}
 */
export function peek({startPeeking, stopPeeking}, read) {
  startPeeking();
  try {
    return read();
  } finally {
    stopPeeking();
  }
}
