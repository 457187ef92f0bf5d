"""Tables on the screen: the title of a narrow one."""

from pathlib import Path

import pytest

from linguarec.commands.prepare import prepare_table
from linguarec.runs.tables import plain_console, show_files


def test_the_path_above_a_narrow_table_is_not_folded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a_shop_with_a_rather_long_name" / "prepared"
    log = [{"user_id": user, "item_id": (user + step) % 7, "timestamp": step} for user in range(9) for step in range(6)]
    prepare_table(log, folder)
    assert f"{folder} (table)" in capsys.readouterr().out.splitlines()
    show_files(plain_console(), folder, {"users": 9}, ["manifest.json"])
    assert str(folder) in capsys.readouterr().out.splitlines()
