"""A board and a profile per user, and every way to end a session while pages show them."""

import asyncio

from fasthtml.common import *

from faststate import *


class Board(ReactiveState):
    text: str = ""


class Profile(Board):
    pass


class Door(ReactiveState):
    knocks: int = 0

    @event
    async def leave(self):
        self.knocks += 1
        await provider.logout(get_current_request())
        await write("after")
        return Redirect("/bye")

    @event
    def leave_in_a_thread(self):
        self.knocks += 1
        provider.logout(get_current_request())
        with provider.modify(Board) as board:
            board.text = "after"
        return Redirect("/bye")


provider = StateProvider(heartbeat=0.05)
provider.register_state(Board, StateConfig(scope=StateScope.GLOBAL))
provider.register_state(Profile, StateConfig(scope=StateScope.USER))
provider.register_state(Door)
app, rt = fast_app(state_provider=provider, secret_key="for tests", pico=False)
gate = asyncio.Event()


async def write(text):
    async with provider.modify(Board) as board:
        board.text = text
    async with provider.modify(Profile, user_id="ada") as profile:
        profile.text = text


async def write_and_wait(text):
    await write(text)  # nothing else has run since
    await gate.wait()
    return "out"


@rt("/")
def index(board: Board, profile: Profile, door: Door):
    return Titled("All", board.signal.text, profile.signal.text, door.signal.knocks)


@rt("/enter/{name}")
async def enter(request, name: str):
    await provider.login(request, UserContext(name))
    return "in"


@rt("/write/{text}")
async def write_now(text: str):
    await write(text)
    return "written"


@rt("/out/{text}")
async def sign_out(request, text: str):
    await provider.logout(request)
    return await write_and_wait(text)


@rt("/out-sync/{text}")
def sign_out_sync(request, text: str):
    provider.logout(request)
    with provider.modify(Board) as board:
        board.text = text
    with provider.modify(Profile, user_id="ada") as profile:
        profile.text = text
    asyncio.run_coroutine_threadsafe(gate.wait(), provider.loop()).result()
    return "out"


@rt("/in-again/{text}")
async def sign_in_again(request, text: str):
    await provider.login(request, UserContext("ada"))
    return await write_and_wait(text)


@rt("/in-as-bob/{text}")
async def sign_in_as_bob(request, text: str):
    await provider.login(request, UserContext("bob"))
    return await write_and_wait(text)


@rt("/open-gate")
async def open_gate():
    gate.set()
    return "open"


@rt("/shut-gate")
async def shut_gate():
    gate.clear()
    return "shut"


@rt("/disconnect/{name}/{text}")
async def disconnect(name: str, text: str):
    count = await provider.disconnect_user(name)
    await write(text)
    return str(count)


@rt("/disconnect-sync/{name}/{text}")
def disconnect_sync(name: str, text: str):
    count = provider.disconnect_user(name).value
    with provider.modify(Board) as board:
        board.text = text
    return str(count)


@rt("/streams")
def streams():
    stats = provider.stats()
    return f"{stats.connections} {stats.subscriptions}"
