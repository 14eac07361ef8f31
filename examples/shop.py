"""A shop that forgets nothing: its products are rows of a table, its carts are states in a store, and both survive it.

Buying takes one from the row and puts it into the cart, in one event. Row and cart are two systems, and the row is
saved first: if the process dies just between the two, the shelf's count is off by one, which a real shop would notice
at the checkout. An admin edits a product; saving over a change that the page has not shown yet is refused.

It needs fastlite (pip install 'faststate[sqlite]'). This is a demo: SHOP_PASSWORD is the admin's password, "teapot" by
default. A real app keeps a digest of it, as signin_beforeware.py does, and limits how often one may guess.
"""

import os
import secrets
from decimal import Decimal
from typing import Annotated

from fasthtml.common import *
from fastlite import database
from pydantic import BaseModel, Field, StringConstraints, computed_field

from faststate import (
    EventError,
    ReactiveState,
    Record,
    StateProvider,
    StateScope,
    UserContext,
    current_user,
    event,
    fast_app,
    view,
)

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=60)]
Price = Annotated[Decimal, Field(ge=0, lt=10_000, decimal_places=2)]
Stock = Annotated[int, Field(ge=0, lt=10_000)]

ADMIN = UserContext("ada", "Ada", roles=["admin"])
PASSWORD = os.environ.get("SHOP_PASSWORD", "teapot")

db = database("shop.db")
products = db.t.products
if not products.exists():
    # A price is text, since a decimal has to stay exact. FastState counts a row's changes in its column `version`.
    products.create(sku=str, name=str, price=str, stock=int, version=int, pk="sku")
    products.insert_all(
        [
            {"sku": "mug", "name": "Mug", "price": "9.50", "stock": 5, "version": 1},
            {"sku": "pot", "name": "Teapot", "price": "48.00", "stock": 2, "version": 1},
            {"sku": "tea", "name": "Green tea", "price": "7.25", "stock": 20, "version": 1},
        ]
    )

provider = StateProvider(store="sqlite:///faststate.db", load_user_by_id={ADMIN.id: ADMIN}.get, login_route="/login")


@provider.state(scope=StateScope.RECORD, records=products, public=True)  # anybody may take from the shelf
class ProductState(ReactiveState):
    sku: str
    name: Name
    price: Price
    stock: Stock

    @event(roles=["admin"], expect_version=True)
    def edit(self, name: Name, price: Price, stock: Stock):
        self.name, self.price, self.stock = name, price, stock
        return notice("Saved.")

    def __ft__(self):
        label = {"aria_label": f"Add to cart: {self.name}"}
        return Article(
            H2(A(self.name, href=f"/products/{self.sku}")),
            Footer(
                Span(Strong(euros(self.price)), Br(), Small(f"{self.stock} in stock" if self.stock else "Sold out")),
                Button("Add to cart", Cart.add.on("click", sku=self.sku), disabled=not self.stock, **label),
            ),
        )

    @view
    def editor(self):
        """Show the form as a view: changes by others arrive in it, and typed text stays."""
        return Form(
            Label("Name", _for="name"),
            Input(id="name", name="name", value=self.name, required=True, maxlength=60, autocomplete="off"),
            Label("Price in euros", _for="price"),
            Input(id="price", name="price", type="number", value=self.price, min=0, step="0.01", required=True),
            Label("In stock", _for="stock"),
            Input(id="stock", name="stock", type="number", value=self.stock, min=0, required=True),
            Button("Save"),
            self.edit.on("submit"),
        )


class Line(BaseModel):
    name: str
    price: Decimal
    quantity: int = 0


@provider.state(scope=StateScope.SESSION, ttl=30 * 86_400)  # a shopper may come back within a month
class Cart(ReactiveState):
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

    def __ft__(self):
        if not self.lines:
            return P("Your cart is empty.")
        total = sum(line.price * line.quantity for line in self.lines.values())
        rows = (
            Li(
                Span(line.name, Br(), Small(f"{line.quantity} at {euros(line.price)}")),
                Button("Put back", self.put_back.on("click", sku=sku), id=f"less-{sku}", cls="secondary outline"),
            )
            for sku, line in self.lines.items()
        )
        return Div(Ul(*rows, cls="lines"), P("Total ", Strong(euros(total))))


def euros(amount: Decimal) -> str:
    return f"€{amount:.2f}"


def notice(text: str = ""):
    """Return the shop's answer. It shows only in this tab, where its id is: an event returns it."""
    return P(text, id="notice", role="status")


style = Style("""
    nav form { margin: 0 }
    nav button, .lines button { margin: 0; padding: .25rem .75rem; width: auto }
    .shop { display: grid; gap: 2rem; grid-template-columns: minmax(0, 1fr); align-items: start }
    @media (min-width: 768px) { .shop { grid-template-columns: minmax(0, 1fr) 18rem } }
    .products { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)) }
    .products article { margin: 0; overflow-wrap: anywhere }
    .shop h2 { margin-bottom: .5rem; font-size: 1.25rem }
    .products footer { display: flex; justify-content: space-between; align-items: center; gap: .5rem }
    .products button { padding: .5rem .75rem }
    .lines { padding: 0 }
    .lines li { display: flex; justify-content: space-between; align-items: center; gap: .75rem; padding: .5rem 0 }
    .narrow { max-width: 24rem }
    .narrow button { width: 100% }
""")
app, rt = fast_app(state_provider=provider, hdrs=[style], htmlkw={"lang": "en"}, htmx=False, surreal=False)


def page(title: str, listed: list[ProductState], *aside):
    user = current_user.get()
    sign_out = Form(Button("Sign out", cls="secondary outline"), method="post", action="/logout")
    who = [Li(user.username), Li(sign_out)] if user else [Li(A("Sign in", href="/login"))]
    return (
        Title(title),
        Header(Nav(Ul(Li(A("All products", href="/"))), Ul(*who)), cls="container"),
        Main(
            H1("Tea shop"),
            Div(Section(*listed, cls="products", aria_label="Products"), Aside(*aside, notice()), cls="shop"),
            cls="container",
        ),
    )


def basket(cart: Cart):
    return H2("Your cart (", cart.signal.items, ")"), cart


@rt
async def index(request: Request, cart: Cart):
    skus = [row["sku"] for row in products(order_by="name")]
    listed = [await provider.get_state(ProductState, request, record_id=sku) for sku in skus]
    return page("Tea shop", listed, *basket(cart))


@rt("/products/{product_id}")
def show_product(product: ProductState, cart: Cart):
    user = current_user.get()
    is_admin = user is not None and user.has_role("admin")
    return page(product.name, [product], *((H2("Edit"), product.editor()) if is_admin else basket(cart)))


@app.get("/login")
def login_page(request: Request, wrong: bool = False):
    if current_user.get():
        return Redirect(provider.next_url(request))
    return Title("Sign in"), Main(
        Form(
            H1("Sign in"),
            P("This is not the password.", role="alert") if wrong else None,
            Label("The admin's password", _for="password"),
            Input(id="password", name="password", type="password", autocomplete="current-password", required=True),
            Button("Sign in"),
            method="post",  # to this same URL, which has the page to go to next in its ?next=
            cls="narrow",
        ),
        cls="container",
    )


@app.post("/login")
async def login(request: Request, password: str):
    where = provider.next_url(request)
    if not secrets.compare_digest(PASSWORD.encode(), password.encode()):
        return Redirect(login_page.to(next=where, wrong=True))
    await provider.login(request, ADMIN)
    return Redirect(where)


@app.post("/logout")
async def logout(request: Request):
    await provider.logout(request)
    return Redirect("/")


serve()
