"""Pre-training of a Recformer by the command: what it learns, what its folder holds, resuming, what is refused."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from results import stored_result
from safetensors.torch import load_file

import linguarec
from linguarec.cli import main
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.commands.pretrain import pretrain
from linguarec.commands.tokenize import tokenize
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import LinguarecError, SettingsError, StaleFeaturesError
from linguarec.families import FAMILIES
from linguarec.families.family import Request
from linguarec.families.opening import open_model
from linguarec.families.recformer.backbone import recformer_from_backbone
from linguarec.families.recformer.model import RecformerConfig
from linguarec.families.validation import valid_cases
from linguarec.sources.tokens import TokenSource
from linguarec.training.settings import TrainingSettings

CONFIG = RecformerConfig(window=16, max_tokens=128, max_items=8, attention_dropout=0.0)
SIZES = RecformerConfig(
    hidden_size=16, layers=2, heads=2, inner_size=16, window=16, max_tokens=128, max_items=8, positions=128, first_position=0
)  # fmt: skip


def settings(**changes: Any) -> TrainingSettings:
    quick: dict[str, Any] = {"learning_rate": 2e-3, "targets_per_step": 60, "max_epochs": 3, "accelerator": "cpu"}
    return TrainingSettings(**{**quick, **changes})


def test_a_folder_without_catalogue_that_reads_any_shop(
    tokenized: list[PreparedDataset], tiny_backbone: str, tmp_path: Path
) -> None:
    run, (home, other) = tmp_path / "run", tokenized
    result = pretrain(
        "recformer", [home.path], run, CONFIG, training=settings(), valid=other.path, backbone=tiny_backbone
    )
    assert stored_result(run / "metrics.json") == result
    assert result["domains"] == {"kitchen": 300}
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert result["valid"]["contrast accuracy"] > 0
    model, description = open_model(run)
    assert (description.encoder, description.shape.num_items) == (None, 0)
    begin = recformer_from_backbone(tiny_backbone, 16, 128, 8, language_head=True)
    assert torch.equal(model.word.weight, begin.word.weight)  # type: ignore[union-attr]
    assert not torch.equal(model.position.weight, begin.position.weight)  # type: ignore[union-attr]

    summary = evaluate(run, other.path, zero_shot=True, split="valid", plots=False)
    reached = summary["systems"]["recformer"]["ndcg@10"]["mean"]
    assert reached == pytest.approx(result["valid"]["ndcg@10"], rel=0.1)  # trained in bfloat16 where the device has it
    recommender = linguarec.load_model(run)
    titles = other.texts
    recommender.add_items([{"raw_id": f"{row}", "title": title} for row, title in enumerate(titles)])
    assert len(recommender.recommend([["3", "5"]], k=4)[0]) == 4

    again = tmp_path / "again"
    with pytest.raises(SystemExit, match="0"):
        main(["pretrain", "recformer", str(home.path), "-o", str(again), "--config", str(run / "run.yaml")])
    written = [json.loads((folder / "settings.json").read_text()) for folder in (run, again)]
    assert written[0] == written[1]

    tuned = finetune("recformer", other.path, tmp_path / "tuned", from_=run, training=settings(max_epochs=1))
    taken = json.loads((tmp_path / "tuned" / "settings.json").read_text())["from"]
    assert {name.split(".")[0] for name in taken["left_out"]} == {"language_head"}
    assert taken["new"] == []
    assert tuned["epochs"] == 2


def test_killed_in_an_epoch_it_goes_on_to_the_same_weights(
    tokenized: list[PreparedDataset], tmp_path: Path, until_killed: Callable[..., None]
) -> None:
    training, data = settings(max_epochs=2, checkpoint_every_n_steps=1), tokenized[0].path
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    pretrain("recformer", [data], unbroken, SIZES, training=training)
    words = ("pretrain", "recformer", data, "-o", broken)
    until_killed(*words, where="batch.step == 7", model=SIZES, training=training)
    pretrain("recformer", [data], broken, SIZES, training=training, resume=True)
    expected, found = (load_file(run / "model.safetensors") for run in (unbroken, broken))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_valid_users_are_the_most_that_validate(tokenized: list[PreparedDataset], tmp_path: Path) -> None:
    family = FAMILIES["recformer"]
    request = Request(
        family, [tokenized[0]], None, None, None, settings(), "leave-one-out", 1.0, 0, tmp_path / "not-written"
    )
    counts = [len(valid_cases(request, 9, most)[0][1]) for most in (0, 7)]
    assert counts == [300, 7]
    few = settings(max_epochs=1, valid_users=7)
    found = pretrain("recformer", [tokenized[0].path], tmp_path / "run", SIZES, training=few)["valid"]["recall@10"]
    assert 7 * found == pytest.approx(round(7 * found))
    assert 300 * found != pytest.approx(round(300 * found)) or found in (0, 1)


def test_without_masked_words_there_is_no_head_and_no_need_of_a_mask(
    tokenized: list[PreparedDataset],
    tiny_backbone: str,
    tmp_path: Path,
    in_two_processes: Callable[..., dict[str, Any]],
) -> None:
    run, config = tmp_path / "run", replace(CONFIG, mlm_weight=0.0)
    training = settings(max_epochs=1, precision="fp32")
    in_two_processes(
        *("pretrain", "recformer", tokenized[0].path, "--backbone", tiny_backbone, "-o", run),
        model=config,
        training=training,
    )
    weights = load_file(run / "model.safetensors")
    begin = recformer_from_backbone(tiny_backbone, 16, 128, 8).state_dict()
    assert weights.keys() == begin.keys()
    moved = {name for name, tensor in weights.items() if not torch.equal(tensor, begin[name])}
    unread = "layers.1.attention.query_key_value"  # only <s> is read from the last layer
    assert begin.keys() - moved == {"word.weight", f"{unread}.weight", f"{unread}.bias"}
    description = open_model(run)[1]
    assert (description.config.mlm_weight, description.config.language_head) == (0, False)
    # Words are guessed again from there, with a new head.
    pretrain(
        "recformer", [tokenized[0].path], tmp_path / "on", RecformerConfig(mlm_weight=0.2), training=training, from_=run
    )
    assert "language_head.dense.weight" in load_file(tmp_path / "on" / "model.safetensors")


def test_processes_that_share_the_weights_out_take_the_steps_of_those_that_do_not(
    tokenized: list[PreparedDataset],
    tiny_backbone: str,
    tmp_path: Path,
    in_two_processes: Callable[..., dict[str, Any]],
) -> None:
    """The word embeddings, which the language head shares, are fixed; from a backbone, with dropout."""
    words = ("pretrain", "recformer", tokenized[0].path, "--backbone", tiny_backbone, "-o")
    found = {}
    for strategy in ("ddp", "fsdp"):
        training = settings(max_epochs=1, precision="fp32", strategy=strategy, gradient_clip=0.5)
        in_two_processes(*words, tmp_path / strategy, model=CONFIG, training=training)
        weights = load_file(tmp_path / strategy / "model.safetensors")
        # The gradient of these is zero but for rounding, and Adam makes steps of that.
        found[strategy] = {name: tensor for name, tensor in weights.items() if not name.endswith("global_key.bias")}
    torch.testing.assert_close(found["fsdp"], found["ddp"], atol=1e-4, rtol=1e-4)


def test_what_is_cut_is_counted_over_all_folders(tokenized: list[PreparedDataset], tmp_path: Path) -> None:
    config = RecformerConfig(
        hidden_size=16, layers=2, heads=2, inner_size=16, window=16, max_tokens=10, max_items=3, positions=128,
        first_position=0,
    )  # fmt: skip
    folders, once = [shop.path for shop in tokenized], settings(max_epochs=1)

    def by_a_loop(left: int, *shops: PreparedDataset) -> dict[str, int]:
        over_items = over_tokens = 0
        for shop in shops:
            lengths = TokenSource.choose(shop, {}).tokens.lengths
            for user in range(shop.num_users):
                history = shop.sequences[user][: -1 - left]
                over_items += len(history) > 3
                over_tokens += 1 + lengths[history[-3:]].sum() > 10
        return {"over_3_items": over_items, "over_10_tokens": int(over_tokens), "without_text": 0}

    def items(*shops: PreparedDataset) -> dict[str, int]:
        return {"over_10_tokens": sum(int((TokenSource.choose(one, {}).tokens.lengths > 9).sum()) for one in shops)}

    first, second = tokenized
    both = pretrain("recformer", folders, tmp_path / "both", config, training=once)["cut"]
    assert both == {
        "items": items(first, second), "train_histories": by_a_loop(2, *tokenized), "valid_histories": by_a_loop(1, *tokenized)
    }  # fmt: skip
    assert json.loads((tmp_path / "both" / "metrics.json").read_text())["cut"] == both
    other = pretrain("recformer", folders[:1], tmp_path / "other", config, training=once, valid=folders[1])["cut"]
    assert other == {
        "items": both["items"], "train_histories": by_a_loop(2, first), "valid_histories": by_a_loop(1, second)
    }  # fmt: skip


def recorded_of(run: Path) -> dict[str, Any]:
    """The settings of a run."""
    recorded: dict[str, Any] = json.loads((run / "settings.json").read_text())
    return recorded


def test_the_valid_folder_takes_tokens_of_the_name_if_it_has_them(
    tokenized: list[PreparedDataset], tiny_backbone: str, tmp_path: Path
) -> None:
    (home, other), training = tokenized, settings(max_epochs=1)
    tokenize(other.path, tiny_backbone, name="short", attribute_tokens=2)

    def run(name: str, tokens: str | None) -> dict[str, Any]:
        pretrain("recformer", [home.path], tmp_path / name, SIZES, training=training, valid=other.path, tokens=tokens)
        return recorded_of(tmp_path / name)

    with pytest.raises(
        SettingsError, match=rf"{other.path} has several .*: short, tiny; choose one with --tokens, or keep"
    ):
        run("a", None)
    assert run("a", "tiny")["valid_sentences"]["attribute_tokens"] == 32
    (other.path / "tokens" / "tiny").rename(tmp_path / "tiny")
    found = run("b", "tiny")
    assert (found["valid_sentences"]["attribute_tokens"], found["sentences"]["attribute_tokens"]) == (2, 32)
    (other.path / "tokens" / "short").rename(tmp_path / "short")
    tokenize(other.path, name="tiny")
    with pytest.raises(StaleFeaturesError, match=r"has tiny by that of all-MiniLM-L6-v2\. .* --name tiny --overwrite`"):
        run("c", "tiny")


def test_folders_that_are_read_otherwise_are_recorded_and_told_of_once(
    tokenized: list[PreparedDataset], tiny_backbone: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (home, other), run, further = tokenized, tmp_path / "run", tmp_path / "further"
    training = settings(max_epochs=1)

    def told() -> list[str]:
        messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        caplog.clear()
        return [message for message in messages if message.startswith("items become sentences")]

    pretrain("recformer", [home.path, other.path], tmp_path / "alike", SIZES, training=training)
    assert told() == []
    tokenize(other.path, tiny_backbone, ["text", "title"], 9, name="tiny", overwrite=True)
    arguments: dict[str, Any] = {"config": SIZES, "training": training}
    result = pretrain("recformer", [home.path, other.path], run, **arguments)
    mine = f"{home.path}: attributes title, of each at most 32 tokens, text rules default"
    theirs = f"{other.path}: attributes text, title, of each at most 9 tokens, text rules default"
    end = "If that is not meant, tokenize with the same --attributes and --attribute-tokens, and prepare with the same"
    messages = told()
    assert messages == [f"items become sentences in 2 ways: {mine}; {theirs}. {end} --text-rules."]
    recorded = recorded_of(run)
    assert [form["attributes"] for form in recorded["data_sentences"]] == [["title"], ["text", "title"]]
    assert recorded["valid_sentences"] is None
    assert recorded["sentences"] == recorded["data_sentences"][0]

    # The tokens of every folder belong to what a resumed run must find again.
    assert pretrain("recformer", [home.path, other.path], run, **arguments, resume=True) == result
    tokenize(other.path, tiny_backbone, name="tiny", overwrite=True)
    with pytest.raises(SettingsError, match=r"data_sentences: the run has \[.*'attribute_tokens': 9,.*, now \["):
        pretrain("recformer", [home.path, other.path], run, **arguments, resume=True)
    assert told() == []

    tokenize(other.path, tiny_backbone, attribute_tokens=3, name="tiny", overwrite=True)
    sides = [
        mine.replace(str(home.path), str(run)),
        mine.replace(str(home.path), str(other.path)).replace("most 32", "most 3"),
    ]
    expected = [f"items become sentences in 2 ways: {'; '.join(sides)}. {end} --text-rules."]
    pretrain("recformer", [other.path], further, training=training, from_=run)
    assert told() == expected
    finetune("recformer", other.path, tmp_path / "tuned", training=training, from_=run)
    assert told() == expected
    evaluate(run, other.path, zero_shot=True, split="valid", plots=False)
    assert told() == expected
    evaluate(run, home.path, zero_shot=True, split="valid", plots=False)
    assert told() == []


def test_what_cannot_work_is_refused(tokenized: list[PreparedDataset], tmp_path: Path) -> None:
    run, folders = tmp_path / "run", [shop.path for shop in tokenized]
    with pytest.raises(SettingsError, match="--features: this is not for recformer"):
        pretrain("recformer", folders, run, CONFIG, features="words")
    with pytest.raises(SettingsError, match="--backbone: this is not for unisrec"):
        pretrain("unisrec", folders, run, backbone="all-MiniLM-L6-v2")
    tokenize(folders[1], "all-MiniLM-L6-v2", name="other")
    with pytest.raises(LinguarecError, match=r"--tokens other: .* it has: tiny"):
        pretrain("recformer", folders, run, CONFIG, tokens="other")
    (folders[1] / "tokens" / "tiny").rename(folders[1] / "tokens" / "hidden")
    (folders[1] / "tokens" / "other").rename(folders[1] / "tokens" / "tiny")
    with pytest.raises(StaleFeaturesError, match=r"tiny by that of all-MiniLM-L6-v2\. Make them: `linguarec tokenize"):
        pretrain("recformer", folders, run, CONFIG, tokens="tiny")
    assert not run.exists()
