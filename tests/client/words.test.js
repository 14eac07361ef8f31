import assert from "node:assert/strict";
import {test} from "node:test";

import {isOlder, same, Words} from "../../src/faststate/client/words.js";

/** A page with signals, some of which are bound fields, and what it has been told of them. */
class FakePage {
  words = new Words();
  fields = new Set(["Doc.title", "Doc.pages"]);
  signals = {};

  /** Take a patch as the page does; return what was taken over. */
  patch(patch) {
    const isTyped = (path, word) => (this.fields.has(path) ? !same(this.read(path), word) : undefined);
    const rest = this.words.take(patch, isTyped);
    const merge = (into, from) => {
      for (const [name, value] of Object.entries(from)) {
        if (value !== null && typeof value === "object" && !Array.isArray(value)) merge((into[name] ??= {}), value);
        else into[name] = value;
      }
    };
    merge(this.signals, rest);
    return rest;
  }
  read(path) {
    return path.split(".").reduce((inner, name) => inner?.[name], this.signals);
  }
}

test("a number and a text that says it are the same, and texts only if they are equal", () => {
  assert.ok(same(12, "12.0") && same("12", 12) && same(true, "true") && same(["1"], [1]) && same("", ""));
  for (const [a, b] of [["12", "12.0"], ["007", "7"], [0, ""], [0, " "], [false, ""], [1, true], [["a"], ["a", "b"]]]) {
    assert.equal(same(a, b), false, JSON.stringify([a, b]));
    assert.equal(same(b, a), false, JSON.stringify([b, a]));
  }
});

test("versions of one epoch have an order, and all others have none", () => {
  assert.ok(isOlder("ab.9", "ab.10"));
  for (const [a, b] of [["ab.10", "ab.9"], ["ab.9", "ab.9"], ["ab.1", "cd.2"], ["", "ab.2"], ["ab.2", ""], ["", ""]]) {
    assert.equal(isOlder(a, b), false, JSON.stringify([a, b]));
  }
});

test("a patch that touches nothing typed is taken as it is", () => {
  const page = new FakePage();
  const seed = {Doc: {title: "a", likes: 1, _version: "e.1"}, _fs: {w: {p: "token"}}};
  assert.equal(page.patch(seed), seed);
  const patch = {Doc: {title: "b", likes: 2, _version: "e.2"}};
  assert.equal(page.patch(patch), patch);
  assert.deepEqual(page.words.get("Doc.title"), {value: "b", version: "e.2"});
});

test("a typed field is left out of a patch, whose value becomes its word", () => {
  const page = new FakePage();
  page.patch({Doc: {title: "a", likes: 1, _version: "e.1"}});
  page.signals.Doc.title = "typed";
  assert.deepEqual(page.patch({Doc: {title: "b", likes: 2, _version: "e.2"}}), {Doc: {likes: 2, _version: "e.2"}});
  assert.deepEqual([page.signals.Doc.title, page.words.get("Doc.title").value], ["typed", "b"]);
  page.patch({Doc: {title: "typed", _version: "e.3"}}); // now the server has it too
  page.patch({Doc: {title: "c", _version: "e.4"}});
  assert.equal(page.signals.Doc.title, "c");
});

test("a signal that is no bound field is the server's, whatever the page has made of it", () => {
  const page = new FakePage();
  page.patch({Doc: {likes: 1}});
  page.signals.Doc.likes = 5;
  assert.deepEqual(page.patch({Doc: {likes: 2}}), {Doc: {likes: 2}});
});

test("a patch that an answer has overtaken changes no field", () => {
  const page = new FakePage();
  page.patch({Doc: {title: "a", pages: 1, _version: "e.1"}});
  page.words.note("Doc.title", "c", "e.3"); // an answer's
  page.signals.Doc.title = "c";
  assert.deepEqual(page.patch({Doc: {title: "b", pages: 2, _version: "e.2"}}), {Doc: {pages: 2, _version: "e.2"}});
  assert.equal(page.words.get("Doc.title").value, "c");
});

test("an answer that a patch has overtaken is not believed", () => {
  const page = new FakePage();
  page.patch({Doc: {title: "a", _version: "e.1"}});
  page.patch({Doc: {title: "theirs", _version: "e.3"}});
  page.words.note("Doc.title", "mine", "e.2");
  assert.equal(page.words.get("Doc.title").value, "theirs");
});

test("a state that was lost and made again is believed at any version", () => {
  const page = new FakePage();
  page.patch({Doc: {title: "a", _version: "old.17"}});
  page.patch({Doc: {title: "", _version: "new.1"}});
  assert.equal(page.signals.Doc.title, "");
});

test("states with an id are told apart", () => {
  const page = new FakePage();
  page.fields = new Set(["Doc.left.title", "Doc.right.title"]);
  page.patch({Doc: {left: {title: "", _version: "l.1"}, right: {title: "", _version: "r.9"}}});
  page.signals.Doc.left.title = "typed";
  page.patch({Doc: {left: {title: "x", _version: "l.2"}, right: {title: "y", _version: "r.10"}}});
  assert.deepEqual([page.signals.Doc.left.title, page.signals.Doc.right.title], ["typed", "y"]);
});

test("names that JavaScript knows do no harm", () => {
  const page = new FakePage();
  page.patch(JSON.parse('{"Doc": {"__proto__": {"title": "x"}, "constructor": 1, "title": "a"}}'));
  assert.equal({}.title, undefined);
  assert.equal(page.words.get("Doc.title").value, "a");
});
