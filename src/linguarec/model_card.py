"""The model card of a run: a README.md with what the run folder records, for a hub of models."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError, LinguarecError, SettingsError
from linguarec.families.opening import read_description
from linguarec.families.weights import SETTINGS_FILE, SETTINGS_PATHS
from linguarec.portable import located_values
from linguarec.screen import visible
from linguarec.seals import SEAL_FILE
from linguarec.stored import AGAIN, read_json
from linguarec.training.stages import STAGE_FILE

CARD_FILE, CATALOGUE_FILE, EVALUATION_FOLDER = "README.md", "catalogue.parquet", "evaluation"
_PROTOCOLS = {
    "systems": "items of the history are candidates",
    "excluded": "without the items of the history",
    "learned": "with the repeat term",
}
# Of metrics.json: a trained model has a table for each protocol, a blend has all in one.
_TABLES = {"test": "systems", "test_excluded": "excluded", "test_learned": "learned"}
_OF_BLEND = {"kept": "systems", "excluded": "excluded", "learned": "learned"}
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~$])")


def model_card(run: Path, fingerprint: str, licence: str | None = None, title: str | None = None) -> str:
    """The text of the card; what the folder does not record is left out.

    Args:
        run: run folder.
        fingerprint: of the files (`linguarec.hub.fingerprint_of`).
        licence: identifier of the licence, such as apache-2.0; None = the card says that none is stated.
        title: heading; None = the folder's name.

    Raises:
        CheckpointMismatchError: a file of the run is damaged.
        SettingsError: the licence or the title is no line of text.
    """
    _check_lines({"licence": licence, "title": title})
    description = read_description(run)
    stored = _json(run / SETTINGS_FILE)
    head: dict[str, Any] = {"library_name": "linguarec", "pipeline_tag": "text-ranking"}
    head |= {} if licence is None else {"license": licence}
    head["tags"] = ["recommender-systems", "sequential-recommendation", description.name]
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---",
        f"# {_inline(title or run.resolve().name)}",
        f"A recommender of the model {description.name} ({description.family.summary}), made by linguarec.",
        "## Use\n\n```python\nimport linguarec\n\n"
        'recommender = linguarec.from_pretrained("OWNER/NAME", revision="COMMIT",\n'
        f'                                        fingerprint="{fingerprint}")\n'
        'recommender.recommend(["RAW_ID", "RAW_ID"], k=10)\n```\n\n'
        "The fingerprint is a SHA-256 over the files that are read; with it, other files are refused. Nothing is unpickled.",
        "## Data\n\n" + "\n".join(f"- {line}" for line in _data(run, stored)),
        *_parts(run),
        "## Metrics on test\n\n" + _metrics(run, description.name),
        "## Settings\n\n" + _block("yaml", yaml.safe_dump(_settings(stored), sort_keys=False, allow_unicode=True)),
        "## Licence\n\n"
        + (
            _inline(licence) if licence else "None is stated. The texts and ids of the catalogue are in the files, too."
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _data(run: Path, stored: Mapping[str, Any]) -> list[str]:
    """What is known of the data, a line each."""
    lines = []
    if "data_name" in stored:
        where = f"{stored['data_name']}, split {stored.get('split')}, seed {stored.get('seed')}"
        lines.append(f"trained on: {_inline(where)}")
    lines += [f"{name}: {count:,}" for name, count in _counts(run, stored).items()]
    if (run / CATALOGUE_FILE).exists():
        lines.append(f"items in the catalogue: {pq.read_metadata(run / CATALOGUE_FILE).num_rows:,}")
    if "data_fingerprint" in stored:
        lines.append(f"fingerprint of the data: {_inline(str(stored['data_fingerprint']))}")
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


def _parts(run: Path) -> list[str]:
    """The parts of a blend, as a section; nothing for other models."""
    file = run / STAGE_FILE
    found = _json(file)
    if not isinstance(found.get("parts"), list):
        return []
    with _shape_of(file):
        rows = [f"| {_inline(part['model'])} | {part['weight']:.4g} | {part['share']:.0%} |" for part in found["parts"]]
    return ["\n".join(["## Parts", "", "| model | weight | share of the score |", "|---|---|---|", *rows])]


def _metrics(run: Path, model: str) -> str:
    """A table: a row for each metric and protocol, with 95 % intervals where the run was evaluated."""
    file = run / EVALUATION_FOLDER / "test.json"
    rows = []
    if file.exists():
        found = _json(file)
        with _shape_of(file):
            for protocol, title in _PROTOCOLS.items():
                for metric, interval in (found.get(protocol) or {}).get(model, {}).items():
                    low_high = f"{interval['low']:.4f} to {interval['high']:.4f}"
                    rows.append(f"| {_inline(metric)}, {title} | {interval['mean']:.4f} | {low_high} |")
            split = _inline(str(found["protocol"]))
            about = f"{found['targets']:,} targets, ranked among all {found['items']:,} items, split {split}."
    else:
        file = run / STAGE_FILE
        found = _json(file)
        with _shape_of(file):
            tables = {protocol: found.get(table) for table, protocol in _TABLES.items()}
            if "kept" in (found.get("test") or {}):
                tables = {protocol: found["test"].get(table) for table, protocol in _OF_BLEND.items()}
            for protocol, table in tables.items():
                rows += [
                    f"| {_inline(metric)}, {_PROTOCOLS[protocol]} | {value:.4f} | |"
                    for metric, value in (table or {}).items()
                ]
        about = "Without intervals: the run was not evaluated after its training (`linguarec evaluate`)."
    if not rows:
        return "The run records none."
    return "\n".join([about, "", "| metric | mean over users | 95 % interval |", "|---|---|---|", *rows])


@contextmanager
def _shape_of(file: Path) -> Iterator[None]:
    """Figures of another form than linguarec writes are an error that names their file.

    Raises:
        CheckpointMismatchError: they are.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointMismatchError(
            f"{file} does not hold figures of linguarec ({type(error).__name__}: {error}). {AGAIN}"
        ) from error


def _check_lines(texts: Mapping[str, str | None]) -> None:
    problems = [
        f"{name} is {text!r:.200}; expected a line of text"
        for name, text in texts.items()
        if text is not None and (not isinstance(text, str) or not text.strip() or text != visible(text))
    ]
    if problems:
        raise SettingsError(problems)


def _inline(text: str) -> str:
    """Text of a file or a user in a line of Markdown: it cannot begin a heading, a link, a tag or a column.

    >>> print(_inline("shop|<b>1</b>"))
    shop\\|\\<b\\>1\\</b\\>
    """
    return _MARKUP.sub(r"\\\1", visible(text))


def _block(language: str, text: str) -> str:
    """Text in a fence that is longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}{fence}"


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
