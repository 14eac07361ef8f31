"""Options of providers under attack: caps on rates would answer 429 before the guard under test is reached."""

import inspect

from faststate import StateProvider

_CAPS = (
    "event_rate",
    "event_burst",
    "max_streams_per_session",
    "max_streams_per_address",
    "max_states_per_session",
)
UNLIMITED = {name: 1_000_000 for name in _CAPS if name in inspect.signature(StateProvider).parameters}
