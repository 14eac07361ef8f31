"""Checks of docs/errors.md; tests/docs/README.md says how they are written."""

# == Errors: snippet 1
# visit /account 303
one = tab(app)
one.get("/")
one.send(Seats.book)
assert "no seat left" in one.send(Seats.book, status=400).text
import logging

logging.getLogger("faststate").setLevel(logging.CRITICAL)
said = one.send(Seats.bug, status=500).text
logging.getLogger("faststate").setLevel(logging.NOTSET)
assert "Something went wrong on the server. Nothing was changed." in said and "not for users" not in said
assert "Somebody was faster." in one.send(Seats.refuse, status=409).text
assert ">0<" in one.get("/")
for error, base in {
    "StateNotRegisteredError": ValueError,
    "MissingDependencyError": ImportError,
    "IdentifierError": ValueError,
    "ReadOnlyStateError": TypeError,
    "LockTimeoutError": TimeoutError,
    "EventTimeoutError": TimeoutError,
}.items():
    import faststate

    assert issubclass(getattr(faststate, error), base)
assert issubclass(faststate.VersionConflict, faststate.PersistenceError)
assert issubclass(faststate.PersistenceError, faststate.BackendError)
assert issubclass(AuthenticationError, AccessError) and issubclass(faststate.StateNotFoundError, IdentifierError)
