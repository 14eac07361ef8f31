"""How much one session and one client address may do at a time."""

from __future__ import annotations

import logging
from typing import Final, TypeVar

from ..auth.limits import Rates, TokenBuckets, network_of
from ..exceptions import LimitError
from ..scheduling.threads import left_behind, places_with_left
from ..sse.manager import SSEManager
from .options import Options

N = TypeVar("N", int, float)

logger = logging.getLogger("faststate")

SHARE_OF_ADDRESS: Final = 10
"""Times as much as one session that all sessions of a client address may do, unless an option says otherwise: an office
behind one address has many people, few of whom act at the same moment."""


class Throttle:
    """Bounds what one session and one client address may do at a time. Lifetime: the provider.

    `event_rates` bounds the events that they may send, `stream_rates` the streams that they may open.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        clock = options.clock
        self.event_rates = Rates(
            "address_event_rate",
            TokenBuckets(options.event_rate, options.event_burst, clock),
            TokenBuckets(
                _given(options.address_event_rate, SHARE_OF_ADDRESS * options.event_rate),
                _given(options.address_event_burst, SHARE_OF_ADDRESS * options.event_burst),
                clock,
            ),
            clock,
        )
        self.stream_rates = Rates(
            "address_stream_rate",
            TokenBuckets(options.stream_rate, _given(options.stream_burst, 2 * options.max_streams_per_session), clock),
            TokenBuckets(
                _given(options.address_stream_rate, SHARE_OF_ADDRESS * options.stream_rate),
                _given(options.address_stream_burst, 2 * options.max_streams_per_address),
                clock,
            ),
            clock,
        )
        self._under_way: dict[str, int] = {}

    def begin_event(self, client: str) -> str | None:
        """Count one more event of a client (its session's id, or its address), unless it has too many under way.

        Returns None, or what to tell the client. Threads that go on with an event which was stopped count, too.
        """
        under_way, most = self._under_way.get(client, 0), self._options.max_events_per_session
        if (under_way + left_behind(client) if places_with_left else under_way) >= most:
            return f"{most} actions are under way already. Please wait for them."
        self._under_way[client] = under_way + 1
        return None

    def end_event(self, client: str) -> None:
        """Count one event of a client less."""
        if (under_way := self._under_way.pop(client) - 1) > 0:
            self._under_way[client] = under_way

    def under_way(self, client: str) -> int:
        """Return how many events of a client are under way."""
        return self._under_way.get(client, 0)

    def refuse_too_many_streams(self, manager: SSEManager, session_id: str | None, address: str) -> None:
        """Raise `LimitError` if a session or a client address has all the streams that it may have."""
        of_session, of_address = self._options.max_streams_per_session, self._options.max_streams_per_address
        if manager.of_session.count(session_id or "") >= of_session:
            raise LimitError(f"a session has at most {of_session} streams")
        if manager.of_address.count(network_of(address)) >= of_address:
            logger.warning(
                "%s has %d streams, the most that max_streams_per_address allows; behind a proxy the server must be "
                "told the clients' own addresses",
                address, of_address,
            )  # fmt: skip
            raise LimitError(f"an address has at most {of_address} streams")


def _given(option: N | None, default: N) -> N:
    return default if option is None else option
