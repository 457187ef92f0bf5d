"""States of the tests: real engines. Without PostgreSQL its tests are skipped, but not where CI=true."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres import NoPostgres, Postgres

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
