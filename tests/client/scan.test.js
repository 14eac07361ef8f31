import assert from "node:assert/strict";
import {test} from "node:test";

import {behind, culpritOf, itemsOf} from "../../src/faststate/client/scan.js";

/** An error as Datastar 1.0 makes it; `tests/browser/test_client.py` has it make real ones. */
function datastarError(name, context) {
  const more = `https://data-star.dev/errors/${name}?${new URLSearchParams({metadata: JSON.stringify(context)})}`;
  return new Error(`${name}\nMore info: ${more}\nContext: ${JSON.stringify(context, null, 2)}`);
}

function element(tagName, attributes = {}, children = []) {
  const el = {
    nodeType: 1,
    tagName,
    id: attributes.id ?? "",
    attributes: Object.entries(attributes).map(([name, value]) => ({name, value})),
    getAttribute: (name) => attributes[name] ?? null,
    querySelectorAll: () => children.flatMap((child) => [child, ...child.querySelectorAll("*")]),
  };
  return el;
}

const items = (...elements) => itemsOf([{type: "childList", addedNodes: elements}]);
const names = (left) => left.map(({name, value}) => `${name}=${value}`);

test("what could not be compiled is known by its text alone", () => {
  const error = datastarError("GenerateExpression", {
    expression: {fnContent: "return (Hello world);", value: "Hello world"},
    error: "Unexpected identifier 'world'",
  });
  assert.deepEqual(culpritOf(error), {value: "Hello world", rawKey: undefined, tag: undefined, id: undefined});
});

test("what failed when it ran is known by its element too, and what is misused by its name", () => {
  const ran = datastarError("ExecuteExpression", {
    element: {id: "", tag: "P"},
    expression: {fnContent: "return (a.b);", value: "a.b"},
    error: "a is not defined",
  });
  assert.deepEqual(culpritOf(ran), {value: "a.b", rawKey: undefined, tag: "P", id: ""});
  const misused = datastarError("KeyNotAllowed", {
    plugin: {type: "attribute", name: "text"},
    element: {id: "x", tag: "P"},
    expression: {rawKey: "text:a", key: "a", value: "1"},
  });
  assert.deepEqual(culpritOf(misused), {value: "1", rawKey: "text:a", tag: "P", id: "x"});
});

test("other errors say nothing of an attribute", () => {
  const others = [null, undefined, "Context: {}", new TypeError("x"), new Error("\nContext: no JSON"),
    new Error("\nContext: {}"), new Error("\nContext: null"), new Error('\nContext: {"expression": {"value": 1}}'),
    datastarError("PatchElementsInvalidMode", {plugin: {type: "watcher"}, element: {id: "", tag: ""}, mode: "x"})];
  for (const error of others) assert.equal(culpritOf(error), null);
});

test("all behind the failed attribute is left, on its own element too", () => {
  const all = items(
    element("P", {id: "a", "data-signals": "{a: 1}"}),
    element("P", {id: "b", "data-show": "$a", "data-text": "Hello world", "data-class": "$c"}, [
      element("B", {"data-text": "$a", title: "x"}),
    ]),
  );
  const {failed, left} = behind(all, {value: "Hello world"});
  assert.equal(failed.name, "data-text");
  assert.deepEqual(names(left), ["data-class=$c", "data-text=$a"]);
});

test("the first of several alike is the one that failed, and the others are tried", () => {
  const row = () => element("LI", {"data-text": "Hello world"});
  const {failed, left} = behind(items(row(), row(), row()), {value: "Hello world"});
  assert.equal(failed.name, "data-text");
  assert.equal(left.length, 2);
});

test("an attribute of the same text on another element is not taken for it", () => {
  const all = items(element("P", {"data-text": "a.b"}), element("B", {id: "x", "data-text": "a.b"}), element("I"));
  assert.equal(behind(all, {value: "a.b", tag: "B", id: "x"}).failed, all[1]);
  assert.deepEqual(behind(all, {value: "a.b", tag: "B", id: "x"}).left, []);
});

test("where two attributes may have failed, both are tried again, and nothing before them", () => {
  const all = items(element("P", {"data-init": "f()"}), element("P", {"data-tip": "a b", "data-text": "a b"}));
  const {failed, left} = behind(all, {value: "a b"});
  assert.equal(failed, null);
  assert.deepEqual(names(left), ["data-tip=a b", "data-text=a b"]);
});

test("an error that says nothing, or of another place, has all of them tried", () => {
  const all = items(element("P", {"data-init": "f()"}));
  for (const culprit of [null, {value: "elsewhere"}]) assert.deepEqual(behind(all, culprit), {failed: null, left: all});
});

test("changes of the page are gone through as Datastar does: what was added with all below it, and attributes", () => {
  const target = element("P", {"data-text": "$now", title: "t"});
  const found = itemsOf([
    {type: "childList", addedNodes: [{nodeType: 3}, element("P", {"data-a": "1"}, [element("B", {"data-b": "2"})])]},
    {type: "attributes", target, attributeName: "data-text"},
    {type: "attributes", target, attributeName: "data-gone"},
    {type: "attributes", target, attributeName: "title"},
    {type: "attributes", target: element("HTML", {"data-fs-scan": "1"}), attributeName: "data-fs-scan"},
  ]);
  assert.deepEqual(names(found), ["data-a=1", "data-b=2", "data-text=$now"]);
});
