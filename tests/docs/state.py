"""Checks of docs/state.md; tests/docs/README.md says how they are written."""

# == State: snippet 2
one = tab(app)
page = one.get("/?customer=evil&note=evil&internal=evil")
page = page.partition('rel="canonical"')[2].partition(">")[2]  # that link repeats the URL
assert "evil" not in page and "risk" not in page and "margin" not in page
one.send(Order.put, sku="tea", price="2.50")
page = one.get("/")
assert ">2.50<" in page and "margin" not in page and '"due":""' in page
one.send(Order.put, sku="tea", price="1", bound={"note": "hello"})
assert '"note":"hello"' in one.get("/")
one.send(Order.put, sku="tea", price="1", bound={"customer": "hello"}, status=400)
assert "customer" in one.send(Order.rename, customer="x" * 41, status=400).text
from faststate import EventDefinitionError

with pytest.raises(EventDefinitionError, match="hides a name"):

    class Bad(ReactiveState):
        signal: int = 0


with pytest.raises(EventDefinitionError, match="around the whole type"):

    class Bad(ReactiveState):
        x: list[Bound[int]] = []


# == When a value is validated: snippet 1
import asyncio
import tempfile


async def once():
    shop = StateProvider(store=f"sqlite:///{tempfile.mkdtemp()}/once.db")
    shop.register_state(Member)
    await shop.start()
    for _ in range(2):
        async with shop.modify(Member, session_id="s") as member:
            member.password = member.password or "secret"
            member.prices.append(2.5)
            member.visits += 1
        member = shop.registry.peek("session:Member:s")
        assert member.password == digest("secret") and set(member.prices) == {250}
    await shop.stop()


asyncio.run(once())

# == Snapshots and working copies: snippet 1
assert "provider.modify" in tab(app).get("/wrong")

# == Snapshots and working copies: snippet 2
one = tab(app)
one.get("/")
assert "Order.customer" in one.get("/edit")
assert "Ada" in one.get("/")
one.get("/edit_sync")
assert "Grace" in one.get("/")
