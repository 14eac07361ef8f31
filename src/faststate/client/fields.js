// @ts-check
/**
 * Bound fields: what a person has typed and not sent is theirs. Patches leave it alone, an event carries it, and no
 * other field, and the answer to that very event says what the server has made of it.
 */

import {keepChoices} from "./choices.js";
import {patch, peek} from "./datastar.js";
import {bindInput} from "./inputs.js";
import {same, Words} from "./words.js";

/**
 * The fields that an event carries: the path of their state's signals, and their values when it was sent. `answered`
 * are those of which its answer has said a word.
 * @typedef {{path: string, values: Record<string, any>, answered: Set<string>}} Carried
 */

/** A path of a signal, of more than one name. */
const PATH = /^\w+(\.\w+)+$/;

/**
 * @param {string} path
 * @param {any} value
 */
function nested(path, value) {
  return path.split(".").reduceRight((inner, name) => ({[name]: inner}), value);
}

/** @param {any} value */
const copied = (value) => (typeof value === "object" ? JSON.parse(JSON.stringify(value)) : value);

/** The bound fields of one page. */
export class Fields {
  /** @type {import("./datastar.js").Datastar} */ #datastar;
  #words = new Words();
  /**
   * The bound inputs by the path of their field; a field that an event carries has a set too.
   * @type {Map<string, Set<import("./inputs.js").Binding>>}
   */
  #inputs = new Map();
  /** @type {WeakMap<Element, import("./inputs.js").Binding>} */
  #bindings = new WeakMap();
  /** What the last event has carried of a field, until it is answered. @type {Map<string, Carried>} */
  #underWay = new Map();
  /** Fields of which it is not known whether the server has got them: an answer was lost. @type {Set<string>} */
  #unsure = new Set();

  /** @param {import("./datastar.js").Datastar} datastar */
  constructor(datastar) {
    this.#datastar = datastar;
    document.addEventListener("reset", ({target}) => {
      const controls = target instanceof HTMLFormElement ? [...target.elements] : [];
      setTimeout(() => controls.forEach((el) => this.#bindings.get(el)?.show())); // after the reset itself
    });
  }

  // -- what the server says ------------------------------------------------------------------------------------------

  /**
   * Note what an element seeds, and take out what its page must not take over.
   * @param {Element} el that has `data-signals`, written as JSON
   */
  seed(el) {
    const seeded = el.getAttribute("data-signals");
    if (!seeded) return;
    let signals;
    try {
      signals = JSON.parse(seeded);
    } catch {
      return; // not as the server has written it
    }
    const rest = this.#words.take(signals, this.#isTyped);
    if (rest !== signals) el.setAttribute("data-signals", expressionOf(rest));
  }

  /**
   * Take an event of the stream, or of an answer: patch the page, without what its person has typed.
   * @param {import("./sse.js").SSEEvent} event
   * @param {Element} el
   * @param {Carried | null} [carried] by the event that this answers
   */
  take(event, el, carried = null) {
    if (event.event === "faststate-word") this.#hear(event.data, carried);
    else if (event.event === "datastar-patch-signals") patch(this.#left(event), el);
    else if (event.event === "datastar-patch-elements") keepChoices(() => patch(event, el));
    else patch(event, el);
  }

  /** @param {import("./sse.js").SSEEvent} event */
  #left(event) {
    const lines = event.data.split("\n");
    const json = lines.filter((line) => line.startsWith("signals ")).map((line) => line.slice(8));
    if (lines.length !== json.length) return event; // only for signals that are missing
    let signals;
    try {
      signals = JSON.parse(json.join("\n"));
    } catch {
      return event; // not of ours: Datastar reads JavaScript too
    }
    const rest = this.#words.take(signals, this.#isTyped);
    return rest === signals ? event : {...event, data: `signals ${JSON.stringify(rest)}`};
  }

  /**
   * @param {string} data
   * @param {Carried | null} carried
   */
  #hear(data, carried) {
    const {path, version, values} = JSON.parse(data);
    const namespace = path.join(".");
    for (const [name, value] of Object.entries(values)) {
      const field = `${namespace}.${name}`;
      this.#words.note(field, value, version);
      this.#unsure.delete(field);
      this.#inputs.get(field)?.forEach((input) => input.agree(value));
      if (carried && carried.path === namespace) carried.answered.add(name);
    }
  }

  /**
   * Tell whether a bound field is typed: it is not as its word says, or it was sent and that is not answered yet.
   * @param {string} path
   * @param {any} word
   */
  #isTyped = (path, word) => {
    if (!this.#inputs.has(path)) return undefined;
    return this.#underWay.has(path) || !same(this.#read(path), word);
  };

  /** Read a signal; whoever asks does not depend on it. @param {string} path */
  #read(path) {
    return peek(this.#datastar, () => this.#datastar.getPath(path));
  }

  // -- what is sent --------------------------------------------------------------------------------------------------

  /**
   * Return those of a state's bound fields that its person has changed since the server's last word, for an event that
   * is sent now. `settle` must follow.
   * @param {string} [path] of the state's signals
   * @param {string[]} [names] of its bound fields
   * @returns {Carried | null} null if there are none
   */
  carried(path = "", names = []) {
    /** @type {Carried} */
    const carried = {path, values: {}, answered: new Set()};
    for (const name of names) {
      const field = `${path}.${name}`;
      if (!this.#inputs.has(field)) this.#inputs.set(field, new Set());
      const [value, word] = [this.#read(field), this.#words.get(field)];
      // One that was sent and has changed back since is sent again: the server would keep what it got first.
      const isOpen = !word || this.#unsure.has(field) || this.#isTyped(field, word.value);
      if (value === undefined || !isOpen) continue;
      carried.values[name] = copied(value);
      this.#underWay.set(field, carried);
    }
    return Object.keys(carried.values).length ? carried : null;
  }

  /**
   * Bring the fields that an event has carried to the server's word, where they are as they were sent. A text that was
   * refused stays, for its person to correct; what was not answered is sent again with the next event.
   * @param {Carried | null} carried
   * @param {boolean} isRefused
   */
  settle(carried, isRefused) {
    for (const [name, sent] of Object.entries(carried?.values ?? {})) {
      const path = `${carried?.path}.${name}`;
      if (this.#underWay.get(path) !== carried) continue; // a later event has carried it too, and overtakes this one
      this.#underWay.delete(path);
      const isAnswered = carried?.answered.has(name);
      if (!isAnswered && !isRefused) this.#unsure.add(path);
      const word = this.#words.get(path);
      const inputs = this.#inputs.get(path) ?? new Set();
      const now = this.#read(path);
      if (!word || JSON.stringify(now) !== JSON.stringify(sent)) continue;
      if (isRefused ? this.#isKept(inputs, sent) : !isAnswered) continue;
      if (JSON.stringify(now) !== JSON.stringify(word.value)) this.#datastar.mergePatch(nested(path, word.value));
      for (const input of inputs) input.agree(word.value);
    }
  }

  /**
   * @param {Set<import("./inputs.js").Binding>} inputs
   * @param {any} sent
   */
  #isKept(inputs, sent) {
    return inputs.size ? [...inputs].some((input) => input.isKept) : typeof sent === "string";
  }

  // -- inputs --------------------------------------------------------------------------------------------------------

  /**
   * Bind an input to the field at `path`, for as long as it is in the page.
   * @param {Element} el
   * @param {string} path
   * @param {Map<string, Set<string>>} mods of its attribute: `prop`, `event`
   * @returns {(() => void) | undefined} what unbinds it
   */
  bind(el, path, mods) {
    const {effect, getPath, mergePatch} = this.#datastar;
    const [prop] = mods.get("prop") ?? [];
    const signal = {
      path,
      read: () => getPath(path),
      write: (/** @type {any} */ value) => mergePatch(nested(path, value)),
      word: () => this.#words.get(path)?.value,
    };
    if (!PATH.test(path)) return console.error(`FastState: data-fs-bind="${path}" names no field`, el), undefined;
    if (this.#read(path) === undefined) mergePatch(nested(path, "value" in el ? el.value : ""), {ifMissing: true});
    const binding = bindInput(el, signal, effect, {prop, events: mods.get("event") && [...mods.get("event") ?? []]});
    if (!binding) return console.error("FastState: this element holds no value that could be bound", el), undefined;
    const inputs = this.#inputs.get(path) ?? new Set();
    this.#inputs.set(path, inputs.add(binding));
    this.#bindings.set(el, binding);
    return () => {
      binding.stop();
      inputs.delete(binding);
      if (this.#bindings.get(el) === binding) this.#bindings.delete(el);
    };
  }
}

/**
 * Write signals as an expression of an attribute: no text in it can end or change that (see `wire/values.py`).
 * @param {object} signals
 */
function expressionOf(signals) {
  return JSON.stringify(signals)
    .replaceAll("\\\\", "\\u005c")
    .replace(/[@;/`$]|[^\x20-\x7e]/g, (found) => `\\u${found.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
