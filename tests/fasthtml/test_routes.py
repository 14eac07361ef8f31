"""Pages that are left: their TEMPORARY states end soon after, and nobody else's."""

import json

import pytest
from fasthtml.common import Div

from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app
from faststate.provider.page_streams import LEFT_TTL
from tests.support.client import Page, browser, status
from tests.support.waiting import Clock


class Step(ReactiveState):
    done: int = 0

    @event
    def go(self):
        self.done += 1


class Cart(ReactiveState):
    items: int = 0


class Site:
    def __init__(self):
        self.clock = Clock()
        self.provider = provider = StateProvider(clock=self.clock, event_rate=5, event_burst=20)
        provider.register_state(Step, StateConfig(scope=StateScope.TEMPORARY))
        provider.register_state(Cart)
        self.app, rt = fast_app(state_provider=provider, secret_key="for tests", pico=False)

        @rt("/")
        def index(step: Step, cart: Cart):
            return Div(step.signal.done, step.go.on("click"), cart.signal.items)

        @rt("/cart")
        def cart(cart: Cart):
            return Div(cart.signal.items)

    def kept(self):
        self.provider.registry.lifetimes.sweep()
        return sorted(type(entry.state).__name__ for entry in self.provider.registry.live.values())


@pytest.fixture
async def site():
    made = Site()
    yield made
    await made.provider.stop()


def leave(page, tokens=None, headers=None, content=None):
    """The beacon of a page that is left, as a browser sends it: as text, and with no header of ours."""
    body = json.dumps({"w": page.tokens if tokens is None else tokens}) if content is None else content
    sent = {"content-type": "text/plain;charset=UTF-8", "sec-fetch-site": "same-origin", **(headers or {})}
    return page.client.post(f"{page.url}leave", content=body, headers=sent)


async def test_a_page_that_was_left_takes_its_temporary_states_along_and_no_others(site):
    async with browser(site.app) as client:
        left, other = await Page.open(client), await Page.open(client)
        assert site.kept() == ["Cart", "Step", "Step"]
        assert (await leave(left)).status_code == 204
        site.clock.now += LEFT_TTL + 1
        assert site.kept() == ["Cart", "Step"]
        [key] = [key for key in site.provider.registry.live if key.startswith("temporary:")]
        assert status(await other.send("Step", "go", instance_id=key.rpartition(":")[2])) == 200


async def test_a_temporary_state_whose_page_says_nothing_lives_for_its_idle_time(site):
    async with browser(site.app) as client:
        await Page.open(client)
        site.clock.now += 899
        assert "Step" in site.kept()
        site.clock.now += 2
        assert "Step" not in site.kept()


async def test_a_page_that_comes_back_in_time_finds_its_states_and_keeps_them(site):
    async with browser(site.app) as client:
        page = await Page.open(client)
        [key] = [key for key in site.provider.registry.live if key.startswith("temporary:")]
        await leave(page)
        site.clock.now += LEFT_TTL - 1
        assert status(await page.send("Step", "go", instance_id=key.rpartition(":")[2])) == 200
        site.clock.now += 800
        assert "Step" in site.kept()


async def test_a_state_that_another_stream_follows_stays(site):
    async with browser(site.app) as client:
        page = await Page.open(client)
        [key] = [key for key in site.provider.registry.live if key.startswith("temporary:")]
        site.provider.registry.followers.is_watched = lambda asked: asked == key
        await leave(page)
        site.clock.now += 10_000
        assert "Step" in site.kept()


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"sec-fetch-site": "cross-site"}}, {"headers": {"sec-fetch-site": "same-site"}},
        {"tokens": ["x.y.z"]}, {"tokens": []}, {"tokens": "x"}, {"tokens": ["x"] * 1000}, {"content": "no json"},
        {"content": ""}, {"content": "[" * 100_000}, {"content": "x" * 300_000},
    ],
    ids=str,
)  # fmt: skip
async def test_what_is_no_page_s_own_beacon_changes_nothing_and_is_told_nothing(site, options):
    async with browser(site.app) as client:
        page = await Page.open(client)
        answer = await leave(page, **options)
        assert answer.status_code == 204 and answer.content == b"" and "set-cookie" not in answer.headers
        site.clock.now += 800
        assert site.kept() == ["Cart", "Step"]


async def test_another_session_s_beacon_with_a_page_s_token_changes_nothing(site):
    async with browser(site.app) as client, browser(site.app) as thief:
        page = await Page.open(client)
        stolen = await Page.open(thief, "/cart")
        await leave(stolen, tokens=page.tokens)
        site.clock.now += 800
        assert "Step" in site.kept()


async def test_many_beacons_are_limited_as_events_are(site):
    async with browser(site.app) as client:
        page = await Page.open(client)
        for _ in range(25):
            await leave(page, tokens=[])
        await leave(page)
        site.clock.now += LEFT_TTL + 1
        assert "Step" in site.kept()


async def test_only_pages_with_temporary_states_send_a_beacon(site):
    async with browser(site.app) as client:
        assert "data-fs-leave" in (await client.get("/")).text
        assert "data-fs-leave" not in (await client.get("/cart")).text
