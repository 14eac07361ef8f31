// @ts-check
/** Texts of inputs as the values that they mean, and back. */

/** The beginning of a number, which is none yet. */
const UNFINISHED = /^[+-]?(\.|\d+\.?\d*e[+-]?|\.\d+e[+-]?)?$/i;

/** A number as people write it: no "0x10" or "Infinity", which JavaScript would read too. */
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/** Digits of a number that JavaScript keeps exactly. */
const EXACT = 15;

/**
 * Return the value that the text of an input means, for a signal that holds a number: a number; "" for none; undefined
 * for a text that is not finished, such as "-". What is no number, or one too exact for JavaScript, stays a text.
 * @param {string} text
 * @returns {number | string | undefined}
 */
export function numberOf(text) {
  const written = text.trim();
  if (written === "") return "";
  if (UNFINISHED.test(written)) return undefined;
  const value = Number(written);
  if (!NUMBER.test(written) || !Number.isFinite(value)) return text;
  const digits = written.replace(/e.*$/i, "").replace(/[^\d]/g, "").replace(/^0+/, "").replace(/0+$/, "");
  return digits.length > EXACT ? written : value;
}

/**
 * Return the text that an input shows for a signal's value.
 * @param {any} value
 */
export function textOf(value) {
  return value === undefined || value === null ? "" : String(value);
}
