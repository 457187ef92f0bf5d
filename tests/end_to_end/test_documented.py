"""Every command and every Python block of the README and of docs/ is run, on the tiny world, with one epoch a training.

What is not run is listed in `tests/support/documents.py`, with its reason; `tests/test_documentation.py` parses all commands.
The encoder of the pages is a small random BERT in a folder of its name, which is found before the wheel.
"""

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from documents import NOT_RUN, OTHER_PROGRAMS, PAGES, ROOT, blocks_of, lines_of, words_of
from hub_server import running_hub
from service import Service
from small_bert import save_small_bert

from linguarec.cli import main
from linguarec.data.synthetic import LAUNCH, TINY, generate_world
from linguarec.families import FAMILIES

pytestmark = pytest.mark.slow
ENCODER = "all-MiniLM-L6-v2"
QUICK = ["--training.max_epochs", "1", "--training.accelerator", "cpu", "--training.targets_per_step", "200"]
SMALL_ENCODER = ["--transformer.max_length", "20", "--transformer.hidden_size", "32", "--transformer.inner_size", "32"]
RELEASED = ROOT / "tests" / "fixtures" / "released"
CODE = ("bash", "python")
Run = Callable[[str], None]

# Page -> pattern -> what stands there in the test, where the words of the page are no folders of it.
SUBSTITUTES: dict[str, dict[str, str]] = {
    "README.md": {
        "ITEM_ID,ITEM_ID": "K0001,K0002", "ITEM_ID": "K0001", "convert OFFICIAL.pth": "convert OFFICIAL.pth --heads 2",
    },
    "docs/using-a-run.md": {
        "B0001": "K0001", "B0002": "K0002", "B0007": "K0007", "DATA": "data/other",
        "(--history [^ ]*new-1)$": r"\1 --items new_items.csv",
    },
    # Several models take long: tests/commands/test_compare.py has a smaller shop for them.
    "docs/questions/which-model.md": {"--models ease,ease-text,unisrec": "--models sasrec"},
    "docs/questions/failures.md": {"--models ease,sasrec": "--models sasrec"},
    "docs/evaluation.md": {
        "--models sasrec,unisrec,vqrec": "--models sasrec", "--models sasrec,unisrec ": "--models sasrec ",
        "DATA --zero-shot": "data/games --zero-shot", "--models all": "--models zesrec", "runs/unisrec-pretrained": "RUN",
        r"\bDIR\b": "DIR-compared", r"\bDATA\b": "data/other",
    },
    "docs/pretraining.md": {
        r"DATA\.\.\.": "data/games data/beauty", "DATA": "data/games", "OTHER": "data/other", "RUN": "PRE-RUN",
    },
    "docs/transfer.md": {
        r" \[.*?\]": "", r"PRE\.\.\.": "data/games data/beauty", "NAME.opq32x256": f"{ENCODER}.opq8x8", r"\bNAME\b": ENCODER,
        "DATA": "data/shop2", "DIR": "DIR-moved", "-o RUN": "-o TUNED", "(vqrec +data/shop2 .*)FOLDER": r"\1FOLDER-VQ",
        "(recformer .*)FOLDER": r"\1FOLDER-RF",
    },
    "docs/models/recformer.md": {
        "GAMES BEAUTY": "data/games data/beauty", "GAMES": "data/games", "DATA": "data/shop2", "PRE": "PRE-RF",
        "RUN": "RUN-RF", "A,B": "G0001,G0002", "new.csv": "new_items.csv", r"\bDIR\b": "DIR-RF",
    },
    "docs/models/blend.md": {"A,B": "K0001,K0002"},
    "docs/text-and-codes.md": {
        "path/to/model --pooling cls": f"{ENCODER} --pooling cls --name cls",
        "--backbone path/to/model": f"--backbone {ENCODER} --name short", "title,brand,colour": "title,brand",
    },
    "docs/tuning.md": {
        "ease-text DATA -o DIR": "ease-text data/other -o DIR-closed", "DIR --study": "DIR-shared --study",
        "postgresql://USER@HOST/DATABASE": "sqlite:///shared.sqlite", r"\bDIR\b(?!-)": "DIR-tuned", "DATA": "data/other",
        r"\bRUN1?\b": "RUN-TUNED",
    },
    "docs/training.md": {r" \[.*\]": "", "MODEL": "sasrec", "DATA": "data/other", "RUN": "RUN-S"},
    "docs/released-checkpoints.md": {
        "UniSRec-FHCKM-300.pth": str(RELEASED / "unisrec_pretrain" / "official_recbole_config.pth"),
        "recformer_seqrec_ckpt.bin --heads 12": f"{RELEASED / 'recformer_seqrec' / 'recformer_seqrec_ckpt.bin'} --heads 4",
    },
    "docs/serving.md": {"price <= 20": "brand != 'Nobody'"},
    "docs/data.md": {"append DATA": "append data/appended", r"\bDATA\b": "data/other"},
    "docs/updating.md": {
        "LOG_UNTIL_TODAY.csv --items ITEMS.csv -o DATA2": "log.csv --items items.csv -o DATA2 --k-core 0",
        r"\bRUN DATA2": "RUN-OLD DATA2", "runs/may": "RUN-OLD", "data/june": "DATA2", "runs/june": "RUN-JUNE",
    },
    "docs/sharing.md": {"B0001": "K0001", "B0002": "K0002"},
}  # fmt: skip


def run_words(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0, " ".join(words)


def run_line(line: str) -> None:
    """Runs one command as it stands; trainings are made quick."""
    words = words_of(line)
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
    if words[0] in ("encode", "tokenize", "recommend", "convert", "blend", "export") and "--history" not in words:
        words += ["--overwrite"]
    run_words(words)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw logs; prepared folders with vectors, codes and tokens; models: RUN, FOLDER, runs/shop."""
    place = tmp_path_factory.mktemp("world")
    shops = generate_world(seed=0, domains=3, size=TINY)
    save_small_bert(place / ENCODER, [item.text for shop in shops for item in shop.items], width=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for number, names in enumerate((("other", "shop"), ("games", "a", "shop2"), ("beauty", "b", "toys"))):
            raw = f"raw{number}"
            shops[number].write(place / raw)
            first = f"data/{names[0]}"
            words = f"prepare table --interactions {raw}/interactions.csv --items {raw}/items.csv -o {first}"
            run_words([*words.split(), "--k-core", "0"])
            run_words(["encode", first, "--word-drop-draws", "1"])
            run_line(f"linguarec quantize {first} --features {ENCODER}")
            run_words(["tokenize", first])
            for name in names[1:]:
                shutil.copytree(first, f"data/{name}")
        shutil.copy("raw0/interactions.csv", "log.csv")
        shutil.copy("raw0/items.csv", "items.csv")
        header = "raw_id,title,brand,category\n"
        Path("new_items.csv").write_text(f"{header}new-1,Bamboo lunch box,Greenleaf,Kitchen\n", encoding="utf-8")
        Path("histories.csv").write_text('user,history\nann,"K0001,K0002"\n', encoding="utf-8")
        later = f"user_id,item_id,timestamp\nkitchen-user-00000,K0001,{LAUNCH + 5 * 86_400}\n"
        Path("2024-06-02.csv").write_text(later, encoding="utf-8")
        Path("in_stock.txt").write_text("K0003\nK0004\n", encoding="utf-8")
        shutil.copy(RELEASED / "sasrec" / "official.pth", "OFFICIAL.pth")
        run_line("linguarec finetune unisrec data/other -o RUN")
        shutil.copytree("RUN", "runs/shop")
        run_line("linguarec pretrain unisrec data/games data/beauty -o FOLDER")
    return place


@pytest.fixture
def place(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world, in which a page is run."""
    folder = tmp_path / "place"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    return folder


class Shell:
    """Runs the lines of a page: linguarec's in this process, curl's as requests to the service that the page started."""

    def __init__(self) -> None:
        self.service: Service | None = None

    def run(self, line: str) -> None:
        program = line.split()[0]
        if any(re.fullmatch(pattern, line) for pattern in (*NOT_RUN, *OTHER_PROGRAMS)):
            return
        if program == "linguarec" and line.split()[1] == "serve":
            self.close()
            words = words_of(line)
            self.service = Service(Path(words[1]), "state.sqlite", *words[2:]).start()
        elif program == "linguarec":
            run_line(line)
        else:
            assert program == "curl", f"{line!r} is neither run nor said to be left out, with its reason"
            self.ask(line)

    def ask(self, line: str) -> None:
        assert self.service is not None, f"no service was started before {line!r}"
        words = [word for word in shlex.split(line)[1:] if word != "-s"]
        method, body, headers, address = "", None, {}, ""
        while words:
            word = words.pop(0)
            if word == "-X":
                method = words.pop(0)
            elif word == "-d":
                body = words.pop(0)
            elif word == "-H":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            else:
                address = word.removeprefix("http://").removeprefix("localhost:8000").removeprefix("127.0.0.1:8000")
        answer: httpx.Response = self.service.client.request(
            method or ("POST" if body else "GET"), address, content=body, headers=headers
        )
        assert answer.status_code < 300, answer.text

    def close(self) -> None:
        if self.service is not None:
            assert self.service.stop() == 0
            self.service = None


@pytest.fixture
def shell() -> Iterator[Shell]:
    made = Shell()
    yield made
    made.close()


def before_readme() -> None:
    for folder in (Path("data/shop"), Path("runs")):  # the README makes them
        shutil.rmtree(folder)


def before_transfer() -> None:
    run_line("linguarec pretrain recformer data/games data/beauty -o FOLDER-RF --backbone all-MiniLM-L6-v2")
    run_line("linguarec quantize data/games data/beauty --features all-MiniLM-L6-v2")
    run_line("linguarec pretrain vqrec data/games data/beauty -o FOLDER-VQ")


def before_updating() -> None:
    """A run on the log until the items of the launch came."""
    head, *log = Path("log.csv").read_text(encoding="utf-8").splitlines()
    old = [row for row in log if int(row.split(",")[2]) < LAUNCH]
    Path("old.csv").write_text("\n".join([head, *old]) + "\n", encoding="utf-8")
    run_line("linguarec prepare table --interactions old.csv --items items.csv -o OLD-DATA --k-core 0")
    run_line("linguarec finetune ease OLD-DATA -o RUN-OLD")


def before_data() -> None:
    run_line("linguarec prepare table --interactions log.csv --items items.csv -o data/appended")


BEFORE = {
    "docs/data.md": before_data,
    "docs/updating.md": before_updating,
    "README.md": before_readme,
    "docs/transfer.md": before_transfer,
}


def check_readme() -> None:
    assert torch.load("AGAIN.pth", weights_only=True)["state_dict"].keys()


def check_evaluation(known: dict[str, Any]) -> None:
    assert np.isfinite(known["result"].means()["mrr"])


def known_to_blocks(page: str) -> dict[str, Any]:
    """Names that the Python blocks of a page use and do not make."""
    if page == "docs/serving.md":
        return {"rows": [SimpleNamespace(id="new-2", title="Bamboo lunch box")]}
    if page != "docs/evaluation.md":
        return {}
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.splits import evaluation_cases
    from linguarec.families.opening import open_model
    from linguarec.sources.embeddings import EmbeddingSource

    dataset = PreparedDataset.open("data/other")
    return {
        "model": open_model(Path("RUN"))[0],
        "items": EmbeddingSource.choose(dataset, {}).catalogue(),
        "cases": evaluation_cases(dataset.sequences, dataset.roles(), "test"),
    }


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, *CODE)])
def test_page(page: str, place: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    BEFORE.get(page, lambda: None)()
    known = known_to_blocks(page)
    with running_hub() as hub:
        for name, value in (("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        reached = {"licence=": f'token="{hub.token}", endpoint="{hub.address}", licence='}
        reached |= {
            'revision="...", fingerprint="..."': f'pushed.revision, pushed.fingerprint, endpoint="{hub.address}"'
        }
        for language, block in blocks_of(page, *CODE):
            if language == "bash":
                for line in lines_of(block):
                    for pattern, value in SUBSTITUTES.get(page, {}).items():
                        line = re.sub(pattern, value, line)
                    shell.run(line)
                continue
            for pattern, value in SUBSTITUTES.get(page, {}).items():
                block = re.sub(pattern, value, block)
            for shown, value in reached.items():
                block = block.replace(shown, value)
            if shell.service is not None:
                block = block.replace("127.0.0.1:8000", f"{shell.service.host}:{shell.service.port}")
            exec(compile(block, page, "exec"), known)
    if page == "README.md":
        check_readme()
    elif page == "docs/evaluation.md":
        check_evaluation(known)
    elif page == "docs/using-a-run.md":
        assert Path("RUN-2/catalogue.parquet").exists()
