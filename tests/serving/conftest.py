"""States of the tests: real engines. Without PostgreSQL its tests are skipped, but not where CI=true. Runs to serve."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres import NoPostgres, Postgres
from service import Shop, api_of, make_shop
from starlette.testclient import TestClient

from linguarec.serving.live import Live
from linguarec.serving.state import Store

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL."""
    try:
        server = Postgres().__enter__()
    except NoPostgres as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    try:
        yield server
    finally:
        server.__exit__()


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """The URL of an empty schema."""
    return postgres.schema(f"state{next(_numbers)}")


@pytest.fixture(params=["sqlite", "postgresql"])
def state_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a state that is not there yet, of each engine."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def open_store(state_url: str) -> Iterator[Callable[..., Store]]:
    """`open_store(run="run")`: one more store on the same state; all are closed at the end."""
    stores: list[Store] = []

    def open_one(run: str = "run") -> Store:
        stores.append(Store.open(state_url, run))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    """An empty store, of each engine."""
    return open_store()


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Runs of the tiny world; no test changes them."""
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def live(shop: Shop, tmp_path: Path) -> Iterator[Live]:
    """The run in service, with a state of its own."""
    made = Live.open(shop.run, str(tmp_path / "state.sqlite"))
    yield made
    made.close()


@pytest.fixture
def api(shop: Shop, live: Live) -> Iterator[TestClient]:
    """A client of an application in this process that serves `live`."""
    with api_of(shop, live) as client:
        yield client
