"""Parameters that name a state class in a string, in apps that Python has imported twice."""

import textwrap
from typing import Annotated

import httpx
import pytest

from faststate import Record
from faststate.state.parameters import signature_of, state_parameter
from tests.support.client import Page, patched_signals, status
from tests.support.processes import Process

APP = """
from typing import Annotated, Optional
from fasthtml.common import *
from pydantic import BaseModel
from faststate import Component, ReactiveState, Record, StateConfig, StateProvider, StateScope, event, fast_app

provider = StateProvider(secret_key="a key of the tests")

class Cart(ReactiveState):
    lines: list[str] = []
    last: Optional["Line"] = None

    @event
    def put(self, sku: str, product: Annotated["Product", Record("sku")], left: Annotated["Panel", Component("left")]):
        product.stock -= 1
        left.n += 1
        self.lines.append(sku)
        self.last = Line(sku=sku)

class Line(BaseModel):
    sku: str

class Product(ReactiveState):
    stock: int = 5

class Panel(ReactiveState):
    n: int = 0

provider.register_state(Cart)
provider.register_state(Product, StateConfig(scope=StateScope.RECORD))
provider.register_state(Panel, StateConfig(scope=StateScope.COMPONENT))
app, rt = fast_app(state_provider=provider)

@rt("/{sku}")
def index(
    product: Annotated["Product", Record("sku")], cart: Optional["Cart"], left: Annotated["Panel", Component("left")]
):
    return P(__name__, " ", product.signal.stock, " ", left.signal.n, " ", Cart.put.to())
"""


@pytest.mark.parametrize("reload", [False, True])
def test_forward_references_work_where_uvicorn_imports_the_module_a_second_time(tmp_path, reload):
    process = Process(tmp_path, APP, f"reload={reload}")
    try:
        process.until(lambda: process.serves("shop ", "/tea"), within=40)
        with httpx.Client(base_url=process.url, timeout=20) as client:
            page = Page(client, "/tea")
            assert page.signals["Product"] == {"tea": {"stock": 5}}
            answer = page.send("Cart", "put", sku="tea")
            assert status(answer) == 200, answer.text
            changed = patched_signals(answer.text)
            assert changed["Product"]["tea"]["stock"] == 4 and changed["Panel"]["left"]["n"] == 1
    finally:
        process.kill()


FORMS = ['Annotated["Thing", Record("x")]', 'Optional["Thing"]', 'Annotated[Optional["Thing"], Record("x")]', '"Thing"']


@pytest.mark.parametrize("form", FORMS)
def test_two_modules_of_one_text_each_have_their_own_class(form):
    # typing remembers `Annotated["Thing", ...]`, and with it what "Thing" was found to be: one object for both modules.
    text = textwrap.dedent(f"""
        from typing import Annotated, Optional
        from faststate import ReactiveState, Record
        def handler(thing: {form}): ...
        class Thing(ReactiveState):
            n: int = 0
    """)
    modules = []
    for name in ("one", "two"):
        module = {"__name__": name}
        exec(text, module)
        modules.append(module)
    for module in (*modules, *reversed(modules)):
        annotation = signature_of(module["handler"]).parameters["thing"].annotation
        assert state_parameter("thing", annotation).cls is module["Thing"]


def test_a_class_of_a_function_is_found_anew_for_each_function():
    def make():
        class Local:
            pass

        def handler(x: Annotated["Local", Record("x")]):
            return Local

        return Local, handler

    for local, handler in (make(), make()):
        assert signature_of(handler).parameters["x"].annotation == Annotated[local, Record("x")]
