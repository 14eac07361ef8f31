"""Parts of apps that many tests make."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from faststate import StateProvider, UserContext


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
