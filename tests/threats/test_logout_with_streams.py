"""Signing out (or in, or being disconnected) with streams open: they fall silent at once, and end behind the answer."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from tests.support.client import BROWSER, Page, patched_signals

APP = "logout_with_streams.py"


class Tab:
    """A page and its open stream, read as it comes."""

    def __init__(self, client, page):
        self.client = client
        self.page = page
        self.body = ""
        self.ended = False
        self._more = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self):
        payload = {"w": self.page.tokens, "n": self.page.position}
        async with self.client.stream("POST", f"{self.page.url}stream", json=payload, headers=BROWSER) as response:
            assert response.status_code == 200
            assert "set-cookie" not in response.headers
            async for text in response.aiter_text():
                self.body += text
                self._more.set()
        self.ended = True
        self._more.set()

    async def until(self, condition):
        async with asyncio.timeout(20):
            while not condition(self):
                if self._reading.done():
                    self._reading.result()
                    assert condition(self), f"the stream has ended with {self.body!r}"
                self._more.clear()
                await self._more.wait()

    async def told(self, text):
        await self.until(lambda tab: text in tab.body)

    async def beats(self):
        """Waits for two more signs of life: the second was written when all that waited before had been."""
        beats = self.body.count(": \n\n")
        await self.until(lambda tab: tab.body.count(": \n\n") >= beats + 2)

    async def ends_without(self, *texts):
        """Wait until the stream has ended: the page reloads, and was told none of these texts."""
        await self.until(lambda tab: tab.ended)
        assert self.go == "#reload"
        assert not [text for text in texts if text in self.body]

    async def close(self):
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    @property
    def go(self):
        return patched_signals(self.body).get("_fs", {}).get("go", "")

    @property
    def id(self):
        return patched_signals(self.body)["_fs"]["c"]


class Site:
    def __init__(self, server, stack):
        self.server = server
        self.stack = stack

    async def visitor(self, **options):
        """A browser of its own."""
        client = httpx.AsyncClient(base_url=self.server.url, verify=False, timeout=20, **options)
        return await self.stack.enter_async_context(client)

    async def client(self, name):
        """The browser of somebody who has signed in."""
        client = await self.visitor()
        assert (await client.get(f"/enter/{name}")).text == "in"
        return client

    async def tab(self, client):
        tab = Tab(client, await Page.open(client))
        self.stack.push_async_callback(tab.close)
        await tab.told('"c":')
        return tab


@pytest.fixture
async def site(server):
    async with contextlib.AsyncExitStack() as stack:
        site = Site(server, stack)
        site.admin = await site.visitor()
        assert (await site.admin.get("/shut-gate")).text == "shut"
        assert (await site.admin.get("/write/start")).text == "written"  # what the test before wrote would be no change
        yield site
        await site.admin.get("/open-gate")


@pytest.mark.parametrize("path", ["/out", "/out-sync", "/in-again", "/in-as-bob"])
async def test_both_tabs_are_told_nothing_more_and_reload_behind_the_answer(site, path):
    ada, phone, bob = [await site.client(name) for name in ("ada", "ada", "bob")]
    tabs = [await site.tab(ada), await site.tab(ada)]
    others = [await site.tab(phone), await site.tab(bob)]
    assert (await site.admin.get("/write/before")).text == "written"
    for tab in tabs + others:
        await tab.told("before")
    leaving = asyncio.create_task(ada.get(f"{path}/after"))

    # What was committed right behind the sign-out has reached everybody else; its answer is still to come.
    for tab in others:
        await tab.told("after")
    for tab in tabs:
        await tab.beats()
        assert ("after" in tab.body, tab.go, tab.ended) == (False, "", False)
    assert not leaving.done()

    await site.admin.get("/open-gate")
    assert (await leaving).text == "out"
    for tab in tabs:
        await tab.ends_without("after")

    await site.admin.get("/write/later")
    for tab in others:
        await tab.told("later")
        assert tab.go == ""
        assert not tab.ended


async def test_a_commit_that_waited_to_be_sent_is_dropped_with_the_sign_out(site):
    ada = await site.client("ada")
    tab = await site.tab(ada)
    await site.admin.get("/open-gate")
    for number in range(20):
        # Queued for the stream in the same step in which it falls silent.
        assert (await ada.get(f"/out/after{number}")).text == "out"
        await tab.ends_without("after")
        await ada.get("/enter/ada")
        tab = await site.tab(ada)


@pytest.mark.parametrize("name", ["leave", "leave_in_a_thread"])
async def test_an_event_that_signs_out_answers_itself_and_ends_both_streams(site, name):
    ada, bob = await site.client("ada"), await site.client("bob")
    first, second, other = await site.tab(ada), await site.tab(ada), await site.tab(bob)
    response = await first.page.send("Door", name, connection=first.id)
    assert response.status_code == 200
    assert "faststate-status" not in response.headers
    assert patched_signals(response.text)["_fs"]["go"] == "/bye"
    await other.told("after")
    for tab in (first, second):
        await tab.ends_without("after", "/bye")
    assert not other.ended


async def test_a_new_stream_of_an_old_page_is_told_to_reload_and_nothing_else(site):
    ada = await site.client("ada")
    tab = await site.tab(ada)
    old = dict(ada.cookies)
    await site.admin.get("/open-gate")
    await ada.get("/out/gone")
    await tab.until(lambda tab: tab.ended)
    payload = {"w": tab.page.tokens, "n": ""}
    for cookies in (old, {}):
        client = await site.visitor(cookies=cookies)
        response = await client.post(f"{tab.page.url}stream", json=payload, headers=BROWSER)
        assert "gone" not in response.text
        assert set(patched_signals(response.text).get("_fs", {})) <= {"go"}


@pytest.mark.parametrize("path", ["/disconnect", "/disconnect-sync"])
async def test_disconnecting_a_user_ends_the_streams_of_all_their_sessions(site, path):
    laptop, phone, bob = [await site.client(name) for name in ("ada", "ada", "bob")]
    tabs = [await site.tab(laptop), await site.tab(laptop), await site.tab(phone)]
    other = await site.tab(bob)
    assert (await site.admin.get(f"{path}/ada/after")).text == "3"
    await other.told("after")
    for tab in tabs:
        await tab.ends_without("after")
    assert not other.ended
    again = await site.tab(laptop)  # the session stays: whether she may come back is for the app to say
    await site.admin.get("/write/again")
    await again.told("again")


async def test_disconnecting_nobody_known_ends_nothing(site):
    tab = await site.tab(await site.client("ada"))
    assert (await site.admin.get("/disconnect/eve/after")).text == "0"
    await tab.told("after")
    assert not tab.ended


async def test_nothing_of_ended_streams_is_kept(site):
    ada = await site.client("ada")
    await site.admin.get("/open-gate")

    async def count():
        return (await site.admin.get("/streams")).text

    async with asyncio.timeout(20):
        while await count() != "0 0":  # the streams of other tests, which are closing
            pass
    for _ in range(5):
        tabs = [await site.tab(ada) for _ in range(3)]
        assert await count() == "3 9"
        await ada.get("/out/x")
        for tab in tabs:
            await tab.until(lambda tab: tab.ended)
        assert await count() == "0 0"
        await ada.get("/enter/ada")
