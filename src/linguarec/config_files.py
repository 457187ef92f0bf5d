"""Reads YAML files of settings (`--config`) strictly: what YAML allows and settings never need is refused."""

import json
from pathlib import Path
from typing import Any

from linguarec.errors import SettingsError, quoted
from linguarec.regular import check_regular

MOST_BYTES = 1 << 20
MOST_LEVELS = 20


def read_config(file: Path) -> dict[str, Any]:
    """The settings in a YAML file, by name.

    Raises:
        SettingsError: it is no file, too large, not UTF-8, not YAML, nested too deeply or no mapping; it uses anchors, or a key
            twice.
    """
    import yaml

    def refusal(message: str) -> SettingsError:
        return SettingsError([f"--config {message}"])

    check_regular(file, refusal)
    if not file.is_file():
        raise refusal(
            f"{file} {'is a folder' if file.is_dir() else 'does not exist'}; expected a YAML file of settings."
        )
    with file.open("rb") as opened:
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise refusal(f"{file} is larger than {MOST_BYTES:,} bytes, so it holds something else than settings.")
    try:
        text = content.decode("utf-8")
        _check_events(text)
        _check_keys(yaml.compose(text, Loader=yaml.SafeLoader))
        settings = yaml.safe_load(text)
        json.dumps(settings, ensure_ascii=False, default=str).encode()  # fails for half a surrogate pair
    except UnicodeError as error:
        raise refusal(f"{file} is not UTF-8 text ({error}); save it as UTF-8.") from error
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise refusal(f"{file} is not a YAML file of settings: {reason}.") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise refusal(f"{file} holds {quoted(settings)}; expected settings as `name: value`.")
    return settings


def _check_events(text: str) -> None:
    """Refuse anchors, with which a file of some lines stands for millions of values, and deep nesting."""
    import yaml

    level = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"line {line} has an anchor or an alias (& or *); write the value out")
        if isinstance(event, yaml.CollectionStartEvent):
            level += 1
            if level > MOST_LEVELS:
                raise ValueError(f"line {line} is nested more than {MOST_LEVELS} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            level -= 1


def _check_keys(node: Any) -> None:
    """Refuse a key that occurs twice, of which YAML would silently take the last, and keys that are no text."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {line} has a key that is not text")
            if key.value in seen:
                raise ValueError(f"line {line} has the key {key.value!r} a second time")
            seen.add(key.value)
            _check_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_keys(value)
