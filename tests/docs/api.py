"""Checks of docs/api.md; tests/docs/README.md says how they are written."""

# == In an app: snippet 1
one = tab(app)
one.get("/")
one.send(CartState.add)
assert ">1<" in one.get("/")
import inspect
from faststate import ConnectionClosedError, get_current_user, get_current_request

assert connection.connected_at.tzinfo is not None
with pytest.raises(ConnectionClosedError):
    connection.send_event({})
coroutines = [
    StateProvider.get_state, StateProvider.stop, StateRegistry.get_state, get_current_user, type(CartState.add).run,
]  # fmt: skip
assert all(map(inspect.iscoroutinefunction, coroutines))
plain = [
    StateProvider.register_state, StateProvider.setup, StateProvider.stats, StateProvider.modify,
    StateRegistry.broadcast_to_state, SSEConnection.send_event, SSEManager.add_connection,
    SSEManager.remove_connection, SSEManager.broadcast_to_state, SSEManager.cleanup_stale_connections,
    StateEventHandler.handle_state_change, StateIdentifier.generate_key, get_current_request,
    UserContext.has_permissions, UserContext.has_roles,
]  # fmt: skip
assert not any(map(inspect.iscoroutinefunction, plain))
assert set(state_provider.state_configs) == {CartState}
assert isinstance(state_provider.registry, StateRegistry)
