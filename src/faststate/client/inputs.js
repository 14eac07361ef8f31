// @ts-check
/**
 * Inputs that are bound to a signal in both ways. A choice (checkbox, radio, select) shows its signal at once; the text of
 * an input is changed only if it means something else, and not while its person is writing it.
 */

import {numberOf, textOf} from "./texts.js";
import {same} from "./words.js";

/**
 * The signal of a bound field, as an input sees it.
 * @typedef {object} Signal
 * @property {string} path
 * @property {() => any} read
 * @property {(value: any) => void} write
 * @property {() => any} word returns what the server has said last of it: a value of the field's type
 */

/**
 * How an input shows a value, and which one it holds (undefined for none that is finished).
 * @typedef {object} Control
 * @property {boolean} isText whether its person writes the value
 * @property {boolean} [isKept] whether a refused value stays, to be corrected
 * @property {(el: any, signal: Signal) => any} read
 * @property {(el: any, value: any) => void} show
 */

/**
 * An input, bound.
 * @typedef {object} Binding
 * @property {Element} el
 * @property {boolean} isKept
 * @property {(value: any) => void} agree is told that the server has the value that the input shows
 * @property {() => void} show brings the input to its signal, whatever it holds
 * @property {() => void} stop
 */

/** The event by which Datastar tells an element that a patch has changed its value or choice. */
const PROPERTY_CHANGED = "datastar-prop-change";

/**
 * Read the text of a choice as a value of the kind that the signal has.
 * @param {string} text
 * @param {any} like
 */
function valueOf(text, like) {
  if (typeof like === "number") return numberOf(text) ?? text;
  if (typeof like === "boolean" && (text === "true" || text === "false")) return text === "true";
  return text;
}

/** @param {Signal} signal */
const kindOf = (signal) => signal.word() ?? signal.read();

/** @type {Control} */
const checkbox = {
  isText: false,
  read(el, signal) {
    const [kind, now] = [kindOf(signal), signal.read()];
    if (Array.isArray(kind)) {
      const others = (Array.isArray(now) ? [...now] : []).filter((item) => !same(item, el.value));
      return el.checked ? [...others, valueOf(el.value, kind[0])] : others;
    }
    if (typeof kind === "string" && el.hasAttribute("value")) return el.checked ? el.value : "";
    return el.checked;
  },
  show(el, value) {
    if (Array.isArray(value)) el.checked = value.some((item) => same(item, el.value));
    else if (typeof value === "string") el.checked = value === "true" || (value !== "" && value === el.value);
    else el.checked = Boolean(value);
  },
};

/** @type {Control} */
const radio = {
  isText: false,
  read: (el, signal) => (el.checked ? valueOf(el.value, kindOf(signal)) : undefined),
  show(el, value) {
    el.checked = same(value, el.value);
  },
};

/** @type {Control} */
const select = {
  isText: false,
  read: (el, signal) => valueOf(el.value, kindOf(signal)),
  show(el, value) {
    // Blank if there is no such option: another one may come with the next patch, and any other would be a lie.
    const place = [...el.options].findIndex((option) => same(value, option.value));
    if (el.selectedIndex !== place) el.selectedIndex = place;
  },
};

/** @type {Control} */
const multiple = {
  isText: false,
  read(el, signal) {
    const [first] = [kindOf(signal)].flat();
    return [...el.selectedOptions].map((option) => valueOf(option.value, first));
  },
  show(el, value) {
    const chosen = [value].flat();
    for (const option of el.options) option.selected = chosen.some((item) => same(item, option.value));
  },
};

/** @type {Control} */
const text = {
  isText: true,
  isKept: true,
  read(el, signal) {
    if (el.validity?.badInput) return undefined; // half a date
    return typeof kindOf(signal) === "number" ? numberOf(el.value) : el.value;
  },
  show: showText,
};

/** @type {Control} */
const number = {
  isText: true,
  read(el, signal) {
    if (el.validity.badInput) return undefined;
    const kind = kindOf(signal); // "" stands for None; any other text for a decimal, which keeps its places
    return typeof kind === "string" && kind !== "" ? el.value : numberOf(el.value);
  },
  show: showText,
};

/** A slider: nobody writes its text. @type {Control} */
const range = {...number, isText: false};

/**
 * @param {string} name of the property, as the attribute has it: "value-as-number"
 * @returns {Control}
 */
function property(name) {
  const key = name.replace(/-./g, (found) => found[1].toUpperCase());
  return {
    isText: false,
    read: (el) => el[key],
    show(el, value) {
      el[key] = value;
    },
  };
}

/**
 * Show a text; the caret and the selection stay.
 * @param {any} el
 * @param {any} value
 */
function showText(el, value) {
  const written = textOf(value);
  if (el.value === written && !el.validity?.badInput) return;
  if (!isFocused(el) || typeof el.selectionStart !== "number") {
    el.value = written;
    return;
  }
  const {selectionStart, selectionEnd, selectionDirection} = el;
  el.value = written;
  el.setSelectionRange(selectionStart, selectionEnd, selectionDirection);
}

/** @param {Element} el */
function isFocused(el) {
  return /** @type {Document | ShadowRoot} */ (el.getRootNode()).activeElement === el;
}

/**
 * @param {any} el
 * @param {string} [name] of a property to bind
 * @returns {Control | null}
 */
function controlOf(el, name) {
  if (name) return property(name);
  if (el instanceof HTMLSelectElement) return el.multiple ? multiple : select;
  if (!(el instanceof HTMLInputElement)) return "value" in el ? text : null;
  if (el.type === "checkbox") return checkbox;
  if (el.type === "radio") return radio;
  if (el.type === "file") return null;
  if (el.type === "range") return range;
  return el.type === "number" ? number : text;
}

/**
 * Bind an input to a signal. Returns null for an element that holds no value.
 * @param {any} el
 * @param {Signal} signal
 * @param {(run: () => void) => () => void} effect
 * @param {{prop?: string, events?: string[]}} [options] the property to bind, and the events at which to read it
 * @returns {Binding | null}
 */
export function bindInput(el, signal, effect, {prop, events = ["input", "change"]} = {}) {
  const control = controlOf(el, prop);
  if (!control) return null;
  if (control === radio && !el.name) el.setAttribute("name", signal.path);
  const aborter = new AbortController();
  // Before other listeners: the event that one of them sends has the new value.
  const first = {capture: true, signal: aborter.signal};
  let isComposing = false;
  /** The text that the input was given, or that the server has agreed to: any other one its person is writing. */
  let agreed = el.value;
  /** The text that was read last: a "change" says nothing new of it. @type {string | null} */
  let heard = null;

  const hear = () => {
    if (control.isText && el.value === heard) return;
    heard = el.value;
    const value = control.read(el, signal);
    if (value !== undefined) signal.write(value);
  };
  /** @param {boolean} always */
  const render = (always) => {
    const value = signal.read();
    if (value === undefined || isComposing) return;
    if (control.isText) {
      const held = control.read(el, signal);
      if (held !== undefined && same(held, value)) return;
      if (!always && isFocused(el) && el.value !== agreed) return;
    }
    control.show(el, value);
    agreed = heard = el.value;
  };
  const show = () => render(true);

  if (control.isText && isFocused(el) && el.value !== el.defaultValue) hear(); // written before there was a program
  else show();
  const end = effect(() => render(false));
  for (const name of events) el.addEventListener(name, hear, first);
  el.addEventListener(PROPERTY_CHANGED, show, first);
  el.addEventListener("blur", show, first);
  el.addEventListener("compositionstart", () => (isComposing = true), first);
  el.addEventListener("compositionend", () => (isComposing = false), first);
  const options = el instanceof HTMLSelectElement ? new MutationObserver(show) : null;
  options?.observe(el, {childList: true, subtree: true, attributes: true, attributeFilter: ["value", "selected"]});
  return {
    el,
    isKept: Boolean(control.isKept),
    agree(value) {
      if (control.isText && el.value === textOf(value)) agreed = el.value;
    },
    show,
    stop() {
      end();
      aborter.abort();
      options?.disconnect();
    },
  };
}
