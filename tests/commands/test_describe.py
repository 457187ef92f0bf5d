"""Describe counts what is there and what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from linguarec.arguments import parse
from linguarec.cli import COMMANDS
from linguarec.commands.describe import describe
from linguarec.commands.finetune import finetune
from linguarec.commands.prepare import prepare_atomic, prepare_table
from linguarec.data.dataset import PreparedDataset


def test_problems_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, items = tmp_path / "log.csv", tmp_path / "items.csv"
    # u: a a b c (the repeat at one time); v: d alone, later than u's test target.
    log.write_text("user_id,item_id,timestamp\nu,a,1\nu,a,2\nu,b,2\nu,c,4\nv,d,9\n")
    items.write_text("item_id,title\na,Same\nb,Same\nc,\ne,Never sold\n")
    prepare_table(log, tmp_path / "data", items, k_core=0, catalogue="all")
    result = describe(tmp_path / "data")
    json.dumps(result)
    numbers = {problem["what"].split(":")[0].split(" (")[0]: problem["number"] for problem in result["problems"]}
    assert numbers == {
        "interactions with an item the user had already": 1,
        "interactions with the same item as the one before": 1,
        "users with fewer than 3 interactions": 1,
        "items without interactions": 1,
        "cold items": 2,
        "interactions at the same time as the user's one before": 1,
        "leave-one-out test targets older than the last training interaction": 1,
        "training interactions later than the median leave-one-out test target": 1,
        "training interactions later than a leave-one-out test target, mean over the targets": 1,
        "items without a text": 2,
        "items whose text another item has too": 2,
        "items with a text of 2,000 characters and more": 0,
    }
    assert result["length_histogram"] == [{"from": 1, "to": 2, "users": 1}, {"from": 3, "to": 4, "users": 1}]
    assert result["splits"]["leave-one-out"] == {"train": 3, "valid": 1, "test": 1, "excluded": 0}
    assert result["text"]["attributes_filled"] == {"title": 0.6}
    screen = capsys.readouterr().out
    assert "items whose text another item" in screen
    assert "Length of the sequences" in screen


LENGTHS = (40, 0, 21, 1, 30)  # of the users: 88 pairs of neighbours
CLOSED_FORM = [f"linguarec finetune {name} DATA -o RUN" for name in ("ease", "ease-text", "itemknn", "textknn")]
NEXT_ITEM = "models that predict the next item: --ties shuffled"


@pytest.mark.parametrize(
    ("times", "share", "moments", "advice"),
    [
        (
            np.zeros(92, np.int64),
            1.0,
            "1",
            [
                *CLOSED_FORM,
                f"{NEXT_ITEM} --sequence-encoder pooling --history-in-softmax excluded --training.stop_by excluded",
            ],
        ),
        (np.arange(92) // 10, 0.9091, "3", [*CLOSED_FORM, NEXT_ITEM]),
        (np.arange(92) // 5, 0.8068, "", []),
        (None, None, "", []),
    ],
    ids=["a basket a user", "baskets", "small baskets", "no timestamps"],
)
def test_what_to_try_first_where_timestamps_tie(
    times: npt.NDArray[np.int64] | None,
    share: float | None,
    moments: str,
    advice: list[str],
    make_dataset: Callable[..., PreparedDataset],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_dataset([list(range(length)) for length in LENGTHS]).path
    if times is not None:
        np.save(folder / "sequences" / "timestamps.npy", times)
    result = describe(folder)
    assert (result["tied_neighbours"], result["advice"]) == (share, advice)
    screen = " ".join(capsys.readouterr().out.split())
    said = f"{share or 0:.1%} of successive interactions have the time of the one before, {moments} times a user on average"
    assert (said in screen) == bool(advice)
    assert all(line.split(":")[0] in screen for line in advice)
    for line in advice:  # its flags exist
        words = (
            line.removeprefix("linguarec finetune ")
            if line in advice[: len(CLOSED_FORM)]
            else line.replace(NEXT_ITEM, "sasrec DATA -o RUN --ties shuffled")
        )
        assert parse(finetune, words.split(), "linguarec finetune", COMMANDS["finetune"]) is not None


def test_scientific_has_twelve_cold_items(shared: Path, tmp_path: Path) -> None:
    prepare_atomic(shared / "data/scientific", tmp_path / "data")
    numbers = {problem["what"]: problem["number"] for problem in describe(tmp_path / "data")["problems"]}
    assert numbers["cold items: only in valid or test of leave-one-out"] == 12
