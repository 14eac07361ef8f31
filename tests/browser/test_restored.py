"""Pages that come back by "back" or a reload: their controls show the state, and not the browser's memory."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support.browser import holds, shows, wait_live

APP = "restored.py"


@pytest.mark.parametrize("way", ["back", "reload"])
def test_the_controls_of_a_view_show_the_state_and_a_persons_own_text_stays(open_page, server, way):
    page = open_page()
    page.locator("#box").check()
    page.locator("#size").select_option("l")
    page.locator("#name").fill("Bea")
    page.locator("#note").fill("my own")
    shows(page, "text", "True l Bea")
    if way == "back":
        page.goto(server.url + "/elsewhere")
    page.request.get(server.url + "/reset")
    if way == "back":
        page.go_back()
    else:
        page.reload()
    wait_live(page)
    shows(page, "text", "False s Ann")
    expect(page.locator("#box")).not_to_be_checked()
    holds(page, "size", "s")
    holds(page, "name", "Ann")
    if way == "back":  # a reload forgets it in Chromium
        holds(page, "note", "my own")
