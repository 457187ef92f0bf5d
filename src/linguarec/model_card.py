"""The model card of a run: a README.md with what the run folder records, for a hub of models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError, LinguarecError
from linguarec.families.opening import read_description
from linguarec.families.weights import SETTINGS_FILE, SETTINGS_PATHS
from linguarec.portable import located_values
from linguarec.seals import SEAL_FILE
from linguarec.stored import AGAIN, read_json
from linguarec.training.stages import STAGE_FILE

CARD_FILE, CATALOGUE_FILE, EVALUATION_FOLDER = "README.md", "catalogue.parquet", "evaluation"
_PROTOCOLS = {
    "systems": "items of the history are candidates",
    "excluded": "without the items of the history",
    "learned": "with the repeat term",
}
_PARTS = {"test": "systems", "test_excluded": "excluded", "test_learned": "learned"}  # of metrics.json


def model_card(run: Path, fingerprint: str, licence: str | None = None, title: str | None = None) -> str:
    """The text of the card; what the folder does not record is left out.

    Args:
        run: run folder.
        fingerprint: of the files (`linguarec.hub.fingerprint_of`).
        licence: identifier of the licence, such as apache-2.0; None = the card says that none is stated.
        title: heading; None = the folder's name.

    Raises:
        CheckpointMismatchError: a file of the run is damaged.
    """
    description = read_description(run)
    stored = _json(run / SETTINGS_FILE)
    head: dict[str, Any] = {"library_name": "linguarec", "pipeline_tag": "text-ranking"}
    head |= {} if licence is None else {"license": licence}
    head["tags"] = ["recommender-systems", "sequential-recommendation", description.name]
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {title or run.resolve().name}",
        f"A recommender of the model {description.name} ({description.family.summary}), made by linguarec.",
        "## Use\n\n```python\nimport linguarec\n\n"
        'recommender = linguarec.from_pretrained("OWNER/NAME", revision="COMMIT",\n'
        f'                                        fingerprint="{fingerprint}")\n'
        'recommender.recommend(["RAW_ID", "RAW_ID"], k=10)\n```\n\n'
        "The fingerprint is a SHA-256 over the files that are read; with it, other files are refused. Nothing is unpickled.",
        "## Data\n\n" + "\n".join(f"- {line}" for line in _data(run, stored)),
        "## Metrics on test\n\n" + _metrics(run, description.name),
        f"## Settings\n\n```yaml\n{yaml.safe_dump(_settings(stored), sort_keys=False, allow_unicode=True)}```",
        "## Licence\n\n" + (licence or "None is stated. The texts and ids of the catalogue are in the files, too."),
    ]
    return "\n\n".join(parts) + "\n"


def _data(run: Path, stored: Mapping[str, Any]) -> list[str]:
    """What is known of the data, a line each."""
    lines = []
    if "data_name" in stored:
        lines.append(f"trained on: {stored['data_name']}, split {stored.get('split')}, seed {stored.get('seed')}")
    lines += [f"{name}: {count:,}" for name, count in _counts(run, stored).items()]
    if (run / CATALOGUE_FILE).exists():
        lines.append(f"items in the catalogue: {pq.read_metadata(run / CATALOGUE_FILE).num_rows:,}")
    if "data_fingerprint" in stored:
        lines.append(f"fingerprint of the data: `{stored['data_fingerprint']}`")
    return lines or ["The run records none."]


def _counts(run: Path, stored: Mapping[str, Any]) -> dict[str, int]:
    """Users, items and interactions of the training data, if its folder is still there and unchanged."""
    place = located_values(stored, run, SETTINGS_PATHS).get("data")
    if not isinstance(place, str) or not Path(place).is_dir():
        return {}
    try:
        dataset = PreparedDataset.open(place)
    except LinguarecError:  # another folder by now: it says nothing of the run
        return {}
    return dict(dataset.manifest.counts) if dataset.fingerprint == stored.get("data_fingerprint") else {}


def _metrics(run: Path, model: str) -> str:
    """A table: a row for each metric and protocol, with 95 % intervals where the run was evaluated."""
    file = run / EVALUATION_FOLDER / "test.json"
    rows = []
    if file.exists():
        found = _json(file)
        for protocol, title in _PROTOCOLS.items():
            for metric, interval in (found.get(protocol) or {}).get(model, {}).items():
                rows.append(
                    f"| {metric}, {title} | {interval['mean']:.4f} | {interval['low']:.4f} to {interval['high']:.4f} |"
                )
        about = f"{found['targets']:,} targets, ranked among all {found['items']:,} items, split {found['protocol']}."
    elif (run / STAGE_FILE).exists():
        found = _json(run / STAGE_FILE)
        for part, protocol in _PARTS.items():
            for metric, value in (found.get(part) or {}).items():
                rows.append(f"| {metric}, {_PROTOCOLS[protocol]} | {value:.4f} | |")
        about = "Without intervals: the run was not evaluated after its training (`linguarec evaluate`)."
    if not rows:
        return "The run records none."
    return "\n".join([about, "", "| metric | mean over users | 95 % interval |", "|---|---|---|", *rows])


def _settings(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that are shown elsewhere or hold the places of folders."""
    shown_elsewhere = {"data_name", "data_fingerprint", "format_version", *SETTINGS_PATHS}
    return {
        name: value
        for name, value in stored.items()
        if name not in shown_elsewhere and name != "from" and value is not None
    }


def _json(file: Path) -> dict[str, Any]:
    return read_json(file, CheckpointMismatchError, AGAIN) if file.exists() else {}


def shared_files(run: Path, needed: list[str]) -> list[str]:
    """Names of the files of a run that are shared: those that it is opened from, and the figures of its card."""
    figures = [run / STAGE_FILE, *sorted((run / EVALUATION_FOLDER).glob("*.json"))]
    return [*needed, SEAL_FILE, *(file.relative_to(run).as_posix() for file in figures if file.is_file())]
