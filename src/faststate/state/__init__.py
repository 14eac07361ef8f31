"""States as a user declares them: typed fields, events and views, and the snapshots and working copies of their values.

This package knows values, validation and access rules. It knows no store, no request and no connection: it declares the
protocols that higher packages implement. Begin with `reactive.ReactiveState`.
"""

from .reactive import ReactiveState

__all__ = ["ReactiveState"]
