"""`linguarec demo --serve`: a demo that was run before is served at once."""

from pathlib import Path
from typing import Any

import pytest

from linguarec.commands.demo import demo


def test_a_finished_demo_is_served_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import linguarec.commands.serve

    asked: list[Any] = []

    def note(run: Path, **settings: Any) -> dict[str, str]:
        asked.append((run, settings))
        return {"run": str(run)}

    monkeypatch.setattr(linguarec.commands.serve, "serve", note)
    (tmp_path / "report.html").write_text("done")
    result = demo(tmp_path, serve=True, port=0)
    [(run, settings)] = asked
    assert run == tmp_path / "runs" / "unisrec"
    assert settings["port"] == 0 and settings["users"] == tmp_path / "data" / "kitchen"
    assert result["served"] == {"run": str(run)}
