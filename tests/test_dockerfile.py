"""The Dockerfile, without Docker: what it promises, and that its command line is one of ours."""

import inspect
import json
import re
from pathlib import Path

from linguarec.commands.serve import serve

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines()]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line and not line.startswith("#")]


def test_the_service_runs_as_somebody_else_than_root_and_is_watched():
    made = instructions()
    last = max(place for place, (name, _) in enumerate(made) if name == "FROM")
    stage = dict(made[last:])
    assert stage["USER"] == "linguarec" and "healthz" in stage["HEALTHCHECK"] and stage["STOPSIGNAL"] == "SIGTERM"
    created = next(value for name, value in made[last:] if name == "RUN")
    assert "useradd" in created and stage["USER"] in created
    order = [name for name, _ in made[last:]]
    assert order.index("USER") < order.index("ENTRYPOINT")


def test_its_command_is_a_command_of_ours_and_its_state_is_a_volume():
    stage = dict(instructions())
    assert json.loads(stage["ENTRYPOINT"]) == ["linguarec", "serve"]
    run, *flags = json.loads(stage["CMD"])
    names = {flag.removeprefix("--").replace("-", "_") for flag in flags[::2]}
    assert names <= set(inspect.signature(serve).parameters) and "token_file" in names
    asked = dict(zip(flags[::2], flags[1::2], strict=True))
    assert asked["--state"].startswith(f"{stage['VOLUME']}/") and run.startswith("/runs/")


def test_the_files_it_copies_are_there_and_not_ignored():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name, value in instructions():
        if name == "COPY" and "--from" not in value:
            for file in value.split()[:-1]:
                assert (ROOT / file).exists() and file.removeprefix("./") in allowed, file
