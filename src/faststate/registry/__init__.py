"""Live states: find, lock, run, commit, save and forget them.

This package knows states, stores and records, and declares what it asks of a cluster of processes. It knows no request,
no connection and no page. Begin with `registry.StateRegistry`, then read `transaction`, which runs one event, and
`commits`, which saves and announces what it changed.
"""

from .registry import StateRegistry

__all__ = ["StateRegistry"]
