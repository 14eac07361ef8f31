"""Checks of docs/scopes.md; tests/docs/README.md says how they are written."""

# == Scopes: snippet 2
key = lambda scope, **ids: StateIdentifier(scope, "Cls", **ids).generate_key()
assert key(StateScope.GLOBAL) == "global:Cls"
assert key(StateScope.SESSION, session_id="s") == "session:Cls:s"
assert key(StateScope.COMPONENT, session_id="s", component_id="c") == "component:Cls:s:component:c"
assert key(StateScope.TEMPORARY, session_id="s", component_id="t") == "temporary:Cls:s:t"
from faststate import IdentifierError

with pytest.raises(IdentifierError, match="needs a user_id"):
    key(StateScope.USER)
assert key(StateScope.RECORD, record_id=1) == key(StateScope.RECORD, record_id="1")
with pytest.raises(IdentifierError):
    key(StateScope.RECORD, record_id="x" * 513)

# == Several states of a class: snippet 1
# visit /eu/tea
one = tab(app)
page = one.get("/")
assert "$Counter.left.count" in page and "$Counter.right.count" in page
one.send(Counter.add, own_id="left")
assert '"left":{"count":1}' in (page := one.get("/")) and '"right":{"count":0}' in page
assert one.send(Counter.add, own_id="middle", status=403).status_code == 403
from faststate import ConfigurationError

wrong = StateProvider()
wrong.register_state(Counter, StateConfig(scope=StateScope.RECORD))
other, route = fast_app(state_provider=wrong)


@route
def nowhere(c: Counter): ...


with pytest.raises(ConfigurationError, match="its id is not in the path"), tab(other).client:
    pass
one.get("/draft"), one.get("/draft")
assert sum(key.startswith("temporary:Draft:") for key in provider.registry.live) >= 2
