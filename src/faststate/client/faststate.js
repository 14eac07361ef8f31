// @ts-check
/**
 * The program of a page with states: it loads Datastar, opens the stream, sends the events, shows the notices.
 * A page loads it by one tag, `<script type="module" src="…/client-<hash>.js" data-datastar="…">`, whose attributes say
 * the rest: `data-datastar` is the URL of Datastar, `data-offline` the badge's text.
 */

import {load, peek as peekAt} from "./datastar.js";
import {Events} from "./events.js";
import {Fields} from "./fields.js";
import {Link} from "./link.js";
import {addStyle, Badge, Toast} from "./notices.js";
import {showStateOfRestored} from "./restored.js";
import {Scan} from "./scan.js";

/** Mark of a page that has a client: fragments of another app may bring its tag again, under another URL. */
const MARK = Symbol.for("faststate");

/** Milliseconds in which a page reloads itself once: one that is told to each time must not do it for ever. */
const RELOADS = 10_000;

/**
 * Reload the page, unless it has done so just now; return false then. Where cookies are refused, storage throws.
 * @param {string} age fingerprints of a page that is older than its server, "" for others: while servers of two ages
 *   answer, a page may be given as old again, and reloads once for each age
 */
function reload(age) {
  try {
    if (age && sessionStorage.getItem("faststate-age") === age) return false;
    const last = Number(sessionStorage.getItem("faststate-reload")) || 0;
    if (Date.now() - last <= RELOADS) return false;
    sessionStorage.setItem("faststate-reload", String(Date.now()));
    if (age) sessionStorage.setItem("faststate-age", age);
  } catch {
    return false;
  }
  location.reload();
  return true;
}

/**
 * @param {import("./datastar.js").Datastar} datastar
 * @param {Badge} badge
 */
function start(datastar, badge) {
  const {action, attribute, effect, mergePatch, root} = datastar;
  /** @template T @param {() => T} read @returns {T} */
  const peek = (read) => peekAt(datastar, read);
  mergePatch({_fs: {c: "", err: "", status: 0, ok: "", v: "", go: "", link: "", w: {}}}, {ifMissing: true});
  const toast = new Toast(() => mergePatch({_fs: {err: ""}}));
  const fields = new Fields(datastar);
  for (const el of document.querySelectorAll("[data-fs-seed], [data-fs-live]")) fields.seed(el);
  const events = new Events(datastar, fields);
  const live = () => document.querySelector("[data-fs-live]") ?? document.documentElement;
  let refusal = "";
  const link = new Link({
    open: (signal, lastId) =>
      peek(() =>
        fetch(`${root._fs.u}stream`, {
          method: "POST",
          headers: {
            "content-type": "application/json",
            "datastar-request": "true",
            ...(lastId ? {"last-event-id": lastId} : {}),
          },
          body: JSON.stringify({w: Object.values(root._fs.w), n: root._fs.n, d: root._fs.d}),
          signal,
        }),
      ),
    take: (event) => fields.take(event, live()),
    show: (state, status) => {
      badge.show(state);
      const said = status >= 400 ? refusalOf(status) : "";
      // What the last refusal said is over when the page is live, but not what an event said meanwhile.
      if (said || (state === "live" && refusal && peek(() => root._fs.err) === refusal)) mergePatch({_fs: {err: said}});
      if (said || state === "live") refusal = said;
      mergePatch({_fs: {link: state}});
      if (state === "live") events.wake();
    },
    now: () => performance.now(),
    random: () => Math.random(),
    later: (run, ms) => setTimeout(run, ms),
    cancel: (timer) => clearTimeout(timer),
    hidden: () => document.hidden || /** @type {any} */ (document).prerendering === true,
    online: () => navigator.onLine,
  });

  effect(() => toast.show(String(root._fs.err ?? "")));
  effect(() => {
    const to = root._fs.go;
    if (!to) return;
    mergePatch({_fs: {go: ""}});
    if (to === "#reopen") link.follow();
    else if (to !== "#reload" && to !== "#outdated") location.assign(to);
    else if (!reload(to === "#outdated" ? JSON.stringify(peek(() => root._fs.d)) : "")) {
      mergePatch({_fs: {err: "This page is out of date. Please load it again."}});
    }
  });

  action({
    name: "fsSend",
    /** @param {{el: Element, evt?: Event}} context @param {string} path @param {import("./events.js").Parts} parts */
    apply: async ({el, evt}, path, parts) => {
      // While Datastar looks at the page for the first time (`data-init`), the live element at its end is still to come.
      if (!Object.hasOwn(root._fs, "u")) await new Promise((done) => setTimeout(done));
      await events.send(el, path, parts, evt);
    },
  });
  action({
    name: "fsSubmit",
    /** @param {{el: HTMLFormElement, evt: SubmitEvent}} context @param {string} path @param {import("./events.js").Parts} parts */
    apply: ({el, evt}, path, parts) => events.submit(el, evt.submitter, path, parts),
  });
  /** What is followed, by element: Datastar may come to one again, after an error. @type {WeakMap<Element, string>} */
  const followed = new WeakMap();
  const follow = () => {
    if (peek(() => root._fs.u)) link.follow();
    else fail(badge, "Datastar could not read its attributes: does its policy forbid 'unsafe-eval'?");
  };
  attribute({
    name: "fs-live",
    /** @param {{el: Element, value: string}} context */
    apply: ({el, value}) => {
      fields.seed(el);
      // After the element's other attributes, which bring its signals, even if each is tried by itself (see `scan.js`).
      if (followed.get(el) !== value) setTimeout(follow);
      followed.set(el, value);
    },
  });
  attribute({
    name: "fs-seed",
    /** @param {{el: Element}} context */
    apply({el}) {
      fields.seed(el); // before the attribute that holds the seed
    },
  });
  attribute({
    name: "fs-bind",
    requirement: {key: "denied", value: "must"},
    /** @param {{el: Element, value: string, mods: Map<string, Set<string>>}} context */
    apply: ({el, value, mods}) => fields.bind(el, value, mods),
  });
  attribute({
    name: "fs-leave",
    apply: () => {
      // A page that is closed says so, for its TEMPORARY states; one that the browser may bring back as it was does not.
      /** @param {PageTransitionEvent} event */
      const leave = (event) => {
        const tokens = peek(() => Object.values(root._fs.w));
        if (!event.persisted) navigator.sendBeacon(`${peek(() => root._fs.u)}leave`, JSON.stringify({w: tokens}));
      };
      addEventListener("pagehide", leave);
      return () => removeEventListener("pagehide", leave);
    },
  });

  showStateOfRestored();
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return link.hide();
    link.wake();
    if (link.isWanted) badge.show(link.state); // nothing is said in a page that is hidden
  });
  document.addEventListener("prerenderingchange", () => link.wake());
  document.addEventListener("resume", () => link.wake());
  addEventListener("pageshow", (event) => event.persisted && link.wake());
  addEventListener("pagehide", () => events.leave());
  addEventListener("pagehide", () => link.pause()); // a page with an open stream is not kept for "back"
  addEventListener("online", () => {
    link.online();
    events.wake();
  });
  addEventListener("offline", () => link.offline());

  new Scan(datastar).begin().then((isThere) => {
    if (!isThere) fail(badge, "Datastar does not look at this page: is it an aliased bundle?");
    else if (!link.isWanted) badge.none();
  });
}

/**
 * Say that the page is not live, and will not be.
 * @param {Badge} badge
 * @param {string} why for the log
 * @param {...unknown} error
 */
function fail(badge, why, ...error) {
  console.error(`FastState: this page is not live. ${why}`, ...error);
  badge.show("stale");
  const toast = new Toast(() => {
    toast.show("");
  });
  toast.show("This page is not live: a part of it could not be loaded. Please load it again.");
}

/** @param {number} status */
function refusalOf(status) {
  return status === 429
    ? "Too many pages are open, or were opened at once: this one does not show changes just now."
    : `This page does not show changes: the server refused that (${status}). Please load it again.`;
}

/** Load Datastar and start, once in a page. @returns {Promise<any>} Datastar; an empty object if there is none */
async function begin() {
  const tag = /** @type {HTMLScriptElement | null} */ (document.querySelector("script[data-datastar]"));
  const source = tag?.dataset.datastar ?? "";
  if (MARK in globalThis) return load(source).catch(() => ({}));
  Object.defineProperty(globalThis, MARK, {value: true});
  addStyle();
  const badge = new Badge(tag?.dataset.offline ?? null);
  badge.show("connecting");
  try {
    const datastar = await load(source);
    // Datastar looks at the page a moment after it was loaded: what is registered here is there by then.
    start(datastar, badge);
    return datastar;
  } catch (error) {
    fail(badge, `Datastar did not load from ${source}.`, error);
    return {};
  }
}

/** Datastar, for scripts of the page's own: the same file under another URL would be another Datastar. */
export const {
  action, actions, attribute, computed, effect, filtered, getPath, mergePatch, mergePaths, root, signal, startPeeking,
  stopPeeking, watcher,
} = await begin();
