// @ts-check
/**
 * Choices (checkboxes, radios, selects) that are not bound to a signal. A patch does not switch what a person has chosen,
 * and a refused choice is taken back.
 */

/** Controls with a signal of their own. */
const BOUND = /^data-(fs-)?bind([:_]|$)/;

/** @param {Element} el */
export const isBound = (el) => [...el.attributes].some(({name}) => BOUND.test(name));

/**
 * @param {string[]} a
 * @param {string[]} b
 */
const isEqual = (a, b) => a.length === b.length && a.every((value, at) => value === b[at]);

/**
 * @param {HTMLSelectElement} select
 * @returns {{chosen: string[], byDefault: string[], isFresh: boolean}} the values that are chosen, and those that the
 *   markup chooses; `isFresh` if a page that was loaded just now would show the same choice
 */
function choiceOf(select) {
  const options = [...select.options];
  const chosen = options.filter((option) => option.selected).map((option) => option.value);
  const byDefault = options.filter((option) => option.defaultSelected).map((option) => option.value);
  const first = options.find((option) => !option.disabled);
  const fresh = byDefault.length || select.multiple ? byDefault : first ? [first.value] : [];
  return {chosen, byDefault, isFresh: isEqual(chosen, select.multiple ? fresh : fresh.slice(-1))};
}

/**
 * Apply a patch, and keep what is chosen in selects: a morph gives an option the value of the next one, and with it the
 * choice. Where the patch says what is chosen, it wins.
 * @param {() => void} apply
 */
export function keepChoices(apply) {
  const kept = [...document.querySelectorAll("select")]
    .filter((select) => !isBound(select))
    .map((select) => ({select, before: choiceOf(select)}));
  apply();
  for (const {select, before} of kept) {
    const now = choiceOf(select);
    if (!select.isConnected || isEqual(now.chosen, before.chosen) || !isEqual(now.byDefault, before.byDefault)) continue;
    const values = new Set([...select.options].map((option) => option.value));
    if (select.multiple) for (const option of select.options) option.selected = before.chosen.includes(option.value);
    else if (before.chosen.length && values.has(before.chosen[0])) select.value = before.chosen[0];
    else if (!before.isFresh) select.selectedIndex = -1; // what was chosen is gone: nothing else was
  }
}

/**
 * Tell what a control holds, to know later whether its person has changed it. "" for what is no control.
 * @param {any} el
 */
export function contentOf(el) {
  if (el instanceof HTMLSelectElement) return JSON.stringify([...el.selectedOptions].map((option) => option.value));
  if (el instanceof HTMLInputElement && (el.type === "checkbox" || el.type === "radio")) return String(el.checked);
  return "value" in el ? String(el.value) : "";
}

/**
 * Give a control back the content that the page's markup gives it.
 * @param {any} el
 */
export function restore(el) {
  if (el instanceof HTMLSelectElement) {
    for (const option of el.options) option.selected = option.defaultSelected;
    if (!el.multiple && el.selectedIndex < 0) el.selectedIndex = [...el.options].findIndex((option) => !option.disabled);
  } else if (el instanceof HTMLInputElement && (el.type === "checkbox" || el.type === "radio")) {
    el.checked = el.defaultChecked;
  } else if (el instanceof HTMLInputElement && el.type === "file") {
    el.value = "";
  } else if ("defaultValue" in el) {
    el.value = el.defaultValue;
  }
}

/**
 * Take back the choice whose event was refused: the view around it has the state's value in its markup.
 * @param {any} el that the event came from
 * @param {string} sent its content then
 */
export function takeBack(el, sent) {
  const isNumber = el instanceof HTMLInputElement && ["number", "range"].includes(el.type);
  const isBox = el instanceof HTMLInputElement && ["checkbox", "radio"].includes(el.type);
  if (!(isNumber || isBox || el instanceof HTMLSelectElement) || !el.closest("[data-fs-view]") || isBound(el)) return;
  if (contentOf(el) !== sent) return;
  if (isNumber && document.activeElement === el) {
    el.addEventListener("blur", () => contentOf(el) === sent && restore(el), {once: true});
  } else if (el instanceof HTMLInputElement && el.type === "radio") {
    for (const other of radiosOf(el)) restore(other);
  } else restore(el);
}

/**
 * The radio buttons of which one is chosen.
 * @param {HTMLInputElement} el
 * @returns {HTMLInputElement[]}
 */
export function radiosOf(el) {
  if (!el.name) return [el];
  const root = /** @type {Document} */ (el.getRootNode());
  return [...root.querySelectorAll("input")].filter(
    (other) => other.type === "radio" && other.name === el.name && other.form === el.form,
  );
}
