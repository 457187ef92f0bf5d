"""Fine-tuning from another model: what is taken over, fixed and new, the modes of VQ-Rec, resuming, what does not fit."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prepared import names_read
from safetensors.torch import load_file

from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.commands.finetune import finetune
from linguarec.commands.pretrain import pretrain
from linguarec.commands.quantize import quantize
from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import FeatureInfo
from linguarec.errors import CheckpointMismatchError, SettingsError, StaleFeaturesError
from linguarec.families.opening import open_model, open_start
from linguarec.families.unisrec.model import UniSRecConfig
from linguarec.families.vqrec.permutation import PermutationSettings
from linguarec.families.weights import save_model
from linguarec.given import note_given
from linguarec.nn.encoders import GRUConfig, PoolingConfig, TransformerConfig
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.2, max_length=20)
BOOKS, CENTROIDS, WIDTH = 4, 8, 16  # of the fixture `shops`


def settings(**changes: Any) -> TrainingSettings:
    quick: dict[str, Any] = {"learning_rate": 5e-3, "targets_per_step": 200, "max_epochs": 2, "accelerator": "cpu"}
    return TrainingSettings(**{**quick, **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return found


def changed(start: Path, run: Path) -> set[str]:
    """Names of the tensors that are not those of the start."""
    before, after = weights(start), weights(run)
    return {name for name in after if name not in before or not torch.equal(before[name], after[name])}


def recorded(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "settings.json").read_text())["from"]
    return found


def test_the_encoder_is_fixed_and_the_adaptor_learns(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start, run = pretrained("unisrec"), tmp_path / "run"
    caplog.set_level("INFO")
    result = finetune("unisrec", shops[1].path, run, from_=start, training=settings())
    adaptor = {f"adaptor.{name}" for name in ("weight", "shift", "gate", "noise")}
    assert changed(start, run) == adaptor | {"encoder.input_norm.weight", "encoder.input_norm.bias"}
    assert json.loads((run / "config.json").read_text())["encoder"]["hidden_size"] == 16
    found = recorded(run)
    assert set(found["loaded"]) == set(weights(start))
    assert (found["new"], found["left_out"], found["frozen"], found["mode"]) == ([], [], "encoder", "inductive")
    assert f"from {start} (unisrec): {len(weights(start))} tensors loaded; new: none" in caplog.text
    assert "fixed: the sequence encoder" in caplog.text
    assert result["epochs"] == 2


def test_nothing_is_fixed_where_that_is_asked_for(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, run = pretrained("unisrec"), tmp_path / "run"
    finetune("unisrec", shops[1].path, run, from_=start, frozen="none", training=settings())
    assert changed(start, run) == set(weights(start))


def test_text_and_id_begins_with_new_ids(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, run = pretrained("unisrec"), tmp_path / "run"
    finetune("unisrec", shops[1].path, run, from_=start, mode="transductive", training=settings())
    found = recorded(run)
    assert (found["new"], found["left_out"], found["mode"]) == (["item.weight"], [], "transductive")
    assert weights(run)["item.weight"].shape == (shops[1].num_items, 16)
    # From a finished run with IDs: those of its own catalogue stay behind.
    again = tmp_path / "again"
    finetune("unisrec", shops[0].path, again, from_=run, training=settings(max_epochs=1))
    assert recorded(again)["left_out"] == ["item.weight"]


def test_a_pretrained_start_is_ahead_of_scratch(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start = pretrained("unisrec", training=settings(max_epochs=12))
    one = settings(max_epochs=1)
    warm = finetune("unisrec", shops[1].path, tmp_path / "warm", from_=start, training=one)
    cold = finetune("unisrec", shops[1].path, tmp_path / "cold", transformer=SMALL, training=one)
    assert warm["valid"]["ndcg@10"] > 1.2 * cold["valid"]["ndcg@10"]


def test_dropout_may_change_but_sizes_may_not(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, run = pretrained("unisrec"), tmp_path / "run"
    finetune(
        "unisrec",
        shops[1].path,
        run,
        UniSRecConfig(temperature=0.1),
        transformer=TransformerConfig(dropout=0.0),
        from_=start,
        training=settings(max_epochs=1),
    )
    written = json.loads((run / "config.json").read_text())
    assert (written["encoder"]["dropout"], written["encoder"]["layers"]) == (0.0, 1)
    assert written["config"] == {**written["config"], "temperature": 0.1, "experts": 8}
    with pytest.raises(SettingsError) as caught:
        finetune(
            "unisrec",
            shops[1].path,
            tmp_path / "other",
            UniSRecConfig(experts=4),
            transformer=TransformerConfig(hidden_size=32, layers=3),
            from_=start,
        )
    assert caught.value.problems == [
        f"--transformer.hidden_size 32: the weights of {start} are for 16; leave the flag out",
        f"--transformer.layers 3: the weights of {start} are for 1; leave the flag out",
        f"--model.experts 4: the weights of {start} are for 8; leave the flag out",
    ]
    with pytest.raises(SettingsError, match=f"--sequence-encoder gru: the one of {start} is a transformer"):
        finetune("unisrec", shops[1].path, tmp_path / "other", from_=start, sequence_encoder="gru")
    with pytest.raises(SettingsError, match=r"--gru\.\*: the sequence encoder of .* is a transformer"):
        finetune("unisrec", shops[1].path, tmp_path / "other", gru=GRUConfig(layers=2), from_=start)
    with pytest.raises(SettingsError, match=r"--pooling\.\*: the sequence encoder of .* is a transformer"):
        finetune("unisrec", shops[1].path, tmp_path / "other", pooling=PoolingConfig(inner_size=2), from_=start)


@pytest.mark.parametrize(("own", "other"), [("learned", "none"), ("none", "learned")])
def test_a_start_keeps_its_positions_or_their_absence(
    own: str, other: str, shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, run = pretrained("unisrec", transformer=replace(SMALL, positions=own)), tmp_path / "run"

    def train(**changes: Any) -> None:
        changed = replace(TransformerConfig(), **changes)
        note_given(changed, changes)
        finetune("unisrec", shops[1].path, run, from_=start, transformer=changed, training=settings(max_epochs=1))

    with pytest.raises(SettingsError) as caught:
        train(positions=other)
    refused = f"--transformer.positions {other}: the weights of {start} are for {own}; leave the flag out"
    assert caught.value.problems == [refused]
    if own == "learned":
        with pytest.raises(SettingsError, match=f"--transformer.max_length 30: the weights of {start} are for 20"):
            train(max_length=30)
        return
    train(max_length=30)  # no weights depend on it
    written = json.loads((run / "config.json").read_text())["encoder"]
    assert (written["positions"], written["max_length"]) == ("none", 30)
    assert "encoder.position.weight" not in weights(run)


def test_a_gru_is_taken_over_and_fixed(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    gru = GRUConfig(hidden_size=16, inner_size=16, max_length=20)
    start, run = pretrained("vqrec", gru=gru, transformer=None, sequence_encoder="gru"), tmp_path / "run"
    finetune("vqrec", shops[1].path, run, from_=start, mode="direct", training=settings())
    assert changed(start, run) == {"codes.weight"}


def test_a_permutation_is_learned_and_then_the_embeddings(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, run = pretrained("vqrec"), tmp_path / "run"
    stage = PermutationSettings(epochs=3)
    result = finetune(
        "vqrec", shops[1].path, run, from_=start, mode="permutation", training=settings(), permutation=stage
    )
    order = np.load(run / "permutation" / "order.npy")
    assert np.array_equal(np.sort(order, axis=1), np.tile(np.arange(CENTROIDS), (BOOKS, 1)))
    assert not np.array_equal(order, np.tile(np.arange(CENTROIDS), (BOOKS, 1)))
    assert json.loads((run / "permutation" / "metrics.json").read_text()) == result["stages"]["permutation"]
    with (run / "permutation" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == result["stages"]["permutation"]["epochs"] == 3
    best = max(float(row["valid ndcg@10"]) for row in rows)
    assert result["stages"]["permutation"]["valid"]["ndcg@10"] == pytest.approx(best, abs=1e-6)
    assert not (run / "permutation" / "checkpoints").exists()
    assert changed(start, run) == {"codes.weight", "encoder.input_norm.weight", "encoder.input_norm.bias"}
    assert recorded(run)["permutation"]["epochs"] == 3


def test_direct_takes_the_embeddings_as_they_are_numbered(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, run = pretrained("vqrec"), tmp_path / "run"
    still = settings(max_epochs=1, learning_rate=1e-9, precision="fp32")
    finetune("vqrec", shops[1].path, run, from_=start, mode="direct", training=still)
    assert not (run / "permutation").exists()
    torch.testing.assert_close(weights(run)["codes.weight"], weights(start)["codes.weight"], atol=1e-6, rtol=1e-6)
    own = ItemCodes.load(shops[1].codes_path("own")).book.fingerprint
    assert CodeBook.load(run / "codes.npz").fingerprint == own


def test_reuse_codes_the_items_with_the_book_of_the_start(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, run = pretrained("vqrec"), tmp_path / "run"
    book = CodeBook.load(start / "code_book.npz")
    finetune("vqrec", shops[1].path, run, from_=start, training=settings(max_epochs=1))  # the default mode
    name = f"book-{book.fingerprint[:12]}"
    assert shops[1].code_names == [name, "own"]
    stored = ItemCodes.load(shops[1].codes_path(name))
    assert np.array_equal(stored.codes, book.encode(shops[1].features("words")))
    assert CodeBook.load(run / "codes.npz").fingerprint == book.fingerprint
    before = shops[1].codes_path(name).stat().st_mtime_ns
    assert names_read("vqrec", "reuse", shops[1], open_start(start), None, None) == (None, name)
    assert shops[1].codes_path(name).stat().st_mtime_ns == before
    # A finished run knows its book too.
    assert names_read("vqrec", "reuse", shops[0], open_start(run), None, None) == (None, "own")
    with pytest.raises(CheckpointMismatchError, match=rf"codes own of .* are of the codebook .*, the model in {start}"):
        finetune("vqrec", shops[1].path, tmp_path / "other", from_=start, codes="own")
    # Without codes of that name the data's own come first, whatever was borrowed.
    assert names_read("vqrec", None, shops[1], None, None, None) == (None, "own")
    (start / "code_book.npz").unlink()
    with pytest.raises(
        CheckpointMismatchError,
        match=rf"{start} has no codebook \(code_book.npz\).*--mode permutation` or `--mode direct`",
    ):
        finetune("vqrec", shops[1].path, tmp_path / "other", from_=start)


def test_random_codes_in_pretraining_and_fine_tuning(shops: list[PreparedDataset], tmp_path: Path) -> None:
    """The ablation: only what the codes say is taken away."""
    first, second = (shop.path for shop in shops)
    quantize([first], "words", BOOKS, CENTROIDS, method="random")
    pre, run, name = tmp_path / "pre", tmp_path / "run", f"words.random{BOOKS}x{CENTROIDS}"
    one = settings(max_epochs=1)
    pretrain("vqrec", [first], pre, transformer=SMALL, training=one, codes=name)
    finetune("vqrec", second, run, from_=pre, training=one)
    book = CodeBook.load(pre / "code_book.npz")
    assert book.method == "random"
    assert np.array_equal(ItemCodes.load(run / "codes.npz").codes, book.encode(shops[1].features("words")))
    assert recorded(run)["mode"] == "reuse"
    # As published: random codes of the data's own, and a permutation that is learned.
    quantize([second], "words", BOOKS, CENTROIDS, method="random", seed=1)
    own = tmp_path / "own"
    finetune(
        "vqrec", second, own, from_=pre, mode="permutation", codes=name, training=one,
        permutation=PermutationSettings(epochs=1),
    )  # fmt: skip
    assert (recorded(own)["mode"], CodeBook.load(own / "codes.npz").seed) == ("permutation", 1)


@pytest.mark.parametrize(("stage", "step"), [(1, 3), (1, 8), (2, 0), (2, 8)])
def test_killed_in_either_stage_it_goes_on_to_the_same_weights(
    stage: int,
    step: int,
    shops: list[PreparedDataset],
    pretrained: Callable[..., Path],
    tmp_path: Path,
    until_killed: Callable[..., None],
) -> None:
    """Epochs have 6 steps."""
    start = pretrained("vqrec", training=settings(max_epochs=1))
    training = settings(checkpoint_every_n_steps=1 if step == 3 else 0)
    data, unbroken, broken = shops[1].path, tmp_path / "unbroken", tmp_path / "broken"
    permutation = PermutationSettings(epochs=2)
    learned: dict[str, Any] = {"from_": start, "mode": "permutation", "training": training, "permutation": permutation}
    finetune("vqrec", data, unbroken, **learned)
    words = ("finetune", "vqrec", data, "-o", broken, "--from", start, "--mode", "permutation")
    where = f"(type(self.model).__name__ == 'PermutedVQRec') == ({stage} == 1) and batch.step == {step}"
    until_killed(*words, where=where, training=training, permutation=permutation)
    assert (broken / "permutation" / "metrics.json").exists() == (stage == 2)
    finetune("vqrec", data, broken, **learned, resume=True)
    expected, found = weights(unbroken), weights(broken)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    orders = [np.load(run / "permutation" / "order.npy") for run in (unbroken, broken)]
    assert np.array_equal(*orders)
    for part in (".", "permutation"):
        curves = [
            [(row["epoch"], row["step"], row["loss"], row["valid ndcg@10"]) for row in csv.DictReader(file.open())]
            for file in (unbroken / part / "metrics.csv", broken / part / "metrics.csv")
        ]
        assert curves[0] == curves[1]


def test_two_processes_learn_the_permutation_and_the_embeddings_of_one(
    shops: list[PreparedDataset],
    pretrained: Callable[..., Path],
    tmp_path: Path,
    in_two_processes: Callable[..., dict[str, Any]],
) -> None:
    """Two trainings, one after the other, in the same two processes."""
    still = replace(SMALL, dropout=0.0)
    start, alone, together = pretrained("vqrec", transformer=still), tmp_path / "alone", tmp_path / "together"
    groups = {"training": settings(precision="fp32"), "permutation": PermutationSettings(epochs=2)}
    expected = finetune("vqrec", shops[1].path, alone, from_=start, mode="permutation", **groups)
    given = ["vqrec", shops[1].path, "-o", together, "--from", start, "--mode", "permutation"]
    found = in_two_processes("finetune", *given, **groups)
    assert np.array_equal(*(np.load(run / "permutation" / "order.npy") for run in (alone, together)))
    took = [stage.pop("seconds") for stage in (found["stages"]["permutation"], expected["stages"]["permutation"])]
    assert min(took) > 0
    found, expected = found["stages"]["permutation"], expected["stages"]["permutation"]
    assert found.pop("valid") == pytest.approx(expected.pop("valid"), abs=1e-6)
    assert found == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(weights(together), weights(alone), atol=2e-5, rtol=1e-4)


def test_a_run_goes_on_from_its_own_start_only(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, run, one = pretrained("unisrec"), tmp_path / "run", settings(max_epochs=1)
    first = finetune("unisrec", shops[1].path, run, from_=start, training=one)
    moved = tmp_path / "moved"
    shutil.copytree(start, moved)
    assert finetune("unisrec", shops[1].path, run, from_=moved, training=one, resume=True) == first
    network, description = open_model(start)
    with torch.no_grad():
        next(network.parameters()).mul_(1.5)
    save_model(network, description, moved)
    with pytest.raises(
        SettingsError,
        match=rf"cannot be resumed with other settings; .*:\nfrom: the run has {start}, now {moved} with other weights$",
    ):
        finetune("unisrec", shops[1].path, run, from_=moved, training=one, resume=True)
    with pytest.raises(SettingsError, match=r"from.frozen: the run has 'encoder', now 'none'"):
        finetune("unisrec", shops[1].path, run, from_=start, frozen="none", training=one, resume=True)
    with pytest.raises(SettingsError, match=f"from: the run has {start}, now none"):
        finetune("unisrec", shops[1].path, run, transformer=SMALL, training=one, resume=True)


def test_what_does_not_fit_is_refused_by_both_names(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, run, shop = pretrained("unisrec"), tmp_path / "run", shops[1]
    vectors = np.array(shop.features("words"))
    info = shop.feature_info("words")
    shop.write_features("other", vectors, replace(info, encoder="other", weights_sha256="1" * 64))
    wanted = rf"{start} was trained on vectors of words \(weights 000000000000\), width 16.* and {shop.path} has "
    with pytest.raises(
        StaleFeaturesError, match=wanted + r"vectors other \(encoder other \(weights 1{12}\) against words"
    ):
        finetune("unisrec", shop.path, run, from_=start, features="other")
    shop.write_features("wide", np.tile(vectors, 2), replace(info, width=32))
    with pytest.raises(StaleFeaturesError, match=wanted + r"vectors wide \(width 32 against 16\)"):
        finetune("unisrec", shop.path, run, from_=start, features="wide")
    # Among several, those of the same encoder are found.
    assert names_read("unisrec", "inductive", shop, open_start(start), None, None) == ("words", None)
    with pytest.raises(
        CheckpointMismatchError, match=f"{start} holds the model unisrec, and vqrec cannot start from it"
    ):
        finetune("vqrec", shop.path, run, from_=start)
    assert not run.exists()


@pytest.mark.parametrize(("model", "mode"), [("unisrec", "inductive"), ("vqrec", "reuse"), ("vqrec", "direct")])
def test_vectors_of_other_cleaning_or_limit_are_refused(
    model: str, mode: str, shops: list[PreparedDataset], pretrained: Callable[..., Path]
) -> None:
    """Also behind codes of the data's own, and where the model was trained on vectors of another name."""
    for shop in shops:
        shop.write_features(
            "words", np.array(shop.features("words")), replace(shop.feature_info("words"), max_tokens=64)
        )
    start, shop = open_start(pretrained(model)), shops[1]
    info = shop.feature_info("words")
    for changes, difference, mend in (
        (
            {"text_rules": "released"},
            "text rules released against default",
            f"Encode its texts as there: `linguarec encode {shop.path}",
        ),
        ({"max_tokens": 32}, "token limit 32 against 64", "--max-tokens 64 --overwrite`"),
    ):
        shop.write_features("words", np.array(shop.features("words")), replace(info, **changes))
        with pytest.raises(StaleFeaturesError, match=rf"\({difference}\).*{mend}"):
            names_read(model, mode, shop, start, None, None)
    shop.write_features("words", np.array(shop.features("words")), replace(info, encoder="/models/words"))
    found = names_read(model, mode, shop, start, None, None)
    assert found == (("words", None) if model == "unisrec" else (None, {"direct": "own"}.get(mode, shop.code_names[0])))


def test_a_code_book_that_does_not_fit_is_refused(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, run, shop = pretrained("vqrec"), tmp_path / "run", shops[1]
    vectors = np.array(shop.features("words"))
    narrow = CodeBook("pq", vectors[:8].reshape(8, 2, 8).transpose(1, 0, 2).copy(), None, None, "words", "0" * 64)
    ItemCodes(narrow.encode(vectors), narrow).save(shop.codes_path("narrow"))
    with pytest.raises(CheckpointMismatchError, match=rf"narrow of {shop.path} are 2 of 8 .*{start} reads 4 of 8"):
        finetune("vqrec", shop.path, run, from_=start, mode="direct", codes="narrow")
    own = ItemCodes.load(shop.codes_path("own")).book
    foreign = replace(own, encoder="other", encoder_fingerprint="1" * 64)
    ItemCodes(foreign.encode(vectors), foreign).save(shop.codes_path("foreign"))
    with pytest.raises(StaleFeaturesError, match=rf"{start} was trained on .*words.* foreign of {shop.path} .*other"):
        finetune("vqrec", shop.path, run, from_=start, mode="direct", codes="foreign")
    narrow.save(start / "code_book.npz")
    with pytest.raises(CheckpointMismatchError, match=r"has 2 books of 8 codes, but the model beside it 4 of 8"):
        finetune("vqrec", shop.path, run, from_=start, mode="direct", codes="own")


def test_asking_for_what_makes_no_sense_is_refused(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], tmp_path: Path
) -> None:
    start, run, data = pretrained("unisrec"), tmp_path / "run", shops[1].path
    with pytest.raises(SettingsError, match="--frozen encoder: there is nothing trained to fix"):
        finetune("unisrec", data, run, frozen="encoder")
    with pytest.raises(SettingsError, match=r"--mode direct is about pre-trained code embeddings; .* --from"):
        finetune("vqrec", data, run, mode="direct")
    with pytest.raises(SettingsError, match="--mode is 'reuse'; for unisrec it is one of inductive, transductive"):
        finetune("unisrec", data, run, mode="reuse", from_=start)
    with pytest.raises(SettingsError, match="--mode is 'inductive'; for vqrec it is one of reuse, permutation, direct"):
        finetune("vqrec", data, run, mode="inductive", from_=start)
    with pytest.raises(SettingsError, match="--permutation: this is not for unisrec; leave it out"):
        finetune("unisrec", data, run, permutation=PermutationSettings(epochs=9), from_=start)
    with pytest.raises(SettingsError, match=r"epochs is 0; .*--mode direct\)\n.*temperature is 0"):
        nothing = PermutationSettings(epochs=0, temperature=0)
        finetune("vqrec", data, run, mode="permutation", permutation=nothing, from_=start)
    with pytest.raises(SettingsError, match="--from and --output are both"):
        finetune("unisrec", data, start, from_=start)
    with pytest.raises(CheckpointMismatchError, match=f"{tmp_path}/nowhere holds no model"):
        finetune("unisrec", data, run, from_=tmp_path / "nowhere")
    finetune("sasrec", data, run, transformer=SMALL, training=settings(max_epochs=1))
    with pytest.raises(SettingsError, match="sasrec knows items by ID only"):
        finetune("sasrec", data, tmp_path / "again", from_=run)


def test_a_start_that_does_not_name_its_encoder_is_checked_by_width(
    shops: list[PreparedDataset], pretrained: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = pretrained("unisrec")
    (folder / "encoder.json").unlink()
    start = open_start(folder)
    assert names_read("unisrec", "inductive", shops[1], start, None, None) == ("words", None)
    assert (
        f"{folder} was trained on vectors of an unknown encoder; words of {shops[1].path} have their width"
        in caplog.text
    )
    vectors = np.array(shops[1].features("words"))
    shops[1].write_features("more", vectors, FeatureInfo("more", WIDTH, "cls", None, None, "default"))
    with pytest.raises(SettingsError, match="several item vectors that fit: more, words; choose one with --features"):
        names_read("unisrec", "inductive", shops[1], start, None, None)
    assert names_read("unisrec", "inductive", shops[1], start, "more", None) == ("more", None)
