"""Checks of docs/lifetimes.md; tests/docs/README.md says how they are written."""

# == Lifetimes: snippet 1
import html
import re
from tests.support.waiting import Clock
from faststate.provider.resolve import FRESH_TTL


clock = Clock(1_000_000.0)


def at(clock, store=None):
    other = StateProvider(store=store, clock=clock, load_user_by_id=lambda id: UserContext(id, "Ada"))
    other.register_state(Cart, StateConfig(ttl=30 * 86_400))
    other.register_state(Wizard, StateConfig(scope=StateScope.TEMPORARY))
    made, route = fast_app(state_provider=other)

    @route("/")
    def first(cart: Cart):
        return P(f"[{', '.join(cart.items)}]")

    @route("/wizard")
    def second(wizard: Wizard):
        return P(wizard.signal.step), Button("Next", wizard.next.on("click"))

    return other, made


def passed(provider, seconds):
    clock.now += seconds
    return provider.registry.lifetimes.sweep()


kept, made = at(clock)
one = tab(made)
one.get("/"), one.get("/")
one.send(Cart.add, sku="tea")
assert passed(kept, 30 * 86_400 - 1) == 0
assert "[tea]" in one.get("/")
assert passed(kept, 30 * 86_400) == 1
assert "[]" in one.get("/")
own_id = lambda page: re.search(r'next.*?i:"([\w-]+)"', html.unescape(page))[1]
page = one.get("/wizard")
one.send(Wizard.next, own_id=own_id(page))
assert passed(kept, 899) == 0 and passed(kept, 1) == 1
assert "#reload" in one.send(Wizard.next, own_id=own_id(page), status=403).text
page = one.get("/wizard")
one.client.post("/_faststate/leave", json={"w": one.tokens})
wizards = lambda: [key for key in kept.registry.live if ":Wizard:" in key]
passed(kept, 29)
assert len(wizards()) == 1
passed(kept, 1)
assert wizards() == []
robot = tab(made)
robot.get("/")
assert passed(kept, FRESH_TTL - 1) == 0 and passed(kept, 1) == 1 and FRESH_TTL == 900
one.get("/")
one.send(Cart.add, sku="cake", headers={"faststate-nonce": "another1"})
with one.client, one.stream() as stream:
    lines = stream.iter_lines()
    next(line for line in lines if '"c":' in line)
    passed(kept, 300 * 86_400)
    assert "[cake]" in one.get("/")
    kept.sse_manager.drain()

# == Sessions that end: snippet 1
import apsw
import asyncio
import contextlib
import html
import re

own_id = lambda page: re.search(r'next.*?i:"([\w-]+)"', html.unescape(page))[1]


def rows(query):
    with contextlib.closing(apsw.Connection("state.db")) as shell:
        return shell.execute(query).fetchall()


one = tab(app)
with one.client:
    one.get("/login"), one.get("/")
    one.send(Cart.add, sku="tea")
    one.send(Wizard.next, own_id=own_id(one.get("/wizard")))
    keys = lambda: sorted(key.split(":")[1] for (key,) in rows("SELECT key FROM faststate_states WHERE grp <> 'ended'"))
    assert keys() == ["Cart", "Wizard"]
    ((left,),) = rows("SELECT expires - unixepoch() FROM faststate_states WHERE key LIKE '%Cart%'")
    assert 30 * 86_400 - 60 < left < 30 * 86_400 + 1
    one.get("/login")
    assert keys() == ["Cart"]
    one.get("/logout")
    assert keys() == []


async def come_and_go():
    async with provider.modify(Profile, user_id=7) as profile:
        profile.name = "Ada"
    profiles = "SELECT key, expires FROM faststate_states WHERE key LIKE '%Profile%'"
    assert rows(profiles) == [("user:Profile:user7", None)]
    await forget(7)
    assert rows("SELECT key FROM faststate_states WHERE key LIKE '%Profile%'") == []
    await provider.stop()


asyncio.run(come_and_go())

# == Strangers
import asyncio

small = StateProvider(max_states=2)
small.register_state(Cart)


async def crowd():
    for who in "abc":
        async with small.modify(Cart, session_id=who) as cart:
            cart.items.append("tea")
    assert small.stats().states == 2 and small.stats().evicted == 1
    assert "session:Cart:a" not in small.registry
    stored = StateProvider(max_states=2, store="memory://")
    stored.register_state(Cart)
    for _ in range(2):
        for who in "abc":
            async with stored.modify(Cart, session_id=who) as cart:
                cart.items.append("tea")
    async with stored.modify(Cart, session_id="a") as cart:
        assert cart.items == ["tea", "tea"]
    assert stored.stats().states == 2
    await small.stop(), await stored.stop()


asyncio.run(crowd())

# == After a crash
from faststate.registry.usage import touch_after

assert touch_after(86_400) == 1_800 and touch_after(900) == 45 and touch_after(3_600) == 180
from faststate.stores import EXPIRED_KEPT

assert EXPIRED_KEPT == 3_600
