"""A team's documents: each rule is written once, and holds for pages, events and open tabs alike.

Everybody may read the banner, and the admin may change it. A document belongs to its team. Only its owner may change
the members; a removed member loses it at once, in open tabs too. Only users who may see reports see how often it was
changed. A draft is for its writer only, until it is published.

This is a demo: its accounts are made up, and the sign-in page shows their passwords. A real app keeps digests of them,
as signin_beforeware.py does, and limits how often one may guess.
"""

import secrets
from contextlib import suppress
from typing import Annotated

from datastar_py.attributes import attribute_generator as data
from fasthtml.common import *
from pydantic import BaseModel, Field, StringConstraints

from faststate import (
    AuthorizationError,
    Bound,
    EventError,
    ReactiveState,
    Record,
    StateIdentifier,
    StateProvider,
    StateScope,
    UserContext,
    Visible,
    current_user,
    event,
    fast_app,
    view,
)

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Text = Annotated[str, StringConstraints(max_length=2000)]

USERS = {
    1: UserContext(1, "Ada", roles=["admin"]),  # this role has every permission
    2: UserContext(2, "Grace", permissions=["reports"]),
    3: UserContext(3, "Kim"),
    4: UserContext(4, "Lee"),
}
PASSWORDS = {1: "engine", 2: "compiler", 3: "kite", 4: "lantern"}
CATALOG = {
    "handbook": {"title": "Handbook", "owner_id": 2, "members": [3]},
    "roadmap": {"title": "Roadmap", "owner_id": 3},
}

provider = StateProvider(load_user_by_id=USERS.get, login_route="/login")


def from_catalog(identifier: StateIdentifier):
    slug = identifier.record_id
    return {"slug": slug, **CATALOG[slug]} if slug in CATALOG else None


def may(user: UserContext | None, document: "Document", action: str) -> bool:
    """Let the team read and edit, and an admin read. An event that is only for the owner says so itself."""
    if user is None:
        return False
    return user.id in (document.owner_id, *document.members) or (action == "read" and user.has_role("admin"))


@provider.state(scope=StateScope.GLOBAL)
class Banner(ReactiveState):
    text: Line = "Welcome to the team."

    @event(roles=["admin"])
    def announce(self, text: Line):
        self.text = text


class Entry(BaseModel):
    author: str
    text: Text


@provider.state(scope=StateScope.RECORD, create=from_catalog, authorize=may)
class Document(ReactiveState):
    slug: str
    title: Line
    owner_id: int  # `owner_only` looks for a field of this name
    members: list[int] = []
    entries: list[Entry] = Field([], max_length=100)
    changes: Annotated[int, Visible("reports")] = 0

    @event
    def rename(self, title: Line):
        self.title = title
        self.changes += 1

    @event(owner_only=True)
    def share(self, user_id: int):
        if user_id in USERS and user_id not in (self.owner_id, *self.members):
            self.members.append(user_id)

    @event(owner_only=True)
    def unshare(self, user_id: int):
        self.members = [member for member in self.members if member != user_id]

    def __ft__(self):
        return Article(
            Header(H1(self.title), Small("Owner: ", name_of(self.owner_id))),
            *(P(Strong(entry.author), Br(), entry.text) for entry in self.entries),
            None if self.entries else P("Nothing has been published yet."),
            None if self.changes is None else Footer(Small("Changes: ", self.changes)),  # None: hidden from this viewer
        )

    @view
    def link(self):
        return Li(A(self.title, href=f"/documents/{self.slug}"))

    @view
    def tools(self):  # nothing here ever changes, so typed text stays; but it vanishes with the document
        return Div(
            Button("Publish the draft", Draft.publish.on("click", slug=self.slug), id="publish", cls="wide"),
            line_form(self.rename, "title", "New title", "Rename"),
        )

    @view
    def team(self):
        strangers = [Option(name_of(id), value=id) for id in USERS if id not in (self.owner_id, *self.members)]
        person = Fieldset(Select(*strangers, id="person", name="user_id"), Button("Add"), role="group")
        return Section(
            H2("Team"),
            Ul(*(Li(name_of(id), self.remover(id)) for id in self.members)),
            Form(Label("Person", _for="person"), person, self.share.on("submit")) if strangers else None,
            cls="team",
        )

    def remover(self, id: int):
        look = {"cls": "secondary outline", "aria_label": f"Remove {name_of(id)}"}
        return Button("Remove", self.unshare.on("click", user_id=id), id=f"remove-{id}", **look)


@provider.state(scope=StateScope.USER)
class Draft(ReactiveState):
    text: Bound[Text] = ""

    @event
    def save(self):
        """Save the typed text, which every event of the draft sends along: there is nothing else to do."""

    @event
    def publish(self, slug: str, document: Annotated[Document, Record("slug")]):
        if not self.text.strip():
            raise EventError("Your draft is empty.")
        document.entries.append(Entry(author=current_user.get().username, text=self.text.strip()))
        document.changes += 1
        self.text = ""


def name_of(user_id: int) -> str:
    return USERS[user_id].username


def line_form(line_event, id: str, label: str, button: str):
    box = Input(id=id, name=id, required=True, maxlength=100, autocomplete="off")
    return Form(Label(label, _for=id), Fieldset(box, Button(button), role="group"), line_event.on("submit"))


style = Style("""
    nav form { margin: 0 }
    nav button, li button { margin: 0; padding: .25rem .75rem; width: auto }
    .banner { padding: .75rem 1rem; border-left: .25rem solid; overflow-wrap: anywhere }
    .document { display: grid; gap: 0 2rem; grid-template-columns: minmax(0, 1fr); align-items: start }
    @media (min-width: 768px) { .document { grid-template-columns: minmax(0, 1fr) 20rem } }
    article { overflow-wrap: anywhere }
    article h1 { margin: 0 }
    article p { white-space: pre-line }
    .team h2 { font-size: 1.25rem }
    .team ul { padding: 0 }
    .team li { display: flex; justify-content: space-between; align-items: center; list-style: none }
    .wide { width: 100%; margin-bottom: 1rem }
    .narrow { max-width: 24rem }
    [role=alert]:empty { display: none }
""")
app, rt = fast_app(state_provider=provider, hdrs=[style], htmlkw={"lang": "en"}, htmx=False, surreal=False)


def page(title: str, banner: Banner, *content):
    user = current_user.get()
    sign_out = Form(Button("Sign out", cls="secondary outline"), method="post", action="/logout")
    return (
        Title(title),
        Header(
            Nav(Ul(Li(A("Team documents", href="/"))), user and Ul(Li(user.username), Li(sign_out))), cls="container"
        ),
        Main(P(banner.signal.text, cls="banner", role="status"), *content, cls="container"),
    )


@rt
async def index(request: Request, banner: Banner):
    documents = []
    for slug in CATALOG:
        with suppress(AuthorizationError):  # but not AuthenticationError, which leads to /login
            documents.append(await provider.get_state(Document, request, record_id=slug))
    is_admin = current_user.get().has_role("admin")
    return page(
        "Documents",
        banner,
        H1("Documents"),
        Ul(*(document.link() for document in documents)) if documents else P("No document is shared with you."),
        line_form(banner.announce, "text", "New banner", "Announce") if is_admin else None,
    )


@rt("/documents/{document_id}")
def show_document(document: Document, draft: Draft, banner: Banner):
    user = current_user.get()
    gone = f"{document.signal.title} ? '' : 'This document is not shared with you any more.'"
    editor = Div(
        Label("Your draft, for nobody else to see", _for="draft"),
        Textarea(draft.text, draft.signal.text.bind(), draft.save.on("change"), id="draft", rows=5, maxlength=2000),
        document.tools() if may(user, document, "rename") else None,
        document.team() if user.id == document.owner_id else None,
    )
    return page(document.title, banner, P(data.text(gone), role="alert"), Div(document, editor, cls="document"))


@app.get("/login")
def login_page(request: Request, banner: Banner, wrong: bool = False):
    if current_user.get():
        return Redirect(provider.next_url(request))
    secret = {"type": "password", "autocomplete": "current-password"}
    return page(
        "Sign in",
        banner,
        Form(
            H1("Sign in"),
            P("This name and password do not go together.", role="alert") if wrong else None,
            Label("Name", Input(id="name", name="name", required=True, autocomplete="username"), _for="name"),
            Label("Password", Input(id="password", name="password", required=True, **secret), _for="password"),
            Button("Sign in", cls="wide"),
            P(Small("To try it out: ", ", ".join(f"{name_of(id)} / {PASSWORDS[id]}" for id in USERS))),
            method="post",  # to this same URL, which has the page to go to next in its ?next=
            cls="narrow",
        ),
    )


@app.post("/login")
async def login(request: Request, name: str, password: str):
    for user in USERS.values():
        if user.username == name and secrets.compare_digest(PASSWORDS[user.id].encode(), password.encode()):
            await provider.login(request, user)
            return Redirect(provider.next_url(request))
    return Redirect(login_page.to(next=provider.next_url(request), wrong=True))


@app.post("/logout")
async def logout(request: Request):
    await provider.logout(request)
    return Redirect("/login")


serve()
