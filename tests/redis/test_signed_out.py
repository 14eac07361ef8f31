"""Sessions and rights that change on one worker, while the streams are on others."""

from tests.support.client import status

from .cluster import until
from .crowd import Crowd
from .stage import stage
from .tabs import Browser, Tab
from .web import Network


def tabs_of(crowd: Crowd, browser: Browser) -> list[Tab]:
    return [tab for tab in crowd.tabs if tab.browser is browser]


async def move_streams(tabs: list[Tab], *, away_from: int = 0) -> None:
    """Move every stream of the tabs away from one of the workers."""
    for tab in tabs:
        tab.avoids = tab.browser.cluster.serving[away_from]
        if tab.worker is tab.avoids:
            await tab.close()
            await tab.open()
        assert tab.worker is not tab.avoids


async def test_who_signs_out_on_one_worker_is_signed_out_on_all(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24) as on:
        crowd, first = on.crowd, on.cluster.serving[0]
        await crowd.work(60)
        await crowd.settle()
        await crowd.clear()
        leaving, staying = crowd.browsers[0], crowd.browsers[8]
        assert leaving.user == staying.user
        gone = tabs_of(crowd, leaving)
        await move_streams(gone)
        cookies, page, patches = dict(leaving.network.cookies), gone[0].page, [tab.patches for tab in gone]
        before = gone[0].signals["Notes"]["count"]
        assert (await leaving.get("/leave", worker=first)).status_code == 200
        await crowd.do(tabs_of(crowd, staying)[0], "Notes", "add")
        await until(lambda: all(tab.signals["Notes"]["count"] == before + 1 for tab in tabs_of(crowd, staying)), "it")
        await until(lambda: all(tab.silent for tab in gone), "silence", 5)
        assert all(tab.signals["Notes"]["count"] in (before, "") for tab in gone), "it was told what happened behind"
        assert all(tab.patches - n <= 2 for tab, n in zip(gone, patches, strict=True))
        thief = Network()
        try:
            for worker in on.cluster.serving:
                thief.cookies = dict(cookies)
                assert (await thief.request("GET", worker.port, "/who")).json() is None, worker.name
            leaving.network.cookies = cookies
            for worker in on.cluster.serving:
                leaving.only = worker
                answer = await page.send("Notes", "add", number=10**6)
                assert status(answer) in (401, 403), worker.name
        finally:
            thief.close()
        await crowd.settle()


async def test_the_streams_of_a_user_who_is_disconnected_begin_anew_wherever_they_are(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24) as on:
        crowd, first = on.crowd, on.cluster.serving[0]
        await crowd.work(60)
        concerned = [tab for tab in crowd.tabs if tab.browser.user == "user1"]
        await move_streams(concerned)
        opened = {tab: tab.opened for tab in crowd.tabs}
        assert (await crowd.browsers[0].get("/disconnect/user1", worker=first)).status_code == 200
        await until(lambda: all(tab.opened > opened[tab] and tab.is_open for tab in concerned), "new streams")
        await crowd.work(60)
        await crowd.settle()
        assert all(tab.opened == opened[tab] for tab in crowd.tabs if tab not in concerned)


async def test_the_rights_of_a_user_are_looked_up_again_by_all_workers(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24) as on:
        crowd, first = on.crowd, on.cluster.serving[0]
        await crowd.work(60)
        concerned = [tab for tab in crowd.tabs if tab.browser.user == "user1"]
        await move_streams(concerned)
        (on.directory / "banned").write_text("user1")
        before = [tab.signals["Desk"]["count"] for tab in concerned]
        assert (await crowd.browsers[0].get("/refresh/user1", worker=first)).status_code == 200
        other = next(tab for tab in crowd.tabs if tab not in concerned)
        await until(lambda: all(tab.signals["Desk"].get("count") == "" or tab.silent for tab in concerned), "it")
        await crowd.do(other, "Desk", "add")
        await until(lambda: other.signals["Desk"]["count"] > max(before), "the others have it")
        assert all(tab.signals["Desk"].get("count") in ("", n) for tab, n in zip(concerned, before, strict=True))
        (on.directory / "banned").unlink()


async def test_who_signs_in_as_another_on_one_worker_is_another_on_all(tmp_path, seed):
    async with stage(tmp_path, seed, tabs=24) as on:
        crowd, first = on.crowd, on.cluster.serving[0]
        await crowd.work(60)
        browser = crowd.browsers[0]
        tabs = tabs_of(crowd, browser)
        await move_streams(tabs)
        await crowd.clear()
        reloads = [tab.reloads for tab in tabs]
        browser.user = "user5"
        assert (await browser.get("/enter/user5", worker=first)).status_code == 200
        await until(lambda: all(tab.reloads > n for tab, n in zip(tabs, reloads, strict=True)), "pages loaded again")
        await until(lambda: all(tab.is_open for tab in tabs), "their streams")
        for worker in on.cluster.serving:
            assert (await browser.get("/who", worker=worker)).json() == "user5"
        browser.name = "browser 0, who is another"  # its Journal, too
        await crowd.work(60)
        await crowd.settle()
