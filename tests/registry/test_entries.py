"""Entries: which events a state remembers, and what of it concerns other processes."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faststate import ReactiveState, StateScope
from faststate.registry.entries import NONCES_IN_ANY_CASE, NONCES_KEPT, Entry
from faststate.registry.persistence import NONCE_AGE
from faststate.scopes import StateIdentifier


class Plain(ReactiveState):
    count: int = 0


def new_entry() -> Entry:
    return Entry(StateIdentifier(StateScope.GLOBAL, "Plain"), 60.0, Plain())


def commit(entry: Entry, nonce: str, now: float, saved: list[str]) -> list[str]:
    """Load what was `saved` as another process does, and commit an event; return what is saved."""
    entry.remember_stamped(saved, now)
    stamped = entry.stamped_nonces(now, [nonce])
    entry.remember(nonce, now)
    return stamped


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(0, 2), min_size=NONCES_KEPT + 50, max_size=NONCES_KEPT + 200))
def test_each_of_the_last_events_is_remembered_whichever_processes_they_ran_in(processes: list[int]) -> None:
    entries = [new_entry() for _ in range(3)]
    saved: list[str] = []
    for number, process in enumerate(processes):
        saved = commit(entries[process], f"nonce{number}", number / 100, saved)
    other = new_entry()
    for entry in (*entries, other):
        entry.remember_stamped(saved, len(processes) / 100)
        missing = [n for n in range(len(processes) - NONCES_KEPT, len(processes)) if not entry.has_seen(f"nonce{n}")]
        assert not missing
        assert len(entry.nonces or ()) == NONCES_KEPT


def test_what_is_old_is_told_to_nobody_but_the_last_ones() -> None:
    entries, saved = [new_entry(), new_entry()], list[str]()
    for number in range(3 * NONCES_IN_ANY_CASE):
        saved = commit(entries[number % 2], f"nonce{number}", number * NONCE_AGE, saved)
    assert len(saved) == NONCES_IN_ANY_CASE + 1
    assert saved[-1].startswith(f"nonce{3 * NONCES_IN_ANY_CASE - 1}@")


def test_nonces_that_were_saved_without_a_time_are_known() -> None:
    entry = new_entry()
    entry.remember_stamped(["old", "older"], 5.0)
    assert entry.has_seen("old") and entry.has_seen("older") and not entry.has_seen("other")


def test_what_all_entries_share_cannot_be_changed_by_one_of_them() -> None:
    entry, other = new_entry(), new_entry()
    with pytest.raises(FrozenInstanceError, match="own_shared"):
        entry.shared.committing = True
    with pytest.raises((AttributeError, TypeError)):
        entry.shared.note_typed("page", ["title"], 1)
    own = entry.own_shared()
    own.committing = True
    assert own.note_typed("page", ["title"], 1) == ["title"]
    assert (other.shared.committing, dict(other.shared.typed)) == (False, {})
    assert entry.shared is own
