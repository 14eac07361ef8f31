"""Live states: find, lock, run, commit, save and forget them.

This package knows states, stores and records. It knows no request, no connection and no page: `protocols` declares what
it asks of them, and of a cluster of processes. Begin with `registry.StateRegistry`, which finds states. Then read
`run_event`, which runs one event in a `transaction`, `commits`, which saves and announces what it changed, and
`lifetimes`, which says how long states stay in memory.
"""

from .registry import StateRegistry

__all__ = ["StateRegistry"]
