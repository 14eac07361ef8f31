import assert from "node:assert/strict";
import {test} from "node:test";

import {numberOf, textOf} from "../../src/faststate/client/texts.js";

test("a text is read as the number that its person means", () => {
  const meant = {"-5": -5, "+5": 5, "12.50": 12.5, "12.": 12, ".5": 0.5, "1e3": 1000, "1E-2": 0.01, " 7 ": 7, "007": 7, "0": 0};
  for (const [text, value] of Object.entries(meant)) assert.equal(numberOf(text), value, text);
});

test("no text is no number, and not nought", () => {
  assert.equal(numberOf(""), "");
  assert.equal(numberOf("  "), "");
});

test("a number that is being written is not read yet", () => {
  for (const text of ["-", "+", ".", "-.", "1e", "1e-", "1.5E+", ".5e"]) assert.equal(numberOf(text), undefined, text);
});

test("what is no number is left to the server, and so is one too exact for JavaScript", () => {
  for (const text of ["abc", "0x10", "Infinity", "1,5", "--1", "1e999", "9007199254740993", "0.1234567890123456789"]) {
    assert.equal(numberOf(text), text);
  }
  assert.equal(numberOf("100000000000000000000"), 1e20);
});

test("a value is shown as its text", () => {
  assert.deepEqual([12, "a", "", true, 0, undefined, null].map(textOf), ["12", "a", "", "true", "0", "", ""]);
});
