"""Providers and changes that many tests of states make in the same way."""

from __future__ import annotations

from typing import Any

from faststate import ReactiveState, StateConfig, StateProvider


def provider_of(cls: type[ReactiveState], config: StateConfig | None = None, **options: Any) -> StateProvider:
    """Return a new provider, made with `options`, that knows this one class."""
    provider = StateProvider(**options)
    provider.register_state(cls, config)
    return provider


async def set_fields(block: Any, **values: Any) -> None:
    """Set these fields in one change: `await set_fields(provider.modify(Stock), left=9)`."""
    async with block as state:
        for name, value in values.items():
            setattr(state, name, value)
