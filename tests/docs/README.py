"""Checks of README.md; tests/docs/README.md says how they are written."""

# == FastState: snippet 1
one, two = tab(app), tab(app)
assert "$Counter.count" in one.get("/") and ">0<" in one.get("/?count=99")
assert '"count":2' in one.send(Counter.add, by=2).text
assert ">2<" in one.get("/") and ">0<" in two.get("/")
one.send(Counter.add, status=400, by="x")

# == Keeping states: snippet 1
import asyncio


class Kept(Counter): ...


kept.register_state(Kept)


async def count(expected):
    async with kept.modify(Kept, session_id="s") as counter:
        assert counter.count == expected
        counter.count += 1
    await kept.stop()
    kept.registry.live.clear()


asyncio.run(count(0))
asyncio.run(count(1))

# == Many processes: snippet 1
from faststate import Backplane, SharedStore, StateStore
from faststate.stores.redis import RedisStore

assert isinstance(shared.store, RedisStore) and not isinstance(kept.store, SharedStore)
assert all(isinstance(shared.store, protocol) for protocol in (SharedStore, StateStore, Backplane))

# == Views and signals: snippet 1
one = tab(app)
page = one.get("/todos")
assert "s3cret" not in page and "data-fs-bind" in page and '"draft":""' in page
answer = one.send(Todos.add, form={"text": "<milk>"}).text
assert "&lt;milk&gt;" in answer and "s3cret" not in answer
assert '"ok":' in answer

# == Records: snippet 1
# visit /product/tea
# visit /product/gold 404
one, two = tab(app), tab(app)
one.get("/product/tea"), two.get("/product/tea")
one.send(ProductState.buy, own_id="tea")
assert ">2<" in two.get("/product/tea")

# == Changing a state from server code: snippet 1
one = tab(app)
one.get("/thrice")
assert ">3<" in one.get("/")
one.get("/reset")
assert ">0<" in one.get("/")
restock("tea", 10)
assert ">12<" in one.get("/product/tea")

# == Access rules: snippet 1
# new
# visit /documents/1 401
# visit /sign_in?user=1 303
ada, bob = tab(app), tab(app)
ada.get("/sign_in?user=1", 303), bob.get("/sign_in?user=2", 303)
assert ">1250<" in ada.get("/documents/5") and "1250" not in bob.get("/documents/5")
bob.send(Document.remove, own_id="5", who=2, status=403)
ada.send(Document.remove, own_id="5", who=2)
bob.get("/documents/5", 403)
