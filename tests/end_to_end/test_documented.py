"""Every command and every Python block of the README and of docs/ is run, on the tiny world, with one epoch a training."""

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from linguarec.cli import main
from linguarec.data.synthetic import LAUNCH, TINY, generate_world
from linguarec.families import FAMILIES

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NOT_RUN = ("bash scripts/", "source ")  # the two scripts are what CI and tests/end_to_end/test_demo.py run
QUICK = ["--training.max_epochs", "1", "--training.accelerator", "cpu", "--training.targets_per_step", "200"]
SMALL_ENCODER = ["--transformer.max_length", "20", "--transformer.hidden_size", "32", "--transformer.inner_size", "32"]
Run = Callable[[str], None]


def code_of(file: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return [code for found, code in re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M) if found == language]


def commands_of(file: str) -> list[str]:
    """The lines that begin with `linguarec`, in fenced blocks and indented ones; "  " ends a command."""
    text = (ROOT / file).read_text(encoding="utf-8")
    lines = re.findall(r"^(?: {4})?(linguarec +\w+.*)$", text, re.M)
    return [re.sub(r"\s+(#|\().*$", "", line) for line in lines]


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with raw logs, prepared folders with MiniLM's vectors, and a pre-trained model."""
    place = tmp_path_factory.mktemp("documented")
    world = generate_world(seed=0, domains=3, size=TINY)
    for number, shop in enumerate(world):
        shop.write(place / f"raw{number}")
    for number, names in enumerate((("other",), ("games", "a", "shop2"), ("beauty", "b", "toys"))):
        for name in names:
            raw = place / f"raw{number}"
            words = (
                f"prepare table --interactions {raw}/interactions.csv --items {raw}/items.csv -o {place}/data/{name}"
            )
            run_words([*words.split(), "--k-core", "0"])
            run_words(["encode", f"{place}/data/{name}", "--word-drop-draws", "1"])
    shutil.copy(place / "raw0" / "interactions.csv", place / "log.csv")
    shutil.copy(place / "raw0" / "items.csv", place / "items.csv")
    header = "raw_id,title,brand,category\n"
    (place / "new_items.csv").write_text(f"{header}new-1,Bamboo lunch box,Greenleaf,Kitchen\n", encoding="utf-8")
    (place / "histories.csv").write_text('user,history\nann,"K0001,K0002"\n', encoding="utf-8")
    (place / "in_stock.txt").write_text("K0003\nK0004\n", encoding="utf-8")
    return place


def run_words(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0, " ".join(words)


@pytest.fixture
def run(shops: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs one command line as it stands, in the place of the shops; trainings are made quick."""
    monkeypatch.chdir(shops)

    def run(line: str) -> None:
        words = shlex.split(line)[1:]
        closed_form = words[0] in ("finetune", "tune") and FAMILIES[words[1]].closed_form
        if words[0] == "tune":
            words += ["--trials", "2", *([] if closed_form else [*QUICK, *SMALL_ENCODER])]
        elif closed_form:
            words += ["--overwrite"]
        elif words[0] in ("finetune", "pretrain", "compare", "transfer"):
            words += QUICK
            if words[0] in ("finetune", "pretrain"):
                words += ["--overwrite"]
                started = "--from" in words
                if words[1] == "recformer":
                    words += ["--users", "0.2", "--training.accumulate", "1", "--training.targets_per_step", "16"]
                    words += ["--training.valid_users", "20"] + ([] if started else ["--model.max_tokens", "64"])
                elif not started:
                    words += SMALL_ENCODER
            if words[0] == "compare":
                words += [*SMALL_ENCODER, "--seeds", "1"]
            if words[0] == "transfer":
                words += ["--shares", "100", "--seeds", "1"]
        if words[0] == "quantize":
            words += ["--subvectors", "8", "--centroids", "8", "--overwrite"]
        if words[0] in ("encode", "tokenize", "recommend", "convert") and "--history" not in words:
            words += ["--overwrite"]
        run_words(words)

    yield run


def test_the_readme_from_top_to_bottom(run: Run, shops: Path) -> None:
    released = ROOT / "tests" / "fixtures" / "released" / "sasrec" / "official.pth"
    shutil.copy(released, "OFFICIAL.pth")
    for block in code_of("README.md", "bash"):
        for line in block.splitlines():
            line = re.sub(r"\s+#.*$", "", line).strip()
            if not line or line.startswith(NOT_RUN):
                continue
            assert line.startswith("linguarec "), line
            run(line.replace("ITEM_ID,ITEM_ID", "K0001,K0002").replace("ITEM_ID", "K0001") + heads_of(line))
    assert torch.load("AGAIN.pth", weights_only=True)["state_dict"].keys()
    for block in code_of("README.md", "python"):
        exec(compile(block.replace("ITEM_ID", "K0001"), "README.md", "exec"), {})


def heads_of(line: str) -> str:
    """The fixture's checkpoint carries no settings; a released one does."""
    return " --heads 2" if line.startswith("linguarec convert OFFICIAL.pth") else ""


@pytest.fixture
def trained(run: Run) -> None:
    """What the pages call RUN, DATA, FOLDER and so on."""
    if not Path("RUN").exists():
        run("linguarec finetune unisrec data/other -o RUN")
        run("linguarec pretrain unisrec data/games data/beauty -o FOLDER")
        for name in ("other", "games", "beauty", "shop2"):
            run(f"linguarec tokenize data/{name}")


def test_using_a_run(run: Run, trained: None) -> None:
    known = {"B0001": "K0001", "B0002": "K0002", "B0007": "K0007"}
    for line in commands_of("docs/using-a-run.md"):
        for word, raw_id in known.items():
            line = line.replace(word, raw_id)
        run(
            line.replace("DATA", "data/other")
            + (" --items new_items.csv" if "new-1" in line and "--items" not in line else "")
        )
    for block in code_of("docs/using-a-run.md", "python"):
        for word, raw_id in known.items():
            block = block.replace(word, raw_id)
        exec(compile(block, "docs/using-a-run.md", "exec"), {})
    assert Path("RUN-2/catalogue.parquet").exists()


def test_evaluation(run: Run, trained: None) -> None:
    run("linguarec quantize data/other --features all-MiniLM-L6-v2")
    for line in commands_of("docs/evaluation.md"):
        data = "data/games" if "--zero-shot" in line else "data/other"
        # All models take minutes: tests/commands/test_compare.py has a small shop for them.
        line = line.replace("--models all", "--models zesrec").replace("runs/unisrec-pretrained", "RUN")
        run(re.sub(r"\bDIR\b", "DIR-compared", re.sub(r"\bDATA\b", data, line)))
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.splits import evaluation_cases
    from linguarec.families.opening import open_model
    from linguarec.sources.embeddings import EmbeddingSource

    dataset = PreparedDataset.open("data/other")
    known = {
        "model": open_model(Path("RUN"))[0],
        "items": EmbeddingSource.choose(dataset, {}).catalogue(),
        "cases": evaluation_cases(dataset.sequences, dataset.roles(), "test"),
    }
    for block in code_of("docs/evaluation.md", "python"):
        exec(compile(block, "docs/evaluation.md", "exec"), known)
    assert np.isfinite(known["result"].means()["mrr"])  # type: ignore[attr-defined]


def test_updating(run: Run, shops: Path) -> None:
    log = (shops / "log.csv").read_text().splitlines()
    old = [log[0], *(line for line in log[1:] if int(line.split(",")[2]) < LAUNCH)]
    (shops / "old.csv").write_text("\n".join(old) + "\n")
    run("linguarec prepare table --interactions old.csv --items items.csv -o OLD-DATA --k-core 0")
    run("linguarec finetune ease OLD-DATA -o RUN-OLD")
    for line in commands_of("docs/updating.md"):
        line = line.replace(
            "LOG_UNTIL_TODAY.csv --items ITEMS.csv -o DATA2", "log.csv --items items.csv -o DATA2 --k-core 0"
        )
        run(re.sub(r"\bRUN DATA2", "RUN-OLD DATA2", line))
    assert Path("RUN2/evaluation/update.json").exists()
    for block in code_of("docs/updating.md", "python"):
        for name, place in {"runs/may": "RUN-OLD", "data/june": "DATA2", "runs/june": "RUN-JUNE"}.items():
            block = block.replace(name, place)
        exec(compile(block, "docs/updating.md", "exec"), {})
    assert Path("RUN-JUNE/evaluation/update.json").exists()


PAGES = {
    "docs/pretraining.md": {
        r"DATA\.\.\.": "data/games data/beauty", "DATA": "data/games", "OTHER": "data/other", "RUN": "PRE-RUN",
    },
    "docs/transfer.md": {
        r" \[.*?\]": "", r"PRE\.\.\.": "data/games data/beauty", "NAME.opq32x256": "all-MiniLM-L6-v2.opq8x8",
        r"\bNAME\b": "all-MiniLM-L6-v2", "DATA": "data/shop2", "DIR": "DIR-moved", "-o RUN": "-o TUNED",
    },
    "docs/models/recformer.md": {
        "GAMES BEAUTY": "data/games data/beauty", "GAMES": "data/games", "DATA": "data/shop2", "PRE": "PRE-RF",
        "RUN": "RUN-RF", "A,B": "G0001,G0002", "new.csv": "new_items.csv", r"\bDIR\b": "DIR-RF",
    },
    "docs/text-and-codes.md": {
        "data/shop": "data/shop2", "path/to/model --pooling cls": "all-MiniLM-L6-v2 --pooling cls --name cls",
        "--backbone path/to/model": "--backbone all-MiniLM-L6-v2 --name short", "title,brand,colour": "title,brand",
    },
    "docs/tuning.md": {
        "ease-text DATA -o DIR": "ease-text data/other -o DIR-closed", "DIR --study": "DIR-shared --study",
        "postgresql://USER@HOST/DATABASE": "sqlite:///shared.sqlite", r"\bDIR\b(?!-)": "DIR-tuned", "DATA": "data/other",
        r"\bRUN1?\b": "RUN-TUNED",
    },
    "docs/training.md": {r" \[.*\]": "", "MODEL": "sasrec", "DATA": "data/other", "RUN": "RUN-S"},
}  # fmt: skip
NEEDS_FILES = ("import-codes", "convert")  # tests/commands run them on files of the released code


@pytest.mark.parametrize("page", PAGES)
def test_page(page: str, run: Run, trained: None) -> None:
    lines = [line for line in commands_of(page) if line.split()[1] not in NEEDS_FILES]
    assert lines
    for line in lines:
        for pattern, value in PAGES[page].items():
            line = re.sub(pattern, value, line)
        if page == "docs/transfer.md" and "recformer" in line:
            line = line.replace("FOLDER", "PRE-RF-SMALL")
            if not Path("PRE-RF-SMALL").exists():
                run("linguarec pretrain recformer data/games data/beauty -o PRE-RF-SMALL --backbone all-MiniLM-L6-v2")
        if page == "docs/transfer.md" and "vqrec" in line and "--from" in line:
            line = line.replace("FOLDER", "FOLDER-VQ")
            if not Path("FOLDER-VQ").exists():
                run("linguarec quantize data/games data/beauty --features all-MiniLM-L6-v2")
                run("linguarec pretrain vqrec data/games data/beauty -o FOLDER-VQ")
                run("linguarec quantize data/shop2 --features all-MiniLM-L6-v2")
        run(line)
