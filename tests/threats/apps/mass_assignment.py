"""Profiles with fields that their owners must not set, behind pages and ordinary routes of every form."""

from typing import Annotated

import fasthtml.common as fh
from fasthtml.common import *
from limits import UNLIMITED
from pydantic import BaseModel, computed_field

from faststate import (
    AsSignal,
    Bound,
    Depends,
    ReactiveState,
    ServerOnly,
    StateConfig,
    StateProvider,
    StateScope,
    Visible,
    event,
)


class Address(BaseModel):
    city: str = "Rome"
    verified: bool = False


class Profile(ReactiveState):
    name: Bound[str] = "Ann"
    age: Bound[int] = 30
    salary: Annotated[Bound[int], Visible("hr")] = 1000
    user_id: str = "nobody"
    is_admin: bool = False
    credits: int = 0
    secret: ServerOnly[str] = "hush"
    tags: list[str] = []
    labels: AsSignal[dict[str, str]] = {}
    address: Address = Address()
    _note: str = "private"

    @computed_field
    @property
    def level(self) -> int:
        return 9 if self.is_admin else 1

    def promote(self):
        self.is_admin = True

    @event
    def rename(self, first: str):
        self.name = first

    @event
    def nothing(self):
        pass

    @event
    def ask(self, is_admin: bool = False, credits: int = 0, secret: str = ""):
        """An event with arguments named like fields, which sets none."""

    @event
    def move(self, to: Address):
        self.address = Address(city=to.city)

    @event
    def label(self, labels: dict[str, str]):
        self.labels = labels

    @event(requires_auth=True)
    def reserved(self):
        pass

    @event
    def fail(self):
        raise fh.HTTPException(409, "not now")

    @event
    def pay(self, account: "Account", amount: int):
        account.paid += amount


class Account(ReactiveState):
    paid: int = 0
    limit: int = 100


class Settings(Profile):
    """The same for all."""


provider = StateProvider(secret_key="mass assignment", **UNLIMITED)
provider.register_state(Profile)
provider.register_state(Account)
provider.register_state(Settings, StateConfig(scope=StateScope.GLOBAL, public=True))
app, rt = fh.fast_app(secret_key="mass assignment")


@rt("/early")
def early(profile: Profile):
    """Defined before the provider is set up: FastHTML itself fills the parameter."""
    return Titled("Early", profile.signal.name)


provider.setup(app)


@rt
def index(profile: Profile, settings: Settings):
    return Titled("Profile", profile.signal.name, settings.signal.name)


@rt("/seed")
def seeds(profile: Profile = Depends(provider.get_state)):
    return Titled("Profile", profile.signal.name)


@rt
def save(profile: Profile, settings: Settings, title: str = "", is_admin: bool = False, d: dict | None = None):
    """An event with parameters of its own, one of them with the name of a field."""
    return Titled("Saved", title, str(is_admin))


@rt("/item/{user_id}/{is_admin}")
def item(profile: Profile, settings: Settings, user_id: str, is_admin: bool):
    return Titled("Item", user_id)


@rt
async def asked(request, profile: Profile, settings: Settings):
    """An event that reads the form itself."""
    await request.form()
    await provider.get_state(Profile, request)
    return Titled("Asked")


@app.ws("/ws")
async def ws(profile: Profile, settings: Settings, send, title: str = "", is_admin: bool = False):
    await send(f"{profile.is_admin} {profile.name} {profile.credits}")


def whole(state):
    """Return everything that is kept, whoever looks."""
    state = provider.registry.peek(state._committed.identifier.key)
    fields = {name: getattr(state, name) for name in type(state).model_fields}  # model_dump leaves the secret out
    fields["address"] = state.address.model_dump()
    return {**fields, "level": state.level, "_note": state._note, "names": sorted(state.__dict__)}


@rt
def truth(profile: Profile, settings: Settings, account: Account):
    return JSONResponse({"profile": whole(profile), "settings": whole(settings), "account": account.model_dump()})
