// @ts-check
/**
 * Controls of a page that the browser has restored: by "back", by a reload, or with its tabs.
 * It puts each control as it was when the page was left, while the page around it shows what the state is now.
 */

import {isBound} from "./choices.js";

const CONTROLS = ":is(input, select, textarea)";
const IN_VIEWS = `[data-fs-view] ${CONTROLS}, ${CONTROLS}[data-fs-view]`;

/**
 * Show in the controls of views what the server has written for them. A text for which it has written nothing is its
 * person's, and stays.
 */
function showState() {
  for (const el of document.querySelectorAll(IN_VIEWS)) {
    if (el === document.activeElement || isBound(el)) continue;
    if (el instanceof HTMLSelectElement) {
      for (const option of el.options) option.selected = option.defaultSelected;
    } else if (el instanceof HTMLInputElement && (el.type === "checkbox" || el.type === "radio")) {
      el.checked = el.defaultChecked;
    } else if (el instanceof HTMLInputElement || el instanceof HTMLTextAreaElement) {
      if (el.defaultValue) el.value = el.defaultValue;
    }
  }
}

/** Show the state in the controls of a page that was not loaded for the first time. */
export function showStateOfRestored() {
  const [navigation] = /** @type {PerformanceNavigationTiming[]} */ (performance.getEntriesByType("navigation"));
  if (!navigation || !["back_forward", "reload"].includes(navigation.type)) return;
  showState();
  // Browsers restore controls at different moments, the last of them with the event "load".
  if (document.readyState !== "complete") addEventListener("load", () => setTimeout(showState), {once: true});
}
