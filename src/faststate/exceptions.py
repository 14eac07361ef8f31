"""Every error the library raises. Each carries the HTTP status that it becomes at the edge."""

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
    """Base of all errors of this library.

    `status` is the HTTP status (int) that a request failing with this error is answered with. The message is shown to
    clients for errors below 500 only, so it never holds a value that a client may not see.
    """

    status: int = 500


class ConfigurationError(FastStateError):
    """The app is put together wrongly; raised at import or at setup wherever possible."""


class StateNotRegisteredError(ConfigurationError, ValueError):
    """A state class was asked for that no `register_state` call named."""


class EventDefinitionError(ConfigurationError):
    """A state class declares an event, a view or a field that cannot work; raised when the class is made."""


class MissingDependencyError(ConfigurationError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


class IdentifierError(FastStateError, ValueError):
    """A state was asked for without the id that its scope needs, or with one that cannot be a key."""

    status = 400


class StateNotFoundError(IdentifierError):
    """There is no such record (or other state whose `StateConfig(create=…)` decides what exists)."""

    status = 404


class AccessError(FastStateError):
    """The caller may not do this."""

    status = 403


class AuthenticationError(AccessError):
    """Nobody is signed in, and somebody has to be."""

    status = 401


class AuthorizationError(AccessError):
    """Somebody is signed in (or nobody need be), and may not do this."""

    status = 403


class EventError(FastStateError):
    """An event was asked for in a way that cannot be served."""

    status = 400


class UnknownEventError(EventError):
    """No state or no event of that name."""

    status = 404


class EventArgumentError(EventError):
    """An argument is missing, unknown, or not of the declared type. The message names it."""

    status = 400


class EventConflictError(EventError):
    """The state has changed since the page was shown the version that its event expects (`expect_version=True`).

    `version` is the one that it has now, as pages have it (str).
    """

    status = 409

    def __init__(self, message: str, version: str = "") -> None:
        super().__init__(message)
        self.version = version


class EventTimeoutError(EventError, TimeoutError):
    """An event took longer than its `timeout` (or the provider's `event_timeout`) and was stopped.

    Its step under way left no trace; the steps of a generator that were committed before stay.
    """

    status = 503


class RowValueError(EventError):
    """A value that the row of a RECORD state cannot keep; nothing was changed.

    The message names the state's class and field and the column, and never the value.
    """

    status = 400


class ReadOnlyStateError(FastStateError, TypeError):
    """A committed state was assigned to or changed in place. Write in an event, `run()` or `modify()`."""


class NotStartedError(FastStateError):
    """Something was asked of a state that belongs to no provider, or of a provider that has been stopped."""

    status = 503


class ConnectionClosedError(FastStateError):
    """Data was sent to an SSE connection that has ended."""


class LimitError(FastStateError):
    """A client has more of something (events, streams, states) than the provider allows one client."""

    status = 429


class LockTimeoutError(FastStateError, TimeoutError):
    """A state's lock could not be had: in time, or at all, because waiting for it would be a deadlock."""

    status = 503


class BackendError(FastStateError):
    """A store, a backplane or the app's own user loader failed; an error of its type is the `__cause__`."""

    status = 503


class PersistenceError(BackendError):
    """A store or a record source failed, and nothing was changed; or its outcome is unknown, and is looked up again."""


class VersionConflict(PersistenceError):
    """A store or a row holds another version than the one that a change was made from; nothing was changed."""


class RowUnreadableError(PersistenceError):
    """The row of a RECORD state does not fit the class. No page, event or `modify` can use the record until
    the row is mended in the database; the message (for the log) names the row, the fields and what is wrong."""


class LockLostError(PersistenceError):
    """This process was taken for dead while it had a lock, and another one has it by now; nothing was changed."""


class BackplaneError(BackendError):
    """The backplane failed: other processes may not have been told, or this one may not be told by them."""
