"""Export gives back the released files, byte by byte."""

from pathlib import Path

import pytest

from linguarec.commands.export import export
from linguarec.commands.prepare import prepare_atomic, prepare_table
from linguarec.errors import DataFormatError


def test_scientific_comes_back_as_released(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/scientific"
    prepare_atomic(source, tmp_path / "data", text_rules="released")
    result = export([tmp_path / "data"], tmp_path / "out", name="Scientific")
    assert result["train_rows"] == 34101
    for suffix in ("train.inter", "valid.inter", "test.inter", "item2index", "user2index", "feat1CLS"):
        file = f"Scientific.{suffix}"
        assert (tmp_path / "out" / file).read_bytes() == (source / file).read_bytes(), file
    # The released texts stand in the order of the metadata file, which a prepared folder does not keep.
    lines, released = ((folder / "Scientific.text").read_bytes().split(b"\n") for folder in (tmp_path / "out", source))
    assert lines[0] == released[0]
    assert sorted(lines) == sorted(released)


def test_short_users_and_ids_that_cannot_be_written(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\nu,a,1\nu,b,2\nv,a,1\nv,b,2\nv,c,3\n")
    prepare_table(log, tmp_path / "data", k_core=0)
    result = export([tmp_path / "data"], tmp_path / "out", window=1)
    assert (result["train_rows"], result["test_rows"], result["users_without_test_row"]) == (1, 1, 1)
    assert (tmp_path / "out/data.test.inter").read_text().splitlines()[1] == "1\t1\t2"
    log.write_text('user_id,item_id,timestamp\nu,"a\tb",1\n')
    prepare_table(log, tmp_path / "data", k_core=0, overwrite=True)
    with pytest.raises(DataFormatError, match=r"1 item ids hold a tab or a line break \(the first is 'a\\tb'\)"):
        export([tmp_path / "data"], tmp_path / "tabs")
    assert not (tmp_path / "tabs").exists()
