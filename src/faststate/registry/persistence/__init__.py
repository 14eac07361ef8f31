"""Persistence: keeps the states of a class in a store or in the rows of a table, and loads them again.

The two ways share one interface, `base.Persistence`: a state is stored whole, as JSON, or it is a row of the app's own
table. This package knows stores, records and state classes, and nothing of live states, locks or processes. Begin with
`base`, then read `codec`, which makes bytes of a state and refuses values that would not come back as they were.
"""

from .base import MARK_TTL, NONCE_AGE, Loaded, Persistence, Save, nonce_key, separate_nonce
from .failures import persistence_errors
from .rows import RecordPersistence, save_rows, write_all
from .stored import StorePersistence

__all__ = [
    "MARK_TTL",
    "NONCE_AGE",
    "Loaded",
    "Persistence",
    "RecordPersistence",
    "Save",
    "StorePersistence",
    "nonce_key",
    "persistence_errors",
    "save_rows",
    "separate_nonce",
    "write_all",
]
