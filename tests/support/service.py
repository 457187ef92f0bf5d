"""Runs to serve, the application in this process, and the real service in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from starlette.testclient import TestClient

from linguarec.catalogue import Catalogue
from linguarec.commands.encode import encode
from linguarec.commands.finetune import finetune
from linguarec.commands.prepare import prepare_table
from linguarec.data.features import FeatureInfo
from linguarec.data.synthetic import TINY, generate_world
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.nn.encoders import TransformerConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.recommender import Recommender
from linguarec.serving.app import create_app
from linguarec.serving.live import Live
from linguarec.serving.settings import ServiceSettings
from linguarec.sources.embeddings import EmbeddingSource
from linguarec.training.settings import TrainingSettings

ENCODER = "all-MiniLM-L6-v2"
WIDTH = 384


@dataclass(frozen=True)
class Shop:
    """Runs of the tiny world, all in one folder.

    `run`: reads text vectors; items have title, brand, category and price. `other`: of another shop, whose items have a title
    alone. `by_id`: knows items by their ID. `data`: the prepared folder of `run` and `by_id`. `ids`: items of `run`.
    """

    run: Path
    other: Path
    by_id: Path
    data: Path
    ids: list[str]


def make_shop(folder: Path) -> Shop:
    """Prepare two shops and train small models."""
    small = TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.2, max_length=20)
    quick = TrainingSettings(learning_rate=5e-3, targets_per_step=200, max_epochs=2, accelerator="cpu")
    first, second = generate_world(seed=0, domains=2, size=TINY)
    prepared = []
    for domain, names in ((first, ("title", "brand", "category", "price")), (second, ("title",))):
        raw_ids = [item.raw_id for item in domain.items]
        log = [
            {"user_id": f"u{user}", "item_id": raw_ids[item], "timestamp": step}
            for user in range(len(domain.sequences))
            for step, item in enumerate(domain.sequences[user].tolist())
        ]
        items = [
            {name: value for name, value in {**vars(item), "price": 1.5 * row}.items() if name in names}
            | {"item_id": item.raw_id}
            for row, item in enumerate(domain.items)
        ]
        prepared.append(folder / f"{domain.name}-data")
        prepare_table(log, prepared[-1], items=items, k_core=0, catalogue="all", seed=0)
        encode(prepared[-1], encoder=ENCODER)
    runs = folder / "run", folder / "other", folder / "by-id"
    finetune("sasrec-text", prepared[0], runs[0], transformer=small, training=quick, seed=7)
    finetune("textknn", prepared[1], runs[1], training=replace(quick, max_epochs=1))
    finetune("sasrec", prepared[0], runs[2], transformer=small, training=replace(quick, max_epochs=1), seed=7)
    return Shop(*runs, prepared[0], [item.raw_id for item in first.items])


def vector_run(folder: Path, vectors: npt.NDArray[np.float32]) -> list[str]:
    """A run of items that are vectors [N, F] by no encoder, and histories that are their sums; the ids of the items."""
    family = FAMILIES["textknn"]
    width = vectors.shape[1]
    description = ModelDescription(family, family.config(), None, CatalogueShape(len(vectors), width))
    source = EmbeddingSource(folder, FeatureInfo("none", width, "none", None, None, "default"), vectors)
    raw_ids = [f"v{row}" for row in range(len(vectors))]
    titles = [f"Thing {row}" for row in range(len(vectors))]
    items = pa.table({"raw_id": raw_ids, "title": titles, "text": titles})
    scorer = family.scorer(description.build().eval(), description, source, None)
    Recommender.of_items(scorer, description, Catalogue.of(items, ["title"], "default"), source).save(folder)
    return raw_ids


def api_of(shop: Shop, live: Live, **settings: Any) -> TestClient:
    """A client of an application in this process; use it as a context manager."""
    made = ServiceSettings(shop.run, "", log_requests=False, poll=0.02, **settings)
    _, guard = create_app(made, live)
    return TestClient(guard, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)


class Service:
    """`linguarec serve` in a process of its own; use it as a context manager, or `start` and `stop` it.

    `address`: host and port. `client`: an httpx client. `log`: file of the logs.
    """

    def __init__(self, run: Path, state: str | Path, *flags: str) -> None:
        self.words = ["serve", str(run), "--state", str(state), *flags]
        self.log = Path(f"{run}-{time.monotonic_ns()}.log")
        self.port = 0

    def start(self) -> "Service":
        """Start it, at the port that it had before, and wait until it answers."""
        settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "linguarec.cli", *self.words, "--port", str(self.port)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | settings,
            )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        found = re.search(r"http://([\d.]+):(\d+)", said)
        assert found, said + self.log.read_text()
        self.host, self.port = found[1], int(found[2])
        self.client = httpx.Client(base_url=f"http://{self.host}:{self.port}", timeout=60)
        wait_until(lambda: self.process.poll() is not None or self._answers())
        assert self.process.poll() is None, self.log.read_text()
        return self

    def _answers(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End it by a signal; its exit code."""
        self.client.close()
        self.process.send_signal(how)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def __enter__(self) -> "Service":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)

    def lines(self) -> list[dict[str, Any]]:
        """The log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something is true.

    Raises:
        AssertionError: it is not, after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
