"""A shop. Each session has its own cart; the stock is shared, so all shoppers see it fall, and nobody can oversell it.

A product is a RECORD state: created from the catalog when somebody first opens it, and a 404 if the catalog does not
have it. An event over two states, such as `Cart.add`, changes both of them or neither.
"""

from decimal import Decimal
from typing import Annotated

from fasthtml.common import *
from pydantic import BaseModel, Field, computed_field

from faststate import (
    EventError,
    ReactiveState,
    Record,
    StateIdentifier,
    StateProvider,
    StateScope,
    event,
    fast_app,
)

CATALOG = {
    "mug": {"name": "Mug", "about": "Stoneware, holds a quarter of a litre.", "price": "9.50", "stock": 5},
    "pot": {"name": "Teapot", "about": "Cast iron, with a strainer. Enough for four.", "price": "48.00", "stock": 2},
    "tea": {"name": "Green tea", "about": "Sencha, a hundred grams.", "price": "7.25", "stock": 20},
}

provider = StateProvider()


def from_catalog(identifier: StateIdentifier):
    sku = identifier.record_id
    return {"sku": sku, **CATALOG[sku]} if sku in CATALOG else None


@provider.state(scope=StateScope.GLOBAL, public=True)  # every order may write it
class Announcement(ReactiveState):
    text: str = "Everything ships today."


@provider.state(scope=StateScope.RECORD, create=from_catalog, public=True)  # anybody may take from the shelf
class ProductState(ReactiveState):
    sku: str
    name: str
    about: str
    price: Decimal
    stock: int = Field(ge=0)

    def __ft__(self):
        return Article(
            H2(A(self.name, href=f"/products/{self.sku}")),
            P(self.about),
            Footer(
                Span(Strong(euros(self.price)), Br(), Small(f"{self.stock} in stock" if self.stock else "Sold out")),
                Button(
                    "Add to cart",
                    Cart.add.on("click", sku=self.sku),
                    disabled=not self.stock,
                    aria_label=f"Add to cart: {self.name}",
                ),
            ),
        )


class Line(BaseModel):
    name: str
    price: Decimal
    quantity: int = 0


@provider.state(scope=StateScope.SESSION)
class Cart(ReactiveState):
    """One session's cart. Its items are off the shelf. (A real shop would also put back those of a forgotten cart.)"""

    lines: dict[str, Line] = {}

    @computed_field
    @property
    def items(self) -> int:
        return sum(line.quantity for line in self.lines.values())

    @event
    def add(self, sku: str, product: Annotated[ProductState, Record("sku")]):
        if not product.stock:
            raise EventError(f"{product.name} is sold out.")
        product.stock -= 1
        self.lines.setdefault(sku, Line(name=product.name, price=product.price)).quantity += 1
        return notice(f"{product.name} is in your cart.")

    @event
    def put_back(self, sku: str, product: Annotated[ProductState, Record("sku")]):
        line = self.lines.get(sku)
        if line is None:
            raise EventError(f"{product.name} is not in your cart.")
        product.stock += 1
        line.quantity -= 1
        if not line.quantity:
            del self.lines[sku]
        return notice(f"{product.name} is back on the shelf.")

    @event
    def order(self, announcement: Announcement):
        if not self.lines:
            raise EventError("Your cart is empty.")
        announcement.text = "Just sold: " + ", ".join(f"{line.quantity} {line.name}" for line in self.lines.values())
        self.lines.clear()
        return notice("Thank you for your order!")

    def __ft__(self):
        if not self.lines:
            return P("Your cart is empty.")
        total = sum(line.price * line.quantity for line in self.lines.values())
        return Div(
            Ul(*(self.row(sku, line) for sku, line in self.lines.items()), cls="lines"),
            P("Total ", Strong(euros(total))),
            Button("Order", self.order.on("click"), cls="wide"),
        )

    def row(self, sku: str, line: Line):
        return Li(
            Span(line.name, Br(), Small(euros(line.price * line.quantity))),
            Button(
                NotStr("&minus;"),
                self.put_back.on("click", sku=sku),
                id=f"less-{sku}",
                aria_label=f"One {line.name} less",
            ),
            Span(line.quantity),
            Button("+", self.add.on("click", sku=sku), id=f"more-{sku}", aria_label=f"One {line.name} more"),
        )


def euros(amount: Decimal) -> str:
    return f"€{amount:.2f}"


def notice(text: str = ""):
    """Return the shop's answer to this shopper. It shows only in this tab, where its id is: an event returns it."""
    return P(text, id="notice", role="status")


style = Style("""
    .shop { display: grid; gap: 2rem; grid-template-columns: minmax(0, 1fr); align-items: start }
    @media (min-width: 768px) { .shop { grid-template-columns: minmax(0, 1fr) 18rem } }
    .products { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)) }
    .products article { display: flex; flex-direction: column; margin: 0 }
    .products h2 { margin-bottom: .5rem; font-size: 1.25rem }
    .products footer { display: flex; justify-content: space-between; align-items: center; margin-top: auto }
    .lines { padding: 0 }
    .lines li { display: flex; gap: .75rem; align-items: center; margin: 0; padding: .5rem 0; list-style: none }
    .lines span:first-child { flex: 1 }
    .lines button { width: 2.5rem; padding: .25rem 0 }
    .wide { width: 100%; margin-bottom: 1rem }
""")
app, rt = fast_app(state_provider=provider, hdrs=[style], htmlkw={"lang": "en"}, htmx=False, surreal=False)


def page(title: str, products: list[ProductState], cart: Cart, announcement: Announcement):
    return Title(title), Main(
        H1(A("Tea shop", href="/")),
        P(announcement.signal.text, role="status"),
        Div(
            Section(*products, cls="products", aria_label="Products"),
            Aside(H2("Your cart (", cart.signal.items, ")"), cart, notice()),
            cls="shop",
        ),
        cls="container",
    )


@rt("/")
async def index(request: Request, cart: Cart, announcement: Announcement):
    products = [await provider.get_state(ProductState, request, record_id=sku) for sku in CATALOG]
    return page("Tea shop", products, cart, announcement)


@rt("/products/{product_id}")
def show_product(product: ProductState, cart: Cart, announcement: Announcement):
    return page(product.name, [product], cart, announcement)


serve()
