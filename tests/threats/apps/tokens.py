"""A vault per session, documents by id, panels by name; and the same app again under other keys, in one process."""

from fasthtml.common import *
from limits import UNLIMITED
from starlette.applications import Starlette

from faststate import ReactiveState, StateConfig, StateProvider, StateScope, event, fast_app


def make(secret_key, **options):
    """One app. All of them share the session's cookie; their states and their page tokens are their own."""

    class Vault(ReactiveState):
        secret: str = "empty"

        @event
        def store(self, secret: str):
            self.secret = secret

    class Doc(ReactiveState):
        text: str = "blank"

        @event
        def write(self, text: str):
            self.text = text

    class Panel(Doc):
        pass

    class Diary(Doc):
        pass

    provider = StateProvider(secret_key=secret_key, **UNLIMITED, **options)
    provider.register_state(Vault)
    provider.register_state(Doc, StateConfig(scope=StateScope.RECORD))
    provider.register_state(Panel, StateConfig(scope=StateScope.COMPONENT))
    provider.register_state(Diary, StateConfig(scope=StateScope.USER))
    app, rt = fast_app(state_provider=provider, secret_key="one session for all apps")

    @rt("/")
    def index(vault: Vault):
        return Titled("Vault", vault.signal.secret)

    @rt("/doc/{doc_id}")
    def doc(doc: Doc):
        return Titled("Document", doc.signal.text)

    @rt("/panel/{name}")
    async def panel(request, name: str):
        return Titled("Panel", (await provider.get_state(Panel, request, component_id=name)).signal.text)

    @rt("/diary")
    def diary(diary: Diary):
        return Titled("Diary", diary.signal.text)

    @rt("/sign-in/{name}")
    def sign_in(session, name: str):
        session["user_id"] = name
        return Response("signed in")

    @rt("/sign-out")
    def sign_out(session):
        session.pop("user_id", None)
        return Response("signed out")

    @rt("/truth/{doc_id}")
    def truth(vault: Vault, doc: Doc):
        return JSONResponse({"vault": vault.secret, "doc": doc.text})

    return app


TWIN = "the main app's key"
apps = {
    "/old": make(["key of last year"]),
    "/both": make(["key of last year", "key of this year"]),
    "/new": make(["key of this year"]),
    "/twin": make(TWIN, prefix="/_twin"),
    "/": make(TWIN),
}
app = Starlette(routes=[Mount(path, made) for path, made in apps.items()])
