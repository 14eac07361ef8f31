"""The snippets of docs/records.md that need PostgreSQL, run against one.

By default it is the database `test` at 127.0.0.1:5432, with the name of the user who runs the tests;
FASTSTATE_TEST_POSTGRES names another one, as SQLAlchemy writes it. The tests make a database of their own beside it.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
import sys
import types
from typing import Any

import pytest

from tests.support.pages import ROOT, Tab, snippets_elsewhere

NAMED = os.environ.get("FASTSTATE_TEST_POSTGRES")
SERVER = NAMED or f"postgresql+asyncpg://{getpass.getuser()}@127.0.0.1:5432/test"


def _without(reason: str) -> Any:
    if NAMED:
        pytest.fail(reason, pytrace=False)
    pytest.skip(f"THE SNIPPETS FOR POSTGRESQL DID NOT RUN: {reason}. FASTSTATE_TEST_POSTGRES names a server.")


@pytest.fixture(scope="module")
def alchemy() -> Any:
    """SQLAlchemy's asyncio part, with what it needs."""
    try:
        import asyncpg  # noqa: F401
        import greenlet  # noqa: F401
        from sqlalchemy.ext import asyncio as found
    except ImportError as error:
        return _without(f"{error.name} is not installed (pip install 'sqlalchemy[asyncio]' asyncpg)")
    return found


def run(alchemy: Any, url: Any, *statements: str) -> list[Any]:
    """The rows that the last of these statements gives, each in a transaction of its own."""
    import sqlalchemy

    async def execute() -> list[Any]:
        engine = alchemy.create_async_engine(url, isolation_level="AUTOCOMMIT")
        try:
            async with engine.connect() as connection:
                for statement in statements:
                    result = await connection.execute(sqlalchemy.text(statement))
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            await engine.dispose()

    return asyncio.run(execute())


@pytest.fixture
def database(alchemy) -> Any:
    """The URL of an empty database, gone after the test."""
    from sqlalchemy import make_url

    server, name = make_url(SERVER), f"faststate_docs_{secrets.token_hex(6)}"
    try:
        run(alchemy, server, f"CREATE DATABASE {name}")
    except Exception as error:
        return _without(f"there is no database to be had at {server} ({type(error).__name__}: {error})".splitlines()[0])
    yield server.set(database=name)
    run(alchemy, server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def page(alchemy, database, in_tmp_path, monkeypatch):
    """The page's snippet as a module, on an empty database with two products in its table."""
    monkeypatch.setenv("DATABASE_URL", database.render_as_string(hide_password=False))
    ((piece, _),) = snippets_elsewhere(ROOT / "docs/records.md").items()
    module = types.ModuleType("records_postgresql")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile("\n" * piece.line + piece.text, str(ROOT / "docs/records.md"), "exec"), module.__dict__)

    async def create() -> None:
        async with module.engine.begin() as connection:
            await connection.run_sync(module.products.metadata.create_all)
        await module.engine.dispose()

    asyncio.run(create())
    run(alchemy, database, "INSERT INTO products (sku, name, stock) VALUES ('tea', 'Green tea', 3), ('cup', 'Cup', 0)")
    return module


@pytest.fixture
def sql(alchemy, database):
    """Runs a statement as another program would."""
    return lambda statement: run(alchemy, database, statement)


def test_an_event_changes_its_column_and_the_version_of_the_row(page, sql):
    one, two = Tab(page.app), Tab(page.app)
    with one.client:
        assert "Green tea" in one.get("/products/tea")
        sql("UPDATE products SET name = 'Sencha' WHERE sku = 'tea'")  # by somebody who knows nothing of versions
        one.send(page.ProductState.buy, own_id="tea")
        two.client = one.client
        assert ">2<" in two.get("/products/tea")
        assert sql("SELECT name, stock, version FROM products WHERE sku = 'tea'") == [("Sencha", 2, 2)]


def test_a_refused_event_leaves_the_row_as_it_is(page, sql):
    one = Tab(page.app)
    with one.client:
        one.get("/products/cup")
        assert "Sold out." in one.send(page.ProductState.buy, own_id="cup", status=400).text
        assert sql("SELECT stock, version FROM products WHERE sku = 'cup'") == [(0, 1)]


def test_a_row_that_is_not_there_is_a_404(page):
    with (one := Tab(page.app)).client:
        one.get("/products/gold", 404)


def test_a_row_that_somebody_else_has_changed_is_not_overwritten(page, sql):
    one = Tab(page.app)
    with one.client:
        one.get("/products/tea")
        sql("UPDATE products SET stock = 10, version = version + 1 WHERE sku = 'tea'")
        failed = one.send(page.ProductState.buy, own_id="tea", status=503)
        assert "This could not be saved. Please try again." in failed.text
        assert sql("SELECT stock FROM products WHERE sku = 'tea'") == [(10,)]
        assert ">10<" in one.get("/products/tea")
        one.send(page.ProductState.buy, own_id="tea")
        assert sql("SELECT stock, version FROM products WHERE sku = 'tea'") == [(9, 3)]


def test_a_row_that_was_deleted_is_not_there_any_more(page, sql):
    one = Tab(page.app)
    with one.client:
        one.get("/products/tea")
        sql("DELETE FROM products WHERE sku = 'tea'")
        one.send(page.ProductState.buy, own_id="tea", status=404)
        one.get("/products/tea", 404)


def test_many_buyers_at_once_buy_what_there_is(page, sql):
    async def buy_all():
        from faststate import EventError

        async def buy():
            try:
                async with page.provider.modify(page.ProductState, record_id="tea") as product:
                    if not product.stock:
                        raise EventError("Sold out.")
                    product.stock -= 1
            except EventError:
                return False
            return True

        bought = await asyncio.gather(*(buy() for _ in range(20)))
        await page.provider.stop()
        await page.engine.dispose()
        return sum(bought)

    assert asyncio.run(buy_all()) == 3
    assert sql("SELECT stock, version FROM products WHERE sku = 'tea'") == [(0, 4)]
