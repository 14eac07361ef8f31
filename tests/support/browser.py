"""A page in Chromium: the errors of its console, and when it is live."""

from __future__ import annotations

from playwright.sync_api import Page


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
