"""Checks of docs/views.md; tests/docs/README.md says how they are written."""

# == Signals: snippet 1
one = tab(app)
page = one.get("/")
assert '<span data-text="$Counter.count">0</span>' in page
assert "$Counter.count &gt; 9" in page or "$Counter.count > 9" in page
assert 'data-fs-bind="Counter.step"' in page
assert '"count":5' in one.send(Counter.add, bound={"step": 5}).text
one.send(Counter.add, bound={"count": 5}, status=400)

# == Views: snippet 1
one = tab(app)
page = one.get("/todos")
assert "0 to do" in page and 'data-fs-view="Todos.listing"' in page
answer = one.send(Todos.add, text="<b>").text
assert "1 to do" in answer and "<li>&lt;b&gt;</li>" in answer
assert "0 ticks" in one.get("/clock") and 'data-fs-view="Clock.__ft__"' in one.get("/clock")
assert "<dt>count</dt>" in one.get("/plain")

# == What makes a page live: snippet 1
page = tab(app).get("/raw")
assert "data-fs-live" in page
for path in ("/", "/todos", "/clock", "/plain"):
    assert tab(app).get(path).count("<div data-fs-live") == 1, path
fragment = tab(app).client.get("/clock", headers={"hx-request": "true"}).text
assert "data-fs-live" in fragment and "<html" not in fragment
