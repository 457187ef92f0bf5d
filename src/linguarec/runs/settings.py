"""The settings of a run: one object that writes `settings.json` and `run.yaml` and is compared when a run is resumed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from linguarec.batching.pretraining import Mixing
from linguarec.data.dataset import PreparedDataset, prepared_instead
from linguarec.errors import CheckpointMismatchError
from linguarec.families.closed_form import TRAINING_READ
from linguarec.families.family import ModelDescription, Plan, Request
from linguarec.families.weights import SETTINGS_FILE, SETTINGS_PATHS
from linguarec.files import Marker, write_json, writing_file
from linguarec.nn.encoders import encoder_kind
from linguarec.portable import FLAG_PATHS, located_values, portable_values
from linguarec.records import misfit
from linguarec.stored import AGAIN, read_json
from linguarec.training.settings import TrainingSettings

CONFIG_FILE = "run.yaml"
# The settings of a run that commands read, where they are recorded.
_READ_BACK: dict[str, Any] = {
    "data": str | list[str],
    "stage": str,
    "data_name": str,
    "data_fingerprint": str | None,
    "data_until": int | None,
    "split": str,
    "users": float,
    "seed": int,
}
SETTINGS_MARKER = Marker(SETTINGS_FILE, "model")
# Paths of folders and versions of libraries may differ when a run is resumed; the contents are compared by fingerprints.
# A run of an earlier version does not record `data_until`.
_MAY_DIFFER = (
    "versions",
    "data",
    "data_until",
    "valid",
    "from.folder",
    "from.backbone",
    "options.backbone",
    "backbone",
    "sources",
)
# Digests -> the setting that names the folder or folders that they are of, and what in them they are of.
_DIGESTS = {
    "data_fingerprint": ("data", "contents"),
    "data_fingerprints": ("data", "contents"),
    "valid_fingerprint": ("valid", "contents"),
    "source_fingerprints": ("sources", "contents"),
    "from.weights_sha256": ("from.folder", "weights"),
}


@dataclass(frozen=True)
class RunSettings:
    """All settings of a training, and the data that it reads.

    `flags`: the command's own, by name (split, users, seed ...). `options`: the family's. `start`: taken from `--from`.
    `facts`: what the family records about its items.
    """

    command: str
    description: ModelDescription
    data: Sequence[PreparedDataset]
    flags: Mapping[str, Any]
    options: Any
    training: TrainingSettings
    valid: PreparedDataset | None = None
    start: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, command: str, request: Request, plan: Plan) -> "RunSettings":
        """The settings of a planned training."""
        flags = {"split": request.split, "users": request.users, "seed": request.seed}
        if command == "pretrain":
            flags |= {"mixing": request.mixing.exponent, "domains_per_step": request.mixing.domains_per_step}
        return cls(
            command,
            plan.description,
            request.datasets,
            flags,
            plan.options,
            request.training,
            request.valid,
            plan.taken,
            plan.facts,
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of `settings.json`."""
        names = {
            each.name: getattr(self.options, each.name)
            for each in fields(self.options)
            if not is_dataclass(getattr(self.options, each.name))
        }
        groups = {
            each.name: asdict(value)
            for each in fields(self.options)
            if is_dataclass(value := getattr(self.options, each.name)) and not isinstance(value, type)
        }
        groups.pop(self._encoder_kind, None)  # is stored under `encoder`
        return {
            "command": self.command,
            **self.description.to_dict(),
            **self._data(),
            **names,
            **groups,
            **self.flags,
            **self.facts,
            "training": asdict(self.training),
            "from": None if self.start is None else dict(self.start),
            "versions": versions(),
        }

    def to_flags(self) -> dict[str, Any]:
        """The content of `run.yaml`, with which `--config` repeats the run."""
        found: dict[str, Any] = {"valid": None if self.valid is None else str(self.valid.path)}
        found["from"] = None if self.start is None else self.start["folder"]
        for each in fields(self.options):
            value = getattr(self.options, each.name)
            found[each.name] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        found |= {**self.flags, "model": asdict(self.description.config), "training": asdict(self.training)}
        return {name: value for name, value in found.items() if value is not None}

    def write(self, folder: Path) -> None:
        """Write those of both files that are not there."""
        import yaml

        if not (folder / SETTINGS_FILE).exists():
            write_json(folder / SETTINGS_FILE, portable_values(self.to_dict(), folder, SETTINGS_PATHS))
        if (folder / CONFIG_FILE).exists():
            return
        with writing_file(folder / CONFIG_FILE) as temporary:
            temporary.write_text(
                yaml.safe_dump(
                    portable_values(self.to_flags(), folder, FLAG_PATHS), sort_keys=False, allow_unicode=True
                ),
                encoding="utf-8",
            )

    def compared(self) -> dict[str, Any]:
        """All settings by dotted keys, without what may differ between two runs of the same training, such as paths."""
        return _flat(json.loads(json.dumps(self.to_dict())))

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """One line for each setting in which a run with the `stored` settings differs; empty = the run can be resumed."""
        # A run of an earlier version was trained with the defaults of settings that were added later.
        defaults: dict[str, Any] = {
            "training": asdict(TrainingSettings()),
            "config": asdict(type(self.description.config)()),
        }
        if self.command == "pretrain":
            defaults["domains_per_step"] = Mixing().domains_per_step
        if self.description.encoder is not None:
            defaults["encoder"] = asdict(type(self.description.encoder)())
        before = _flat(defaults) | _flat(stored)
        now = self.compared()
        kinds = tuple(each.get("encoder.kind") for each in (before, now))
        if kinds[0] != kinds[1]:  # then their settings cannot be compared
            before, now = ({k: v for k, v in each.items() if not k.startswith("encoder.")} for each in (before, now))
            before["sequence_encoder"], now["sequence_encoder"] = kinds
        weights = "from.weights_sha256"
        # Where only one of both has a start, the start itself is the difference, not its details.
        beside_start = before.get(weights) is None or now.get(weights) is None
        lines: list[str] = []
        for key in {**now, **{key: None for key in before if "." in key}}:
            if before.get(key) == now.get(key) or self._unread(key):
                continue
            if key in _DIGESTS:
                lines += _other_contents(key, stored, self.to_dict())
            elif not (beside_start and key.startswith("from.")):
                lines.append(f"{self._as_flag(key)}: the run has {before.get(key)!r}, now {now.get(key)!r}")
        return lines

    def _unread(self, key: str) -> bool:
        """Whether a setting changes nothing: what a family that is solved at once does not read of a training's."""
        group, _, name = key.partition(".")
        return self.description.family.closed_form and group == "training" and name not in TRAINING_READ

    @property
    def _encoder_kind(self) -> str:
        return "" if self.description.encoder is None else encoder_kind(self.description.encoder)

    def _as_flag(self, key: str) -> str:
        """A key of settings.json as the flag that sets it."""
        group, _, name = key.partition(".")
        return f"{ {'config': 'model', 'encoder': self._encoder_kind}.get(group, group) }.{name}" if name else key

    def _data(self) -> dict[str, Any]:
        if self.command == "finetune":
            (dataset,) = self.data
            return {
                "data": str(dataset.path),
                "data_name": dataset.name,
                "data_fingerprint": dataset.fingerprint,
                "data_until": dataset.last_time,
            }
        return {
            "stage": "pretrain",
            "data": [str(dataset.path) for dataset in self.data],
            "data_fingerprints": [dataset.fingerprint for dataset in self.data],
            "valid": None if self.valid is None else str(self.valid.path),
            "valid_fingerprint": None if self.valid is None else self.valid.fingerprint,
        }


def _other_contents(key: str, stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """A line for each folder whose digest, under `key`, differs between the settings of a run and the current ones."""
    path, what = _DIGESTS[key]
    name, _, within = path.partition(".")
    before, now = (
        [
            _as_list((settings.get(name) or {}).get(within) if within else settings.get(name)),
            _as_list(_flat(settings).get(key)),
        ]
        for settings in (stored, current)
    )
    if not all(len(places) == len(digests) == len(now[0]) for places, digests in (before, now)):
        old, new = (", ".join(map(_shown, places)) or "none" for places, _ in (before, now))
        return [f"{name}: the run has {old}, now {new}"]
    pairs = zip(*before, *now, strict=True)
    return [
        f"{name}: {_shown(new)} has other {what} now"
        if Path(old).resolve() == Path(new).resolve()
        else f"{name}: the run has {_shown(old)}, now {_shown(new)} with other {what}"
        for old, digest, new, digest_now in pairs
        if digest != digest_now
    ]


def _as_list(value: Any) -> list[str]:
    return [] if value is None else list(map(str, value)) if isinstance(value, list) else [str(value)]


def _shown(place: str) -> str:
    """A path, relative to the working directory if it lies there: those in a run are located, and so absolute."""
    path = Path(place)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else place


def read_settings(run: Path) -> dict[str, Any]:
    """Read a run's `settings.json`; runs of earlier versions have fewer settings.

    Raises:
        CheckpointMismatchError: the folder is not a trained run.
    """
    file = run / SETTINGS_FILE
    if not file.is_file():
        reason = f"it has no {SETTINGS_FILE}" if run.exists() else "it does not exist"
        raise CheckpointMismatchError(
            prepared_instead(run) or f"{run} is not a run folder: {reason}. Make one by `linguarec finetune`."
        )
    settings = read_json(file, CheckpointMismatchError, AGAIN)
    for name, hint in _READ_BACK.items():
        if name in settings and (wrong := misfit(settings[name], hint)):
            raise CheckpointMismatchError(f"{file} does not describe a run: its {name} is {wrong}. {AGAIN}")
    needed = ["data"] if settings.get("data_fingerprint") is not None else []
    needed += ["seed"] if settings.get("users", 1.0) < 1 else []
    if lacking := [name for name in needed if name not in settings]:
        raise CheckpointMismatchError(f"{file} does not describe a run: it lacks {', '.join(lacking)}. {AGAIN}")
    return located_values(settings, run, SETTINGS_PATHS)


def versions() -> dict[str, str]:
    """Versions of the libraries that a training depends on."""
    import platform
    from importlib.metadata import version

    names = ("linguarec", "torch", "lightning", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted keys, without those that may differ."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if key in _MAY_DIFFER:
            continue
        if isinstance(value, Mapping) and not key.endswith("sentences"):
            found |= _flat(value, f"{key}.")
        else:
            found[key] = _without_backbone(value)
    # A backbone given as a path is identified by its tokenizer (`sentences`), wherever its folder is.
    if not prefix:
        found["backbone"] = settings.get("backbone") is not None
    return found


def _without_backbone(value: Any) -> Any:
    """The form of sentences, or a list of forms, without the place of the backbone."""
    if isinstance(value, Mapping):
        return {name: each for name, each in value.items() if name != "backbone"}
    return [_without_backbone(each) for each in value] if isinstance(value, list) else value
