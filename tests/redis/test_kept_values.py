"""Values in a store: each value of each kind comes back as it was, or its commit is refused."""

import asyncio
import contextlib
from typing import Any

import pytest
from fasthtml.common import to_xml
from hypothesis import HealthCheck, given, settings
from pydantic import create_model

from faststate import ConfigurationError, EventError, ReactiveState, StateConfig, StateProvider, StateScope
from faststate.sessions.config import Ids
from tests.support.values import KINDS, canonical


@pytest.fixture(scope="module")
def loop():
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/states.db"
    url: str = request.getfixturevalue("redis_server").url
    return url


@contextlib.asynccontextmanager
async def process(cls: type[ReactiveState], store: str):
    """A provider of a new process on the store."""
    provider = StateProvider(store=store)
    provider.register_state(cls, StateConfig(scope=StateScope.RECORD))
    await provider.start()
    try:
        yield provider
    finally:
        await provider.stop()


async def shown(provider: StateProvider, cls: type[ReactiveState], record_id: int) -> str:
    """Return `x` as a page can show it."""
    entry = await provider.registry.entry(
        provider.registrations.config_of(cls).identifier(Ids(record_id=record_id)), cls
    )
    if cls.__pydantic_fields__["x"].annotation is not Any:  # not all that Any takes has a text
        assert to_xml(entry.state).startswith("<dl ")
    return canonical(entry.state.x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_in_a_store_comes_back_or_is_refused(kind, store, loop):
    annotation, values = KINDS[kind]
    cls: Any = create_model(
        "Thing", __base__=ReactiveState, x=(annotation if annotation is Any else annotation | None, None)
    )
    expected: list[str] = []

    async def set_all(examples: list[Any]) -> None:
        async with process(cls, store) as provider:
            for number, value in enumerate(examples):
                with contextlib.suppress(EventError, ConfigurationError):
                    async with provider.modify(cls, record_id=number) as state:
                        state.x = value
                expected.append(await shown(provider, cls, number))

    async def look_at_all() -> list[str]:
        async with process(cls, store) as provider:
            return [await shown(provider, cls, number) for number in range(len(expected))]

    examples: list[Any] = []

    @settings(deadline=None, max_examples=25, database=None, suppress_health_check=list(HealthCheck))
    @given(values)
    def collect(value: Any) -> None:
        examples.append(value)

    collect()
    loop.run(set_all(examples))
    assert loop.run(look_at_all()) == expected
    assert any(found != canonical(None) for found in expected)
