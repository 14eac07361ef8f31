"""The promises of every way of signing in, as tests that its own file inherits; and the browser they run in.

The apps are the examples called signin_*.py: a note for each user, a board that editors write, a page to sign in at.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from itsdangerous import TimestampSigner

from tests.support import ROOT
from tests.support.client import BROWSER, Page, message, patched_signals, status
from tests.support.processes import Server

EXAMPLES = ROOT / "examples"
PREFIX = "/_faststate/"
PASSWORDS = {"ada": "engine", "bob": "castle"}


class Stream:
    """An open stream of a page, read line by line. Lifetime: the `with` block of `Visitor.follow`."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.iter_lines()

    def until(self, text: str) -> str:
        """Read up to the line that holds `text`; return what was read."""
        read = []
        for line in self._lines:
            read.append(line)
            if text in line:
                return "\n".join(read)
        raise AssertionError(f"the stream ended without {text!r}: {read}")

    def rest(self) -> str:
        """Read to the end, which has to come; return what was read."""
        return "\n".join(self._lines)


class Visitor:
    """One browser: its cookies, and what it does with a page. `cookies` are what it starts with."""

    def __init__(self, url: str, cookies: Any = None) -> None:
        self.http = httpx.Client(base_url=url, verify=False, cookies=cookies, timeout=10)

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    def page(self, path: str = "/") -> Page:
        """A page that this visitor may see."""
        found = Page(self.http, path)
        assert found.response.status_code == 200, f"{path} answered {found.response.status_code}"
        return found

    def note(self) -> str:
        """Load the page again; return the visitor's note."""
        return str(self.page().signals["Note"]["text"])

    def send(self, state: str, event: str, page: Page | None = None, **arguments: Any) -> httpx.Response:
        """An event of `page`, or of no page at all: what somebody sends who knows the URL."""
        if page is None:
            page = Page(self.http, response=httpx.Response(200, text=""))
            page.url = PREFIX
        return page.send(state, event, **arguments)

    @contextmanager
    def follow(self, page: Page) -> Iterator[Stream]:
        """The stream of `page`, opened and greeted."""
        with self.http.stream("POST", f"{PREFIX}stream", json=asked(page), headers=BROWSER) as response:
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            stream = Stream(response)
            stream.until('"c":')
            yield stream

    def session(self) -> dict[str, Any]:
        """Return the content of the session cookie, which is signed, not secret."""
        cookie = self.http.cookies.get("session_")
        return json.loads(b64decode(cookie.split(".")[0])) if cookie else {}

    def replayed(self) -> httpx.Cookies:
        """A copy of the cookies as they are now, for somebody who kept them."""
        return httpx.Cookies(self.http.cookies)


def asked(page: Page) -> dict[str, Any]:
    return {"w": page.tokens, "n": page.position}


def done(response: httpx.Response) -> httpx.Response:
    """`response` to an event that has to succeed."""
    assert status(response) in (200, 204), f"{status(response)}: {message(response) or response.text}"
    return response


def assert_stranger(visitor: Visitor, login: str = "/login") -> None:
    """The visitor is sent to sign in, whatever they try."""
    response = visitor.http.get("/")
    assert (response.status_code, urlsplit(response.headers["location"]).path) == (303, login)
    refused = visitor.send("Note", "write", text="evil")
    assert status(refused) in (401, 303)
    said = patched_signals(refused.text)["_fs"]
    assert said.get("err") or said["go"] == login, "a refusal has to be seen"


def assert_no_stream(visitor: Visitor, page: Page) -> None:
    """A stream for `page` is not opened: a 204, or an answer that only has the page load itself again."""
    response = visitor.http.post(f"{PREFIX}stream", json=asked(page), headers=BROWSER)
    assert response.status_code in (200, 204)
    if response.status_code == 200:
        assert patched_signals(response.text) == {"_fs": {"go": "#reload"}}


@contextmanager
def serve(
    tmp_path_factory: pytest.TempPathFactory, target: Path | str, *, errors: bool = False, **options: Any
) -> Iterator[Server]:
    """A server in an empty directory. It must log no traceback, unless `errors` are meant."""
    cwd = tmp_path_factory.mktemp("server")
    server = Server(target, cwd=cwd, log=cwd / "server.log", **options)
    server.start()
    try:
        yield server
    finally:
        server.kill()
    assert errors or "Traceback" not in server.output()


class SignInPromises:
    """The promises. A subclass says how one signs in, and brings a fixture `server` with the app."""

    editor = "ada"
    reader = "bob"
    in_session = False  # whether the session says who it is, and not a cookie of the way's own

    def sign_in(self, visitor: Visitor, name: str) -> None:
        """Sign in as a browser does, up to the redirect to the page."""
        response = visitor.http.post(
            "/login", data={"name": name, "password": {"ada": "engine", "bob": "castle"}[name]}
        )
        assert (response.status_code, response.headers["location"]) == (303, "/")

    def sign_out(self, visitor: Visitor) -> None:
        """Sign out as the page offers it."""
        assert visitor.http.post("/logout").status_code == 303

    @pytest.fixture
    def visit(self, server: Server) -> Iterator[Callable[..., Visitor]]:
        """Makes visitors: `visit("ada")` is signed in, `visit()` is a stranger, `visit(cookies=…)` a copy."""
        with ExitStack() as stack:

            def visit(name: str | None = None, cookies: Any = None) -> Visitor:
                visitor = stack.enter_context(Visitor(server.url, cookies))
                if name is not None:
                    self.sign_in(visitor, name)
                return visitor

            yield visit

    def test_a_stranger_is_sent_to_sign_in_and_changes_nothing(self, visit):
        assert_stranger(visit())
        assert "evil" not in visit(self.editor).note()

    def test_who_signed_in_gets_the_page_and_its_events_work(self, visit):
        visitor = visit(self.reader)
        page = visitor.page()
        assert self.reader in page.html.lower()
        done(visitor.send("Note", "write", page, form=[("text", "Buy tea")]))
        assert visitor.note() == "Buy tea"
        done(visitor.send("Note", "write", page, form=[("text", "Buy cake")]))
        assert visitor.note() == "Buy cake"

    def test_an_event_beyond_ones_role_is_refused_and_says_so(self, visit):
        reader, editor = visit(self.reader), visit(self.editor)
        page = reader.page()
        refused = reader.send("Board", "post", page, text="I was here")
        assert (refused.status_code, status(refused)) == (200, 403)
        assert "role" in message(refused)
        done(editor.send("Board", "post", editor.page(), text="Tea at five"))
        board = reader.page().html
        assert "I was here" not in board
        assert "Tea at five" in board

    def test_the_board_offers_writing_to_editors_alone(self, visit):
        pages = [visit(name).page() for name in (self.editor, self.reader)]
        assert [any(a.get("id") == "post" for _, a in page.attributes) for page in pages] == [True, False]
        assert ["Editors write here." in page.html for page in pages] == [False, True]

    def test_a_stream_opens_for_who_signed_in_and_brings_what_others_change(self, visit):
        reader, editor = visit(self.reader), visit(self.editor)
        with reader.follow(reader.page()) as stream:
            done(editor.send("Board", "post", editor.page(), text="Cake at six"))
            assert "Cake at six" in stream.until("Cake at six")

    def test_a_stream_does_not_open_for_a_stranger_who_holds_the_tokens_of_a_page(self, visit):
        page = visit(self.editor).page()
        stranger = visit()
        response = stranger.http.post(f"{PREFIX}stream", json=asked(page), headers=BROWSER)
        assert response.status_code == 204

    def test_two_users_do_not_see_one_anothers_note(self, visit):
        editor, reader = visit(self.editor), visit(self.reader)
        page = editor.page()
        with reader.follow(reader.page()) as stream:
            done(editor.send("Note", "write", page, text="Only mine"))
            done(editor.send("Board", "post", page, text="For all to see"))  # what the reader's stream does bring
            assert "Only mine" not in stream.until("For all to see")
        assert "Only mine" not in reader.page().html
        assert editor.note() == "Only mine"

    def test_the_tokens_of_anothers_page_open_nothing_of_theirs(self, visit):
        editor, reader = visit(self.editor), visit(self.reader)
        done(editor.send("Note", "write", editor.page(), text="Mine alone"))
        page = editor.page()
        page.client = reader.http
        assert status(reader.send("Note", "write", page, text="taken")) == 403
        assert_no_stream(reader, page)
        assert editor.note() == "Mine alone"

    def test_two_devices_of_one_user_share_the_note(self, visit):
        one, two = visit(self.reader), visit(self.reader)
        with two.follow(two.page()) as stream:
            done(one.send("Note", "write", one.page(), text="On both"))
            stream.until("On both")

    def test_signing_out_ends_page_events_and_open_stream(self, visit):
        visitor, other = visit(self.editor), visit(self.editor)
        page = visitor.page()
        with visitor.follow(page) as stream:
            self.sign_out(visitor)
            done(other.send("Note", "write", other.page(), text="Written after"))
            assert "Written after" not in stream.rest()
        assert_stranger(visitor)
        assert status(visitor.send("Note", "write", page, text="evil")) != 200
        assert_no_stream(visitor, page)
        assert other.note() == "Written after"

    def test_signing_out_leaves_the_users_other_devices_alone(self, visit):
        visitor, other = visit(self.editor), visit(self.editor)
        page = other.page()
        with other.follow(page) as stream:
            self.sign_out(visitor)
            done(other.send("Board", "post", page, text="Still here"))
            stream.until("Still here")

    def test_cookies_kept_from_before_signing_out_are_a_strangers(self, visit):
        visitor = visit(self.editor)
        page, kept = visitor.page(), visitor.replayed()
        self.sign_out(visitor)
        thief = visit(cookies=kept)
        assert_stranger(thief)
        assert_no_stream(thief, page)

    def test_cookies_from_before_signing_in_stay_a_strangers(self, visit):
        visitor = visit()
        visitor.http.get("/login")
        kept = visitor.replayed()
        self.sign_in(visitor, self.editor)
        assert visitor.note() is not None
        assert_stranger(visit(cookies=kept))

    def test_signing_in_gives_the_session_another_id(self, visit, server):
        # A session that somebody else knows of, planted in the browser: it must not become the user's.
        known = {"session_id": "known-to-somebody-else"}
        key = (server.cwd / ".sesskey").read_text()
        planted = {"session_": TimestampSigner(key).sign(b64encode(json.dumps(known).encode())).decode()}
        visitor = visit(cookies=httpx.Cookies(planted))
        assert visitor.session() == known
        # The cookie of the answer has the server's domain, and so does not replace one that has none.
        visitor.http.cookies = httpx.Cookies()
        visitor.http.cookies.set("session_", planted["session_"], domain="127.0.0.1")
        self.sign_in(visitor, self.editor)
        visitor.page()
        assert visitor.session()["session_id"] != known["session_id"]
        assert_stranger(visit(cookies=planted))

    def test_signing_in_as_somebody_else_leaves_nothing_of_the_first(self, visit):
        visitor = visit(self.editor)
        done(visitor.send("Note", "write", visitor.page(), text="The editor's"))
        first, kept = visitor.session()["session_id"], visitor.replayed()
        self.sign_in(visitor, self.reader)
        assert "The editor's" not in visitor.page().html
        assert visitor.session()["session_id"] != first
        if self.in_session:
            assert_stranger(visit(cookies=kept))

    def test_every_control_has_a_name_for_assistive_technology(self, visit):
        for page in (visit().page("/login"), visit(self.editor).page()):
            labelled = {attributes.get("for") for tag, attributes in page.attributes if tag == "label"}
            inputs = [attributes["id"] for tag, attributes in page.attributes if tag == "input"]
            assert set(inputs) <= labelled


class CookiePromises(SignInPromises):
    """The promises of a way that signs in with a cookie of its own, called `cookie`."""

    cookie = ""

    def test_a_session_without_its_cookie_is_a_strangers(self, visit):
        visitor = visit(self.editor)
        page = visitor.page()
        del visitor.http.cookies[self.cookie]
        assert visitor.session()
        assert_stranger(visitor)
        assert_no_stream(visitor, page)

    def test_the_cookie_is_not_for_scripts_nor_for_other_sites(self, visit):
        response = visit().http.post("/login", data={"name": "ada", "password": "engine"})
        cookies = [c.lower() for c in response.headers.get_list("set-cookie") if c.startswith(f"{self.cookie}=")]
        (cookie,) = cookies
        assert "httponly" in cookie and "samesite=lax" in cookie

    @pytest.mark.parametrize(
        ("page", "leads_to"), [("/?from=a%20mail", "/?from=a%20mail"), ("//evil.example/", "/"), ("https://evil", "/")]
    )
    def test_signing_in_leads_back_to_the_page_and_to_no_other_site(self, visit, page, leads_to):
        visitor = visit()
        where = visitor.http.get(page).headers["location"] if leads_to == page else f"/login?next={page}"
        response = visitor.http.post(where, data={"name": "ada", "password": PASSWORDS["ada"]})
        assert response.headers["location"] == leads_to
