"""A page in Chromium: what it shows, the errors of its console, and when it is live."""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Locator, Page, expect


def console_errors(page: Page) -> list[str]:
    """A list that fills with the errors of a page, its console's and its uncaught ones. Call it before `goto`."""
    errors: list[str] = []

    def on_console(message) -> None:
        url = message.location.get("url", "")
        # A favicon is asked for by the browser, not by the page; few apps under test have one.
        if message.type == "error" and not url.endswith("/favicon.ico"):
            errors.append(f"console: {message.text} ({url})")

    page.on("console", on_console)
    page.on("pageerror", lambda error: errors.append(f"uncaught: {error}"))
    return errors


def wait_live(page: Page, *, after: str = "") -> str:
    """Wait until the page's stream is open, or another than the one called `after`; return its name."""
    # Datastar shows its signals to elements alone, so the page gets one more: again, when it loads itself again.
    stream = page.wait_for_function(
        """after => {
            if (!document.body) return false;  // in the middle of a reload
            document.getElementById("probe") || document.body.insertAdjacentHTML("beforeend",
                "<output hidden id=probe data-text='$_fs.c'></output>");
            const name = document.getElementById("probe").textContent;
            return name !== after && name;
        }""",
        arg=after,
    )
    return str(stream.json_value())


def wait_ready(page: Page) -> None:
    """Wait until Datastar has looked at the page, whose clicks it takes from then on. The stream may come later."""
    page.evaluate("""() => document.body.insertAdjacentHTML("beforeend", '<output hidden id=ready data-text="1">')""")
    page.locator("#ready", has_text="1").wait_for(state="attached")


def shows(page: Page, name: str, text: Any) -> None:
    """Wait until the element with this id has this text, or one that a pattern matches."""
    expect(page.locator(f"#{name}")).to_have_text(text if isinstance(text, re.Pattern) else str(text))


def holds(page: Page, name: str, value: str) -> None:
    """Wait until the input with this id has this value."""
    expect(page.locator(f"#{name}")).to_have_value(value)


def number(page: Page, name: str) -> int:
    """Return the number that the element with this id shows."""
    return int(page.locator(f"#{name}").text_content() or "")


def click(page: Page, name: str) -> None:
    """Click the element with this id. The mouse would wait for a tab in the background."""
    page.locator(f"#{name}").dispatch_event("click")


def hide(page: Page, hidden: bool = True) -> None:
    """Make the page a tab in the background, as far as a script can tell, or show it again."""
    page.evaluate(
        """hidden => {
            Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def toast(page: Page) -> Locator:
    """Return the first message that the page shows."""
    return page.locator(".faststate-toast").first
