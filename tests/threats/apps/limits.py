"""Options of providers under attack: caps on rates would answer 429 before the guard under test is reached."""

import math

UNLIMITED = {
    "event_rate": math.inf,
    "max_streams_per_session": 1_000_000,
    "max_streams_per_address": 1_000_000,
    "max_states_per_session": 1_000_000,
}
