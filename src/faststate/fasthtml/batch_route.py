"""The route of batches: several events of one page in one request, run one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive

from ..auth.users import current_request, current_user
from ..exceptions import EventArgumentError, FastStateError
from ..provider.context import RequestContext
from ..provider.payload import Call, parse_batch
from ..provider.provider import StateProvider
from ..state.serving import current_page
from ..wire.frames import done_frame
from .answers import EventResponse
from .event_route import EventRoute, client_of, header_text
from .requests import parse_json

HOLDS: Final = 2.0
"""Seconds that an event holds up those behind it: it may take minutes."""


class _Presence:
    """ASGI's `receive` of a request that brings several events: they share one call of it. Lifetime: the request."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._call: asyncio.Future[Message] | None = None

    async def __call__(self) -> Message:
        if self._call is None:
            self._call = asyncio.ensure_future(self._receive())
            self._call.add_done_callback(self._note)
        return await asyncio.shield(self._call)

    def _note(self, call: asyncio.Future[Message]) -> None:
        if call.cancelled() or call.exception() is not None:
            return
        if call.result()["type"] != "http.disconnect":
            self._call = None  # the next one asks again

    def close(self) -> None:
        """Stop waiting for what the client does."""
        if self._call is not None:
            self._call.cancel()


_Batch = Mapping[str, Call | EventArgumentError]
"""The events of one request by their nonces, in their order: each parsed, or the error of its payload."""


class BatchRoute:
    """The endpoint of several events at once. Lifetime: the app.

    `events` is the route of single ones: what holds for those holds for each of these. Beforeware runs once for all.
    """

    def __init__(self, provider: StateProvider, events: EventRoute) -> None:
        self.provider = provider
        self._events = events
        path = f"{provider.options.prefix}/events"
        self.route = Route(path, self.endpoint, methods=["POST"], name="faststate-events")

    async def endpoint(self, request: Request) -> Response:
        """POST: run events in their order. One that is refused does not stop those behind it."""
        presence = _Presence(request.receive)

        def parse(body: bytes, headers: Mapping[bytes, bytes]) -> _Batch:
            connection_id = header_text(headers, b"faststate-connection")
            batch = parse_batch(parse_json(body), self.provider.options.max_depth, connection_id)
            for event in batch.values():
                if isinstance(event, Call):
                    event.receive = presence
            return batch

        try:
            context = self.provider.context(request)
            return await self._events.admit(context, request.scope, request.receive, parse, self._run)
        finally:
            presence.close()

    async def _run(self, context: RequestContext, batch: _Batch, session_id: str | None) -> EventResponse:
        """Run the events of a batch that all Beforeware has let through."""
        answers: dict[str, EventResponse] = {}
        tasks: dict[str, asyncio.Task[EventResponse]] = {}
        with ExitStack() as places:
            # All of them are counted before the first one runs: a client that sends too many has the last ones refused.
            for number, (nonce, event) in enumerate(batch.items()):
                refused = self._refused(context, session_id, event, places if number else None)
                if refused is not None:
                    answers[nonce] = refused
            try:
                for nonce, event in batch.items():
                    if isinstance(event, Call) and nonce not in answers:
                        tasks[nonce] = asyncio.create_task(self._run_one(context, event), name="faststate-batched")
                        await asyncio.wait((tasks[nonce],), timeout=HOLDS)
                if tasks:
                    await asyncio.wait(tasks.values())
            except asyncio.CancelledError:
                for task in tasks.values():
                    task.cancel()
                if tasks:
                    await asyncio.wait(tasks.values())
                raise
        frames = b""
        for nonce in batch:
            answer = answers.get(nonce) or tasks[nonce].result()
            frames += bytes(answer.body) + done_frame(nonce, answer.meant, answer.after)
        return EventResponse(frames)

    def _refused(
        self,
        context: RequestContext,
        session_id: str | None,
        event: Call | EventArgumentError,
        places: ExitStack | None,
    ) -> EventResponse | None:
        """Return the refusal of an event that may not run, if so.

        One that may run counts as under way until `places` are given back; the first one has its place by the request.
        """
        if places is not None and (refused := self._events.refused_by_rate(context, session_id)) is not None:
            return refused
        if isinstance(event, EventArgumentError):
            return self._events.refuse(event)
        if places is not None:
            throttle, client = self.provider.throttle, client_of(context, session_id)
            if (too_many := throttle.begin_event(client)) is not None:
                return self._events.refuse_for(too_many, 1)
            places.callback(throttle.end_event, client)
        return None

    async def _run_one(self, context: RequestContext, call: Call) -> EventResponse:
        """Run one event, in a task and with a context of its own, as a request for it alone would have them."""
        own = context.for_event()
        own.await_answer()
        context.after_answer(own.answered)
        current_request.set(own.connection)
        current_page.set(own)
        current_user.set(None)
        try:
            if own.is_unsure:
                await own.settle()
            return await self._events.run(own, call, own.session_id())
        except FastStateError as error:
            return self._events.refuse(error)
        finally:
            own.forget()
