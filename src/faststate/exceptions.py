"""All errors of the library, with the HTTP status of each."""

from __future__ import annotations

__all__ = [
    "AccessError",
    "AuthenticationError",
    "AuthorizationError",
    "BackendError",
    "BackplaneError",
    "ConfigurationError",
    "ConnectionClosedError",
    "EventArgumentError",
    "EventConflictError",
    "EventDefinitionError",
    "EventError",
    "EventTimeoutError",
    "FastStateError",
    "IdentifierError",
    "LimitError",
    "LockLostError",
    "LockTimeoutError",
    "MissingDependencyError",
    "NotStartedError",
    "PersistenceError",
    "ReadOnlyStateError",
    "RowUnreadableError",
    "RowValueError",
    "StateNotFoundError",
    "StateNotRegisteredError",
    "UnknownEventError",
    "VersionConflict",
]


class FastStateError(Exception):
    """Base class of all errors of this library.

    `status` is the HTTP status (int) of the response to a request that fails with this error. Clients see the message
    only if the status is below 500; it never contains a value that a client may not see.
    With `send_again`, the event of a page did not even begin: the page sends it again by itself.
    """

    status: int = 500
    send_again: bool = False


class ConfigurationError(FastStateError):
    """The app is configured wrongly. Raised at import or at setup wherever possible."""


class StateNotRegisteredError(ConfigurationError, ValueError):
    """A state class was requested that was never passed to `register_state`."""


class EventDefinitionError(ConfigurationError):
    """A state class declares an event, a view or a field that cannot work. Raised when the class is defined."""


class MissingDependencyError(ConfigurationError, ImportError):
    """An optional dependency is not installed. The message names the extra to install."""


class IdentifierError(FastStateError, ValueError):
    """A state was requested without the id that its scope needs, or with an id that cannot be part of a key."""

    status = 400


class StateNotFoundError(IdentifierError):
    """The record does not exist, or another state for which `StateConfig(create=…)` decides what exists."""

    status = 404


class AccessError(FastStateError):
    """The caller is not allowed to do this."""

    status = 403


class AuthenticationError(AccessError):
    """The caller must be signed in, and is not."""

    status = 401


class AuthorizationError(AccessError):
    """The caller is not allowed to do this, and signing in would not help or has been done."""


class EventError(FastStateError):
    """A request for an event is wrong."""

    status = 400


class UnknownEventError(EventError):
    """There is no state or no event with this name."""

    status = 404


class EventArgumentError(EventError):
    """An argument is missing, unknown, or does not have the declared type. The message names it."""


class EventConflictError(EventError):
    """The state has another version than the page showed when it sent the event (`expect_version=True`).

    `version` (str) is the current version, in the form that pages use.
    """

    status = 409

    def __init__(self, message: str, version: str = "") -> None:
        super().__init__(message)
        self.version = version


class EventTimeoutError(EventError, TimeoutError):
    """An event took longer than its `timeout`, or than the provider's `event_timeout`, and was stopped.

    The step that was running has changed nothing. Earlier steps of a generator stay committed.
    """

    status = 503


class RowValueError(EventError):
    """The row of a RECORD state cannot keep a value. Nothing was changed.

    The message names the state's class, the field and the column, but never the value.
    """


class ReadOnlyStateError(FastStateError, TypeError):
    """Code tried to change a committed state. Change states in an event, with `run()` or with `modify()`."""


class NotStartedError(FastStateError):
    """A state that belongs to no provider was used like one that does, or the provider has been stopped."""

    status = 503


class ConnectionClosedError(FastStateError):
    """Data was sent over an SSE connection that has ended."""


class LimitError(FastStateError):
    """A client has used up a limit of the provider, for example on events, streams or states."""

    status = 429


class LockTimeoutError(FastStateError, TimeoutError):
    """The lock of a state was not free in time, or waiting for it would have been a deadlock."""

    status = 503


class BackendError(FastStateError):
    """A store, a backplane or the app's user loader failed. The `__cause__` has the type of the original error."""

    status = 503


class PersistenceError(BackendError):
    """A store or a record source failed. Nothing was changed, or it is unknown and FastState looks again."""


class VersionConflict(PersistenceError):
    """A store or a row has another version than the one that a change is based on. Nothing was changed."""


class RowUnreadableError(PersistenceError):
    """The row of a RECORD state does not fit the class.

    No page, event or `modify` can use the record until the row is corrected in the database. The message, for the log,
    names the row, the fields and what is wrong with them.
    """


class LockLostError(PersistenceError):
    """This process was taken for dead while it held a lock, and another process holds it now. Nothing was changed."""


class BackplaneError(BackendError):
    """The backplane failed: messages to other processes, or from them to this one, may be missing."""
