"""Snapshots as some viewers have them: fields that these may not see are None."""

from __future__ import annotations

from abc import ABCMeta
from functools import partial
from typing import Any

from .copies import SnapshotInfo, StateModel

__all__ = ["partly_hidden"]


def partly_hidden(state: StateModel, hidden: frozenset[str], committed: SnapshotInfo) -> Any:
    """Make a snapshot like `state` with the fields `hidden` being None; `committed` is the info of the full one."""
    kept = state.__dict__  # besides the fields it may hold what a cached property made of them
    values = {name: None if name in hidden else kept[name] for name in type(state).__pydantic_fields__}
    made = _class_without(type(state), hidden)._holding(values, state.__pydantic_private__)
    encoded = {name: "" if name in hidden else value for name, value in state._wire().items()}
    return made._commit(
        SnapshotInfo(
            committed.identifier, committed.version, committed.commit, encoded, committed.provider, state,
            epoch=committed.epoch,
        )
    )  # fmt: skip


def _class_without(cls: type[StateModel], hidden: frozenset[str]) -> type[StateModel]:
    """Find the subclass for snapshots without `hidden`: it reads computed values from the full one, or hides them too.

    There is one for each set of hidden fields, so that a copy, which has no full one, still hides them.
    """
    known: dict[frozenset[str], type[StateModel]] = cls.__dict__.get("_partly_hidden", {})
    made = known.get(hidden)
    if made is None:
        body: dict[str, Any] = {"__slots__": (), "__module__": cls.__module__, "__qualname__": cls.__qualname__}
        body |= {"_full_class": cls, "_fs_schema_": cls._fs_schema(), "_hidden_here": hidden}
        body["__reduce__"] = _reduce
        body |= {name: property(partial(_computed, name=name)) for name in cls.model_computed_fields}
        # Past pydantic's metaclass, which would build a model again; this one differs in these properties alone.
        made = ABCMeta.__new__(type(cls), cls.__name__, (cls,), body)
        type.__setattr__(cls, "_partly_hidden", {**known, hidden: made})
    return made


def _computed(state: StateModel, name: str) -> Any:
    """Read a computed field in a snapshot with hidden fields."""
    if name in state._hidden_here:
        return None
    info = state._fs
    if type(info) is SnapshotInfo and info.full is not None:
        return getattr(info.full, name)
    try:
        return getattr(super(type(state), state), name)  # of a copy, which belongs to no provider
    except Exception:
        return None  # it lacks the values that this is computed from


def _reduce(state: StateModel) -> tuple[Any, ...]:
    """Say how to unpickle a snapshot: pickle finds classes by their names, and these have none of their own."""
    return _restore, (type(state)._full_class, state._hidden_here, state.__dict__, state.__pydantic_private__)


def _restore(cls: type[StateModel], hidden: frozenset[str], values: dict[str, Any], private: Any) -> StateModel:
    return _class_without(cls, hidden)._holding(values, private)
