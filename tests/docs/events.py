"""Checks of docs/events.md; tests/docs/README.md says how they are written."""

# == In the page: snippet 1
assert Todos.add.to(text="a b") == "/_faststate/event/Todos/add?text=a+b"
assert Todos.add.post(text="x").startswith("@fsSend(")
from faststate import EventArgumentError

with pytest.raises(EventArgumentError, match="no argument 'txt'"):
    Todos.add.on("click", txt=1)
one = tab(app)
one.get("/")
assert "argument 'text' is missing" in one.send(Todos.add, status=400).text
assert "there is no argument" in one.send(Todos.add, text="x", more=1, status=400).text
assert "argument 'id'" in one.send(Todos.toggle, id="x", status=400).text
assert "Please write something." in one.send(Todos.add, text=" ", status=400).text
one.send(Todos.add_twice, text="x")
assert "thanks" in one.send(Todos.finish).text
said = one.send(Todos.work).text
assert said.count("append") == 3 and "#log" in said
assert "0: step" not in one.get("/")
assert len(next(iter(provider.registry.live.values())).state.items) == 5

# == Arguments: snippet 1
# new
one = tab(app)
one.get("/")
one.send(Cart.put, sku="tea"), one.send(Cart.put, sku="tea")
assert "Sold out." in one.send(Cart.put, sku="tea", status=400).text
assert provider.registry.peek("record:ProductState:tea").stock == 0
assert one.get("/").count("<li>tea</li>") == 2
one.send(Cart.options, form={"tag": "a", "until": ""})
assert "<li>None</li>" in one.get("/")
one.send(Cart.refund, status=401)
two = tab(app)
two.get("/login"), two.get("/")
two.send(Cart.refund)
one.get("/")
twice = {"faststate-nonce": "abcdefgh12"}
one.send(Cart.put, sku="cake", headers=twice), one.send(Cart.put, sku="cake", headers=twice)
assert provider.registry.peek("record:ProductState:cake").stock == 1
assert one.client.get("/_faststate/event/Cart/put").status_code == 405

# == Forms: snippet 1
# new
# visit /
import html

one = tab(app)
one.get("/")
one.send(Profile.save, form={"name": "Ann", "age": ""})
assert "Ann, None, False, []" in html.unescape(one.get("/"))
one.send(Profile.save, form={"name": "Ann", "age": "3", "news": "1", "tags": "red"})
assert "Ann, 3, True, [" in html.unescape(one.get("/"))
told = one.send(Profile.save, form={"name": "Ann", "agee": "3"}, status=400).text
assert "is missing; the form sent" in told and "agee" in told
assert Profile.save.to(name="Ann", age=3).endswith("?name=Ann&age=3")

# == What an event returns: snippet 1
# new
import logging

one = tab(app)
one.get("/")
logging.getLogger("faststate").setLevel(logging.CRITICAL)
assert 'id="box"' in one.send(Log.show, how="id").text
one.send(Log.show, how="none")
for wrong in ("bare", "text", "evil"):
    one.send(Log.show, how=wrong, status=500)
one.send(Log.fails_later, status=500)
one.send(Log.stale, status=500)
logging.getLogger("faststate").setLevel(logging.NOTSET)
page = one.get("/")
assert "kept" in page and "lost" not in page and "<p>3</p>" in page
import asyncio
from faststate import LockTimeoutError


async def twice():
    async with provider.modify(Log, session_id="s"):
        with pytest.raises(LockTimeoutError, match="never end"):
            async with provider.modify(Log, session_id="s"):
                pass
    await provider.stop()


asyncio.run(twice())

# == Time: snippet 1
# new
import logging

one = tab(app)
one.get("/")
one.send(Report.build)
logging.getLogger("faststate").setLevel(logging.CRITICAL)
assert "This took too long and was stopped." in one.send(Report.ask, status=503).text
logging.getLogger("faststate").setLevel(logging.NOTSET)
assert ">3<" in one.get("/")
assert issubclass(EventTimeoutError, TimeoutError)

# == What the page has seen: snippet 1
# new
# visit /articles/1
import re


def version(page):
    return re.search(r'"_version":"([^"]+)"', page.replace("\\u002e", "."))[1]


def save(page, version, status=None, **fields):
    body = {"a": {}, "f": list(fields.items()), "i": "1", "w": page.tokens, "v": version}
    headers = {"datastar-request": "true"}
    answer = page.client.post("/_faststate/event/Article/save", json=body, headers=headers)
    assert answer.headers.get("faststate-status") == status, answer.text
    return answer.text


one, two = tab(app), tab(app)
first, same = version(one.get("/articles/1")), version(two.get("/articles/1"))
assert first == same
told = save(one, first, title="One", text="first")
second = version(told)
assert second != first
told = save(two, first, "409", title="Two", text="second")
assert "has changed meanwhile" in told and 'value="One"' in told and version(told) == second
assert 'value="One"' in two.get("/articles/1")
save(two, second, title="Two", text="second")
assert 'value="Two"' in one.get("/articles/1")
with pytest.raises(Exception, match="expects the version"):
    raise Exception(one.send(Article.save, own_id="1", form={"title": "x", "text": "y"}, status=400).text)
import asyncio


async def run():
    async with provider.modify(Article, record_id="1") as article:
        article.text = "from a script"
    await provider.stop()


asyncio.run(run())
assert issubclass(EventConflictError, Exception) and EventConflictError.status == 409
