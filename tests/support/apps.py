"""Parts of apps that many tests make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fasthtml.common import P
from starlette.requests import Request

from faststate import ReactiveState, StateConfig, StateProvider, UserContext, fast_app


def app_showing(
    cls: type[ReactiveState],
    config: StateConfig | None = None,
    *,
    provider: StateProvider | None = None,
    show: Callable[[Any], Any] = P,
    **options: Any,
) -> tuple[Any, StateProvider]:
    """Return an app whose page at / shows a state of `cls` by `show(state)`, and its provider."""
    provider = provider or StateProvider()
    provider.register_state(cls, config)
    app, rt = fast_app(state_provider=provider, secret_key="for tests", **options)

    rt("/")(handler_of(cls, show))
    return app, provider


def handler_of(cls: type[ReactiveState], answer: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a route's handler that takes a state of `cls`, and answers with `answer(state)`."""

    def handler(state: Any) -> Any:
        return answer(state)

    handler.__annotations__["state"] = cls
    return handler


def user_of_header(request: Any) -> UserContext | None:
    """A user loader: the user whom the header `x-user` names, nobody without it."""
    return UserContext(request.headers["x-user"]) if "x-user" in request.headers else None


def sign_in_routes(rt: Any, provider: StateProvider) -> None:
    """Add routes to sign in as anybody (/in/{name}) and to sign out (/out)."""

    @rt("/in/{name}")
    async def sign_in(request: Request, name: str):
        await provider.login(request, UserContext(name))
        return "in"

    @rt("/out")
    async def sign_out(request: Request):
        await provider.logout(request)
        return "out"
