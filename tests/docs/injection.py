"""Checks of docs/injection.md; tests/docs/README.md says how they are written."""

# == Injection: snippet 1
# visit /profile 401
# visit /product/tea
one = tab(app)
assert "theme unknown" in one.get("/?cart=9&items=9")
assert ">0<" in one.get("/?cart=9&items=9")
one.get("/login")
assert "Tea &amp; Co: Ada likes light" in one.get("/profile?theme=dark&shop=evil")
assert "theme light" in one.get("/")

# == By hand: snippet 1
# visit /panel/help
assert ">true<" in tab(app).get("/panel/help")

# == By hand: snippet 2
# visit /book/6?seat=3a
# visit /ticket/6
from faststate import ConfigurationError

with pytest.raises(ConfigurationError, match="Order.number has no default"):
    provider.register_state(Order)
one = tab(app)
assert one.client.get("/ticket/7").status_code == 404
assert "12b" in one.get("/book/7?seat=12b") and "12b" in one.get("/ticket/7")

# == By hand: snippet 2
bare, route = fast_app(state_provider=(p2 := StateProvider()))
p2.register_state(Cart)
seen = []


def guard(request, cart: Cart):
    seen.append(cart.items)


bare.before.append(Beforeware(guard))
more = APIRouter()


@more("/routed")
def routed(s: Cart):
    return P(s.signal.items)


more.to_app(bare)


@bare.ws("/ws")
async def ws(msg: str, send, cart: Cart):
    await send(P(f"{msg} {cart.items}"))


@route(before=guard)
def guarded(session: Cart):
    return P(session.signal.items)


one = tab(bare)
assert "$Cart.items" in one.get("/routed") and "$Cart.items" in one.get("/guarded")
assert seen == [0, 0, 0]
with one.client.websocket_connect("/ws") as socket:
    socket.send_json({"msg": "you have"})
    assert "you have 0" in socket.receive_text()

# == Two ways to set up: snippet 1
one = tab(other)
assert "$Cart.items" in one.get("/cart")
from faststate import ConfigurationError

with pytest.raises(ConfigurationError, match="already"):
    provider2.setup(other)
