"""StateConfig: the rules of single states, their owners, and what is refused when it is said."""

from __future__ import annotations

import pytest

from faststate import ConfigurationError, StateConfig


def yields(user, state, action):
    yield False


async def yields_later(user, state, action):
    yield False


@pytest.mark.parametrize("authorize", [yields, yields_later])
def test_a_rule_that_yields_is_refused_since_what_it_makes_is_always_true(authorize):
    with pytest.raises(ConfigurationError, match="yields"):
        StateConfig(authorize=authorize)
