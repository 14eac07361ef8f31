"""FastState: scoped, authorised, live server state for FastHTML."""

from .auth.rules import requires_auth
from .auth.users import UserContext, current_request, current_user, get_current_request, get_current_user
from .exceptions import (
    AccessError,
    AuthenticationError,
    AuthorizationError,
    BackendError,
    BackplaneError,
    ConfigurationError,
    ConnectionClosedError,
    EventArgumentError,
    EventConflictError,
    EventDefinitionError,
    EventError,
    EventTimeoutError,
    FastStateError,
    IdentifierError,
    LimitError,
    LockLostError,
    LockTimeoutError,
    MissingDependencyError,
    NotStartedError,
    PersistenceError,
    ReadOnlyStateError,
    RowUnreadableError,
    RowValueError,
    StateNotFoundError,
    StateNotRegisteredError,
    UnknownEventError,
    VersionConflict,
)
from .fasthtml import fast_app
from .provider.provider import StateProvider
from .records.sources import RecordSource
from .registry.registry import StateRegistry
from .scopes import StateIdentifier, StateScope
from .sessions.config import StateConfig
from .sse import SSEConnection, SSEManager, StateEventHandler
from .state.events import event, expr
from .state.markers import AsSignal, Bound, ServerOnly, Visible
from .state.parameters import Component, Depends, Record
from .state.reactive import ReactiveState
from .state.views import view
from .stores.backplane import Backplane
from .stores.base import SharedStore, StateStore

__version__ = "0.1.0"

__all__ = [
    "AccessError",
    "AsSignal",
    "AuthenticationError",
    "AuthorizationError",
    "BackendError",
    "Backplane",
    "BackplaneError",
    "Bound",
    "Component",
    "ConfigurationError",
    "ConnectionClosedError",
    "Depends",
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
    "ReactiveState",
    "ReadOnlyStateError",
    "Record",
    "RecordSource",
    "RowUnreadableError",
    "RowValueError",
    "SSEConnection",
    "SSEManager",
    "ServerOnly",
    "SharedStore",
    "StateConfig",
    "StateEventHandler",
    "StateIdentifier",
    "StateNotFoundError",
    "StateNotRegisteredError",
    "StateProvider",
    "StateRegistry",
    "StateScope",
    "StateStore",
    "UnknownEventError",
    "UserContext",
    "VersionConflict",
    "Visible",
    "current_request",
    "current_user",
    "event",
    "expr",
    "fast_app",
    "get_current_request",
    "get_current_user",
    "requires_auth",
    "view",
]
