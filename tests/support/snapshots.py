"""States as the registry keeps them, without a registry."""

from faststate import StateIdentifier, StateScope
from faststate.state.copies import SnapshotInfo


def commit(state, version=1):
    """`state` as the registry keeps it: a committed snapshot."""
    identifier = StateIdentifier(StateScope.GLOBAL, type(state).__name__)
    return state._frozen_copy()._commit(SnapshotInfo(identifier, version, version, state._wire(), None))


def apply(snapshot, change):
    """Apply a change as the registry does."""
    if change is None:
        return snapshot
    old = snapshot._committed
    return change.made._commit(SnapshotInfo(old.identifier, old.version + 1, old.commit + 1, change.encoded, None))
