"""The result of a command as it is stored, for comparison with what the command returned."""

import json
from pathlib import Path
from typing import Any

from linguarec.portable import located_values


def stored_result(file: Path) -> dict[str, Any]:
    """A JSON file of a result; its paths, relative to its folder, become absolute again."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return located_values(content, file.parent, ("run", "runs", "files", "report", "from"))
