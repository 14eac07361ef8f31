// @ts-check
/** Forms: one submit at a time, and emptied only of what was sent. */

import {contentOf, isBound, radiosOf, restore} from "./choices.js";

/** The forms that are being sent. @type {WeakSet<HTMLFormElement>} */
const sending = new WeakSet();

/** Mark of a button that was disabled here: a patch that renders the button takes it off, and decides itself. */
const HELD = "data-fs-held";

/** @param {HTMLFormElement} form */
export const isSending = (form) => sending.has(form);

/**
 * Note that a form is being sent, and show it: the form is busy, and its submit buttons are disabled.
 * @param {HTMLFormElement} form
 * @returns {() => void} what ends that
 */
export function hold(form) {
  sending.add(form);
  const focused = document.activeElement;
  const busy = form.getAttribute("aria-busy");
  form.setAttribute("aria-busy", "true");
  const buttons = /** @type {HTMLButtonElement[]} */ ([...form.elements]).filter(
    (el) => /^(button|input)$/i.test(el.tagName) && el.type === "submit" && !el.disabled,
  );
  for (const button of buttons) {
    button.disabled = true;
    button.setAttribute(HELD, "");
  }
  return () => {
    sending.delete(form);
    if (busy === null) form.removeAttribute("aria-busy");
    else form.setAttribute("aria-busy", busy);
    for (const button of buttons) {
      if (!button.hasAttribute(HELD)) continue;
      button.removeAttribute(HELD);
      button.disabled = false;
      // A disabled button loses the focus.
      if (button === focused && document.activeElement === document.body) button.focus({preventScroll: true});
    }
  };
}

/**
 * Tell what the controls of a form hold.
 * @param {HTMLFormElement} form
 * @returns {Map<Element, string>}
 */
export function contentsOf(form) {
  return new Map([...form.elements].map((el) => [el, contentOf(el)]));
}

/**
 * Reset a form after it was sent, but for the controls that have been changed since, or have come since.
 * @param {HTMLFormElement} form
 * @param {Map<Element, string>} sent
 */
export function resetUnchanged(form, sent) {
  /** @param {Element} el */
  const isAsSent = (el) => sent.get(el) === contentOf(el);
  const controls = [...form.elements];
  if (controls.every(isAsSent)) return form.reset();
  for (const el of controls) {
    const group = el instanceof HTMLInputElement && el.type === "radio" ? radiosOf(el) : [el];
    if (!isBound(el) && group.every(isAsSent)) restore(el);
  }
}
