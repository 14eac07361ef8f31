"""The modules of the page's program as they are served."""

from __future__ import annotations

import re

import httpx
import pytest
from fasthtml import common as fh
from starlette.testclient import TestClient

from faststate import StateProvider, fast_app
from faststate.client.modules import entry_name, served_modules


@pytest.fixture(scope="module")
def client():
    app, _ = fast_app(state_provider=StateProvider())
    return TestClient(app)


def load(client: TestClient, name: str) -> httpx.Response:
    return client.get(f"/_faststate/{name}")


def test_a_page_names_the_entry_and_the_entry_the_other_modules(client):
    found, waiting = set(), [entry_name()]
    while waiting:
        name = waiting.pop()
        response = load(client, name)
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/javascript")
        assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
        found.add(name)
        waiting += set(re.findall(r'from "\./([^"]+)"', response.text)) - found
    assert found == set(served_modules()) and len(found) > 3


def test_the_name_of_a_module_changes_with_it_and_with_what_it_imports():
    names = [re.fullmatch(r"client-(?:[a-z]+-)?([0-9a-f]{12})\.js", name) for name in served_modules()]
    assert all(names) and len({name[1] for name in names if name}) == len(names)
    imported = b"".join(served_modules().values())
    assert [name for name in served_modules() if f'from "./{name}"'.encode() not in imported] == [entry_name()]


def test_a_page_from_before_a_deploy_gets_todays_program_which_nobody_keeps(client):
    response = load(client, "client-0123456789ab.js")
    assert response.content == served_modules()[entry_name()]
    assert response.headers["cache-control"] == "no-store"


def test_while_processes_are_replaced_each_serves_the_modules_that_another_has_named(client):
    (link,) = (name for name in served_modules() if name.startswith("client-link-"))
    response = load(client, "client-link-0123456789ab.js")
    assert response.content == served_modules()[link]
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "name",
    [
        "client-nothing-0123456789ab.js",
        "client-..-x.js",
        "client-link-x.js",
        "client-link.js",
        "client-.js.map",
        "link.js",
    ],
)
def test_nothing_else_is_served(client, name):
    assert load(client, name).status_code == 404


@pytest.mark.parametrize("make", [fh.FastHTML, lambda: fh.fast_app()[0]], ids=["bare", "with_static_files"])
def test_a_mounted_app_names_its_program_below_its_own_path(make):
    # What ends with ".js" is taken for a file by the route of static files that the app above has.
    inner, rt = fast_app(state_provider=StateProvider())

    @rt("/page")
    def page():
        return fh.Titled("page")

    outer = make()
    outer.mount("/in", inner)
    visitor = TestClient(outer)
    source = re.search(r'<script type="module" src="/in/_faststate/([^"]+)"', visitor.get("/in/page").text)
    assert source
    found, waiting = set(), [source[1]]
    while waiting:
        name = waiting.pop()
        response = visitor.get(f"/in/_faststate/{name}")
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/javascript")
        found.add(name)
        waiting += set(re.findall(r'from "\./([^"]+)"', response.text)) - found
    assert len(found) == len(served_modules())
