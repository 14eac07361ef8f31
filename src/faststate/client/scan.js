// @ts-check
/**
 * Attributes that Datastar cannot use: broken ones, and those of other libraries that have a name of Datastar's.
 * Datastar 1.0 goes through the page once, and then through each patch. The first attribute that fails, such as a
 * tooltip's `data-text="Hello world"`, ends that: nothing behind it is live, and if it was the first scan, no patch will
 * be either. `Scan` notices this, and makes Datastar try the attributes behind the failed one, one by one. All attributes
 * stay in their place, since they may mean something to others. None that has worked is tried twice, as long as the error
 * says which one has failed.
 */

import {Batches} from "./batches.js";
import {reportTwo} from "./datastar.js";

/**
 * An attribute of an element, in the order in which Datastar goes through them.
 * @typedef {{el: Element, name: string, value: string}} Item
 */

/**
 * What an error of Datastar's says of the attribute that has failed.
 * @typedef {{value: string, rawKey?: string, tag?: string, id?: string}} Culprit
 */

/** Attributes that are named in the log for one scan: where Datastar may not run code at all, each one fails. */
const MOST_NAMED = 10;

/** Attribute of the root element by which `Scan` sees how far Datastar has come. */
const MARK = "data-fs-scan";

/**
 * Read Datastar's error; return null for any other.
 * @param {unknown} error
 * @returns {Culprit | null}
 */
export function culpritOf(error) {
  const message = error instanceof Error ? error.message : "";
  const [, context] = message.split("\nContext: ");
  try {
    const {element, expression} = JSON.parse(context);
    const {value, rawKey} = expression;
    return typeof value === "string" ? {value, rawKey, tag: element?.tag, id: element?.id} : null;
  } catch {
    return null;
  }
}

/**
 * Return the attribute that has failed, if that is certain, and those that Datastar has not come to. If it is not known
 * how far Datastar has come, these begin with ones that it has seen already.
 * @param {Item[]} items
 * @param {Culprit | null} culprit
 * @returns {{failed: Item | null, left: Item[]}}
 */
export function behind(items, culprit) {
  const like = culprit ? items.filter((item) => isLike(item, culprit)) : [];
  if (!like.length) return {failed: null, left: items};
  const [first] = like;
  const at = items.indexOf(first);
  // The same text may be right as another attribute, or mean nothing to Datastar.
  const isCertain = like.every(({name}) => name === first.name);
  return isCertain ? {failed: first, left: items.slice(at + 1)} : {failed: null, left: items.slice(at)};
}

/** @param {Item} item @param {Culprit} culprit */
function isLike({el, name, value}, {value: text, rawKey, tag, id}) {
  const isElement = tag === undefined || (el.tagName === tag && el.id === (id ?? ""));
  return value === text && (rawKey === undefined || name === `data-${rawKey}`) && isElement;
}

/**
 * Return the attributes that Datastar looks at when it is told of these changes of the page.
 * @param {Pick<MutationRecord, "type" | "target" | "attributeName" | "addedNodes">[]} records
 * @returns {Item[]}
 */
export function itemsOf(records) {
  const items = [];
  for (const {type, target, attributeName, addedNodes} of records) {
    if (type === "childList") {
      for (const node of addedNodes) if (node.nodeType === 1) items.push(...itemsIn(/** @type {Element} */ (node)));
    } else if (attributeName?.startsWith("data-") && attributeName !== MARK) {
      const el = /** @type {Element} */ (target);
      const value = el.getAttribute(attributeName);
      if (value !== null) items.push({el, name: attributeName, value});
    }
  }
  return items;
}

/**
 * Return the `data-*` attributes of an element and of all below it.
 * @param {Element} root
 * @returns {Item[]}
 */
function itemsIn(root) {
  return [root, ...root.querySelectorAll("*")].flatMap((el) =>
    [...el.attributes]
      .filter(({name}) => name.startsWith("data-") && name !== MARK)
      .map(({name, value}) => ({el, name, value})),
  );
}

/** Write an attribute as in markup. @param {Item} item */
function written({el, name, value}) {
  const id = el.id ? ` id="${el.id}"` : "";
  return `<${el.localName}${id} ${name}="${value.length > 200 ? `${value.slice(0, 200)}…` : value}">`;
}

/** Makes sure that every attribute of the page is tried. Lifetime: the page. */
export class Scan {
  #datastar;
  #batches;
  #root = document.documentElement;
  /** The number that Datastar has last seen in our mark, and the last that was set. */
  #reached = 0;
  #set = 0;
  /** The mark that was set when an error was heard, until it is known whether it has ended a scan; 0 for none. */
  #doubt = 0;
  #isFirst = true;
  /** How often a Datastar was ready: each is once. */
  #ready = 0;
  /** @type {Culprit | null} */
  #culprit = null;
  #isTrying = false;
  #hasFailed = false;
  /** @type {Promise<unknown>} */
  #tries = Promise.resolve();

  /** @param {import("./datastar.js").Datastar} datastar which has not yet looked at the page with our attributes */
  constructor(datastar) {
    this.#datastar = datastar;
    this.#batches = new Batches(datastar);
    /** @param {{value: string}} context */
    const apply = ({value}) => void (this.#reached = Number(value));
    datastar.attribute({name: "fs-scan", apply});
    addEventListener("error", ({error}) => this.#heard(error));
    addEventListener("unhandledrejection", () => queueMicrotask(() => this.#batches.settle()));
    document.addEventListener("datastar-ready", () => ++this.#ready > 1 && reportTwo());
  }

  /**
   * Wait until Datastar has been through the page, and be there for its patches. Return false if Datastar does not
   * look at the page at all.
   */
  async begin() {
    const root = this.#root;
    // The page wants no Datastar, so there is no scan to look after.
    if (root.matches("[data-ignore], [data-ignore__self]")) return true;
    await task(); // Datastar's own comes first
    let isThere = await this.#isWatching();
    if (!isThere) {
      // The scan has failed. Datastar watches the page once it has scanned one that has nothing for it. Then each
      // attribute that is written again is a change of its own, and an error in one does not stop the next.
      root.setAttribute("data-ignore", "");
      this.#datastar.attribute({name: "fs-again", apply() {}});
      await task();
      root.removeAttribute("data-ignore");
      await this.#tryBehind(itemsIn(root));
      isThere = await this.#isWatching();
    }
    root.removeAttribute(MARK);
    this.#ready ||= 1; // or it was before we were there
    this.#isFirst = false;
    this.#culprit = null;
    // It is told of changes later than Datastar, whose observer is older and watches the root element.
    const observer = new MutationObserver((records) => this.#looked(records));
    observer.observe(document, {subtree: true, childList: true, attributes: true});
    return isThere;
  }

  /** Tell whether Datastar sees what changes in the page. */
  async #isWatching() {
    this.#mark();
    await null; // it is told of changes in a microtask, which was queued before this one
    return this.#reached === this.#set;
  }

  #mark() {
    this.#root.setAttribute(MARK, String(++this.#set));
  }

  /** @param {unknown} error that nobody has caught */
  #heard(error) {
    queueMicrotask(() => this.#batches.settle());
    if (this.#isTrying) {
      this.#hasFailed = true;
    } else if (this.#isFirst) {
      this.#culprit = culpritOf(error) ?? this.#culprit;
    } else {
      this.#culprit = culpritOf(error);
      // Was that Datastar, on its way through changes of the page? Then it does not come to this one before we do.
      if (!this.#doubt) {
        this.#mark();
        this.#doubt = this.#set;
      }
    }
  }

  /** @param {MutationRecord[]} records the changes that Datastar has just been told of */
  #looked(records) {
    if (!this.#doubt) return;
    const isThrough = this.#reached === this.#doubt;
    this.#doubt = 0;
    this.#root.removeAttribute(MARK);
    if (!isThrough) void this.#tryBehind(itemsOf(records));
  }

  /**
   * Try those of the attributes that Datastar has not come to because of an error.
   * @param {Item[]} items
   */
  #tryBehind(items) {
    const {failed, left} = behind(items, this.#culprit);
    if (failed) report(failed);
    return (this.#tries = this.#tries.then(() => this.#try(left)));
  }

  /** @param {Item[]} items */
  async #try(items) {
    /** @type {Map<Element, Set<string>>} */
    const tried = new Map();
    let named = 0;
    this.#isTrying = true;
    for (const item of items) {
      const {el, name, value} = item;
      const names = tried.get(el) ?? new Set();
      if (names.has(name) || el.getAttribute(name) !== value) continue;
      tried.set(el, names.add(name));
      this.#hasFailed = false;
      el.setAttribute(name, value);
      await null;
      if (this.#hasFailed && ++named <= MOST_NAMED) report(item);
    }
    this.#isTrying = false;
    if (named > MOST_NAMED) console.error(`FastState: nor could it use ${named - MOST_NAMED} others.`);
  }
}

/** Let what is due happen first. */
function task() {
  return new Promise((done) => setTimeout(done));
}

/** @param {Item} item */
function report(item) {
  console.error(
    `FastState: Datastar could not use ${written(item)}. All else goes on. If the attribute is for another library, ` +
      "put data-ignore__self on its element.",
  );
}
