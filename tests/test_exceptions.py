"""Errors: their families, and the status that each becomes at the edge."""

from __future__ import annotations

import pytest

import faststate
from faststate import exceptions

STATUS = {
    "FastStateError": 500,
    "ConfigurationError": 500,
    "StateNotRegisteredError": 500,
    "EventDefinitionError": 500,
    "MissingDependencyError": 500,
    "IdentifierError": 400,
    "StateNotFoundError": 404,
    "AccessError": 403,
    "AuthenticationError": 401,
    "AuthorizationError": 403,
    "EventError": 400,
    "UnknownEventError": 404,
    "EventArgumentError": 400,
    "ReadOnlyStateError": 500,
    "NotStartedError": 503,
    "ConnectionClosedError": 500,
    "LockTimeoutError": 503,
    "BackendError": 503,
}
FAMILIES = {
    "StateNotRegisteredError": ("ConfigurationError", ValueError),
    "EventDefinitionError": ("ConfigurationError",),
    "MissingDependencyError": ("ConfigurationError", ImportError),
    "IdentifierError": (ValueError,),
    "StateNotFoundError": ("IdentifierError",),
    "AuthenticationError": ("AccessError",),
    "AuthorizationError": ("AccessError",),
    "UnknownEventError": ("EventError",),
    "EventArgumentError": ("EventError",),
    "ReadOnlyStateError": (TypeError,),
    "LockTimeoutError": (TimeoutError,),
}


def test_every_error_has_its_status():
    assert {name: getattr(exceptions, name).status for name in STATUS} == STATUS


def test_every_error_is_listed_and_public():
    raised = {name for name, value in vars(exceptions).items() if isinstance(value, type)}
    assert raised == set(exceptions.__all__) == set(exceptions.__all__) & set(dir(faststate))
    assert set(STATUS) <= raised
    for name in raised:
        assert issubclass(getattr(exceptions, name), exceptions.FastStateError)
        assert getattr(exceptions, name).__doc__


@pytest.mark.parametrize("name", FAMILIES)
def test_an_error_is_caught_by_its_family_and_by_what_it_is_in_python(name):
    for family in FAMILIES[name]:
        kind = getattr(exceptions, family) if isinstance(family, str) else family
        with pytest.raises(kind, match="why"):
            raise getattr(exceptions, name)("why")


def test_an_error_of_one_family_is_none_of_another():
    assert not issubclass(exceptions.AccessError, exceptions.EventError)
    assert not issubclass(exceptions.AuthenticationError, exceptions.AuthorizationError)
    assert not issubclass(exceptions.IdentifierError, exceptions.ConfigurationError)
