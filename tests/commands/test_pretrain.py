"""The pre-training recipe: a model folder without catalogue, exact resuming after SIGKILL, several processes, bad input."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from prepared import catalogue_batch
from results import stored_result
from safetensors.torch import load_file

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.batching.pretraining import ViewSettings
from linguarec.cli import main
from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.commands.pretrain import pretrain
from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import FeatureInfo
from linguarec.data.splits import ROLE_OF_PART, EvaluationCases, draw_users, evaluation_cases, training_sequences
from linguarec.data.synthetic import TINY, WorldSize, generate_world, word_vectors
from linguarec.errors import DataFormatError, OutputError, SettingsError, StaleFeaturesError
from linguarec.evaluation.evaluate import evaluate_model
from linguarec.families.opening import open_model, open_start
from linguarec.families.unisrec.model import UniSRec, UniSRecConfig
from linguarec.nn.encoders import TransformerConfig
from linguarec.training.module import Stage
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.2, max_length=20)
WIDTH = 16
MakeFolders = Callable[[WorldSize, int, int], list[PreparedDataset]]


def settings(**changes: Any) -> TrainingSettings:
    quick: dict[str, Any] = {"learning_rate": 5e-3, "targets_per_step": 400, "max_epochs": 3, "accelerator": "cpu"}
    return TrainingSettings(**{**quick, **changes})


@pytest.fixture
def make_folders(make_dataset: Any) -> MakeFolders:
    """Domains of a synthetic world with vectors, two word-drop draws and the codes of one book."""

    def make(size: WorldSize, domains: int, width: int) -> list[PreparedDataset]:
        made: list[PreparedDataset] = []
        book = None
        for number, domain in enumerate(generate_world(seed=0, domains=domains, size=size)):
            texts = [item.text for item in domain.items]
            vectors = word_vectors(texts, width)
            sequences = [domain.sequences[user].tolist() for user in range(len(domain.sequences))]
            folder = make_dataset(sequences, texts=texts, features={"words": vectors}, name=f"domain{number}")
            for draw in range(2):
                dropped = word_vectors([" ".join(text.split()[draw::2]) for text in texts], width)
                np.save(folder.path / "features" / f"words.drop{draw}.npy", dropped)
            if book is None:
                centroids = vectors[:32].reshape(32, 4, width // 4).transpose(1, 0, 2).copy()
                book = CodeBook("pq", centroids, None, None, "words", "0" * 64)
            ItemCodes(book.encode(vectors), book, folder.texts_fingerprint).save(folder.codes_path("pq"))
            made.append(folder)
        return made

    return make


@pytest.fixture
def folders(make_folders: MakeFolders) -> list[PreparedDataset]:
    return make_folders(TINY, 3, WIDTH)


def paths(folders: list[PreparedDataset]) -> list[Path]:
    return [folder.path for folder in folders]


@torch.no_grad()
def contrast_accuracy(network: Any, items: ItemBatch, cases: EvaluationCases) -> float:
    """Share of the cases whose target scores highest among all targets; of k that tie there, each counts a k-th."""
    network.eval()
    inputs, keys = network.item_inputs(items), network.item_keys(items)
    candidates = sorted(set(cases.targets.tolist()))
    first = []
    for case, target in enumerate(cases.targets.tolist()):
        history = torch.from_numpy(cases.histories[case].astype(np.int64))
        alone, one = torch.zeros(1, dtype=torch.int64), torch.tensor([0, len(history)])
        no_targets = torch.full((len(history),), -1)
        batch = SequenceBatch(history, one, torch.arange(len(history)), no_targets, alone, alone)
        scores = dict(zip(candidates, (keys[candidates] @ network.queries(batch, inputs)[-1]).tolist(), strict=True))
        best = [item for item, score in scores.items() if score >= max(scores.values()) - 1e-6]
        first.append((target in best) / len(best))
    return float(np.mean(first))


@pytest.mark.parametrize("model", ["unisrec", "vqrec"])
def test_leaves_a_model_folder_chosen_by_the_held_out_domain(
    model: str, folders: list[PreparedDataset], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = pretrain(
        model,  # type: ignore[arg-type]
        paths(folders[:2]),
        run,
        transformer=SMALL,
        training=settings(precision="fp32"),
        valid=folders[2].path,
    )
    assert stored_result(run / "metrics.json") == result
    assert result["domains"].keys() == {"domain0", "domain1"}
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    best = max(float(row["valid ndcg@10"]) for row in rows)
    assert result["valid"]["ndcg@10"] == pytest.approx(best)
    assert (run / "plots" / "learning_curve.png").stat().st_size > 1000

    network, description = open_model(run)
    assert description.shape.num_items == 0
    if model == "vqrec":
        items = open_start(run).source.matching(folders[2], {"features": "words"}).catalogue()
    else:
        items = catalogue_batch(folders[2], "words", None)
    cases = evaluation_cases(folders[2].sequences, folders[2].roles("leave-one-out"), "valid", SMALL.max_length)
    zero_shot = evaluate_model(network, items, cases).mean("ndcg@10")
    assert zero_shot == pytest.approx(result["valid"]["ndcg@10"], abs=1e-6)
    assert contrast_accuracy(network, items, cases) == pytest.approx(result["valid"]["contrast accuracy"], abs=1e-6)
    encoder = FeatureInfo(**json.loads((run / "encoder.json").read_text()))
    assert (encoder.encoder, encoder.width, encoder.texts_fingerprint) == ("words", WIDTH, None)


def test_what_it_learns_helps_on_a_domain_it_never_saw(make_folders: MakeFolders, tmp_path: Path) -> None:
    world = make_folders(WorldSize(6, 20, 1, 600, 5, 12), 4, 64)
    encoder = replace(SMALL, hidden_size=32, inner_size=32, dropout=0.1)
    result = pretrain(
        "unisrec",
        paths(world[:3]),
        tmp_path / "run",
        transformer=encoder,
        training=settings(max_epochs=25, patience=25, targets_per_step=800),
        valid=world[3].path,
    )
    # A random ranking of its 120 items reaches 0.038; after the first epoch it is at 0.045.
    assert result["valid"]["ndcg@10"] > 0.08


def test_a_share_of_the_users_trains(folders: list[PreparedDataset], tmp_path: Path) -> None:
    result = pretrain(
        "unisrec", paths(folders[:2]), tmp_path / "run", transformer=SMALL, training=settings(max_epochs=1), users=0.5
    )
    for folder in folders[:2]:
        half = training_sequences(folder.sequences, folder.roles("leave-one-out")).select(
            draw_users(folder.num_users, 0.5, seed=0)
        )
        assert len(half) == folder.num_users // 2
        assert result["domains"][folder.name] == (half.lengths - 1).sum()
    with pytest.raises(SettingsError, match=r"users is 1\.5; it is a fraction of the users"):
        pretrain("unisrec", paths(folders), tmp_path / "other", users=1.5)


@pytest.mark.parametrize("protocol", ["kept", "excluded"])
def test_without_a_held_out_domain_the_training_domains_choose(
    protocol: Literal["kept", "excluded"], folders: list[PreparedDataset], tmp_path: Path
) -> None:
    run, training = tmp_path / "run", settings(precision="fp32", stop_by=protocol)
    result = pretrain("vqrec", paths(folders), run, transformer=SMALL, training=training)
    network, _ = open_model(run)
    found = []
    for folder in folders:
        cases = evaluation_cases(folder.sequences, folder.roles("leave-one-out"), "valid", SMALL.max_length)
        items, without = catalogue_batch(folder, None, "pq"), protocol == "excluded"
        found.append(evaluate_model(network, items, cases, exclude_history=without).mean("ndcg@10"))
    assert result["valid"]["ndcg@10"] == pytest.approx(np.mean(found), abs=1e-6)


@pytest.mark.parametrize(("model", "step"), [("unisrec", 4), ("vqrec", 9)])
def test_killed_at_any_step_it_goes_on_to_the_same_weights(
    model: Any, step: int, folders: list[PreparedDataset], tmp_path: Path, until_killed: Callable[..., None]
) -> None:
    training = settings(checkpoint_every_n_steps=1)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    pretrain(model, paths(folders), unbroken, transformer=SMALL, training=training)
    words = ("pretrain", model, *paths(folders), "-o", broken)
    until_killed(*words, where=f"batch.step == {step}", transformer=SMALL, training=training)
    pretrain(model, paths(folders), broken, transformer=SMALL, training=training, resume=True)
    expected, found = (load_file(run / "model.safetensors") for run in (unbroken, broken))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    curves = [
        [(row["epoch"], row["step"], row["loss"], row["valid ndcg@10"]) for row in csv.DictReader(file.open())]
        for file in (unbroken / "metrics.csv", broken / "metrics.csv")
    ]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("by_torchrun", [False, True])
def test_two_processes_take_the_steps_of_one(
    by_torchrun: bool, folders: list[PreparedDataset], tmp_path: Path, in_two_processes: Callable[..., dict[str, Any]]
) -> None:
    """VQ-Rec without dropout has no draws of its own; views and negatives are the same however many processes there are."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    groups = {"transformer": replace(SMALL, dropout=0.0), "training": settings(max_epochs=2, precision="fp32")}
    pretrain("vqrec", paths(folders), alone, **groups)
    words = ("pretrain", "vqrec", *paths(folders), "-o", together)
    found = in_two_processes(*words, by_torchrun=by_torchrun, **groups)
    assert found["epochs"] == 2
    expected, weights = (load_file(run / "model.safetensors") for run in (alone, together))
    torch.testing.assert_close(weights, expected, atol=1e-4, rtol=1e-4)
    # A finished run is shown again; no process waits for one that has nothing to do.
    assert in_two_processes(*words, "--resume", by_torchrun=by_torchrun, **groups) == found


SHARED_OUT = """
from torch.distributed.tensor import DTensor
trained = Stage.training_step

def shared_out(self, batch, batch_index):
    assert all(isinstance(parameter, DTensor) for parameter in self.model.parameters())
    assert sum(parameter.to_local().numel() for parameter in self.model.parameters()) < 0.6 * sum(
        parameter.numel() for parameter in self.model.parameters()
    )
    return trained(self, batch, batch_index)

Stage.training_step = shared_out
"""


@pytest.mark.parametrize("by_torchrun", [False, True])
def test_processes_that_share_the_weights_out_take_the_steps_of_one(
    by_torchrun: bool, folders: list[PreparedDataset], tmp_path: Path, in_two_processes: Callable[..., dict[str, Any]]
) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    groups = {"transformer": replace(SMALL, dropout=0.0), "training": settings(max_epochs=2, precision="fp32")}
    expected = pretrain("vqrec", paths(folders), alone, **groups)
    groups["training"] = replace(groups["training"], strategy="fsdp")
    words = ("pretrain", "vqrec", *paths(folders), "-o", together)
    found = in_two_processes(*words, by_torchrun=by_torchrun, patch=SHARED_OUT, **groups)
    assert found["valid"] == pytest.approx(expected["valid"], abs=1e-3)
    before, after = (load_file(run / "model.safetensors") for run in (alone, together))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


# Both would differ with the number of processes, which draw their own: Adam's steps where gradients are near zero, gate noise.
PLAIN_STEP = """
torch.randn_like = torch.cos
Stage.configure_optimizers = lambda self: torch.optim.SGD(self.model.parameters(), lr=1.0)
"""


def test_two_processes_take_the_very_step_of_one(
    folders: list[PreparedDataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_two_processes: Callable[..., Any],
) -> None:
    """UniSRec in training mode, whole command: one step of plain gradient descent, which is the gradient itself."""
    steps = sum((training_sequences(f.sequences, f.roles()).lengths - 1).sum() for f in folders)
    one_step = settings(max_epochs=1, precision="fp32", targets_per_step=int(steps))
    groups = {"model": UniSRecConfig(adaptor_dropout=0.0, sequence_contrast=0.5), "training": one_step}
    groups["transformer"] = replace(SMALL, dropout=0.0)
    alone, together, before = tmp_path / "alone", tmp_path / "together", tmp_path / "before"
    words = ("pretrain", "unisrec", *paths(folders), "-o", together)
    assert in_two_processes(*words, patch=PLAIN_STEP, **groups)["epochs"] == 1
    given = {"config": groups.pop("model"), **groups}
    monkeypatch.setattr(torch, "randn_like", torch.cos)
    for run, rate in ((before, 0.0), (alone, 1.0)):
        monkeypatch.setattr(
            Stage, "configure_optimizers", lambda self, lr=rate: torch.optim.SGD(self.model.parameters(), lr=lr)
        )
        pretrain("unisrec", paths(folders), run, **given)
    start, expected, found = (load_file(run / "model.safetensors") for run in (before, alone, together))
    for name in expected:
        assert not torch.equal(expected[name], start[name]), name
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with (alone / "metrics.csv").open() as one, (together / "metrics.csv").open() as two:
        losses = [float(next(csv.DictReader(file))["loss"]) for file in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_process_that_is_killed_ends_them_all_and_they_go_on_to_the_same_weights(
    strategy: str, folders: list[PreparedDataset], tmp_path: Path, in_two_processes: Callable[..., Any]
) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    training = settings(max_epochs=2, checkpoint_every_n_steps=1, strategy=strategy)
    groups = {"transformer": SMALL, "training": training}
    words = ("pretrain", "unisrec", *paths(folders), "-o")
    expected = in_two_processes(*words, unbroken, **groups)
    in_two_processes(*words, broken, killed_where="batch.step == 3 and self.global_rank == 1", **groups)
    assert not (broken / "metrics.csv").exists()  # in the middle of the first epoch
    assert torch.load(broken / "checkpoints" / "last.ckpt", weights_only=False)["global_step"] in (2, 3)
    found = in_two_processes(*words, broken, "--resume", **groups)
    assert found["valid"] == expected["valid"]
    weights = [load_file(run / "model.safetensors") for run in (unbroken, broken)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_file_of_the_run_repeats_it(folders: list[PreparedDataset], tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    pretrain(
        "unisrec",
        paths(folders[:2]),
        first,
        UniSRecConfig(experts=2),
        transformer=SMALL,
        training=settings(max_epochs=1, averaging=2),
        augmentation=ViewSettings(item_drop=0.3),
        valid=folders[2].path,
        mixing=0.5,
        domains_per_step="one",
        users=0.7,
        seed=3,
    )
    words = [
        "pretrain",
        "unisrec",
        *map(str, paths(folders[:2])),
        "-o",
        str(again),
        "--config",
        str(first / "run.yaml"),
    ]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    written = [json.loads((run / "settings.json").read_text()) for run in (first, again)]
    assert written[0] == written[1]
    expected, found = (load_file(run / "model.safetensors") for run in (first, again))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_validation_reads_vectors_a_chunk_at_a_time(
    folders: list[PreparedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pretrain(
        "unisrec", paths(folders), tmp_path / "whole", transformer=SMALL, training=settings(max_epochs=1)
    )
    sizes: list[int] = []
    encode = UniSRec.item_keys

    def counting(self: UniSRec, items: ItemBatch) -> torch.Tensor:
        sizes.append(len(items))
        return encode(self, items)

    def whole(self: PreparedDataset, name: str) -> None:
        raise AssertionError(f"all vectors {name} of {self.path} are loaded")

    monkeypatch.setattr(UniSRec, "item_keys", counting)
    monkeypatch.setattr(PreparedDataset, "load_features", whole)
    monkeypatch.setattr("linguarec.sources.source.ITEMS_PER_CHUNK", 20)
    found = pretrain("unisrec", paths(folders), tmp_path / "parts", transformer=SMALL, training=settings(max_epochs=1))
    assert sizes == [20, 20, 8] * 3
    assert found["valid"] == pytest.approx(expected["valid"], abs=1e-3)  # in bfloat16 where the device has it


def test_without_sequence_contrast_no_word_drop_draws_are_asked_for(
    folders: list[PreparedDataset], tmp_path: Path
) -> None:
    for file in (folders[0].path / "features").glob("*.drop*.npy"):
        file.unlink()
    one = settings(max_epochs=1)
    (encoder,) = folders[0].feature_names
    command = f"`linguarec encode {folders[0].path} --encoder {encoder} --word-drop-draws 2 --overwrite`"
    with pytest.raises(SettingsError, match=re.escape(command)):
        pretrain("unisrec", [folders[0].path], tmp_path / "run", transformer=SMALL, training=one)
    config = UniSRecConfig(sequence_contrast=0.0)
    assert (
        pretrain("unisrec", [folders[0].path], tmp_path / "run", config, transformer=SMALL, training=one)["epochs"] == 1
    )


def test_folders_without_a_valid_target_do_not_choose(
    folders: list[PreparedDataset], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = folders[:2]
    training_only = np.full(two.num_interactions, ROLE_OF_PART["train"], dtype=np.int8)
    np.save(two.path / "splits" / "leave-one-out.npy", training_only)
    both = tmp_path / "both"
    with caplog.at_level("WARNING"):
        pretrain("unisrec", [one.path, two.path], both, transformer=SMALL, training=settings(max_epochs=1))
    said = [record.getMessage() for record in caplog.records if "no valid target" in record.getMessage()]
    assert said == [
        f"{two.path}: split 'leave-one-out' has no valid target there; the best weights are chosen by the other folders alone"
    ]
    run = tmp_path / "run"
    with pytest.raises(DataFormatError, match=rf"{two.path}: .* no valid target .*; name a domain .* with --valid\."):
        pretrain("unisrec", [two.path], run, transformer=SMALL)
    with pytest.raises(
        DataFormatError, match=rf"{two.path}: .*; name another domain with --valid, or leave --valid out"
    ):
        pretrain("unisrec", [one.path], run, transformer=SMALL, valid=two.path)
    assert not run.exists()


def test_settings_and_folders_that_cannot_work_are_refused(
    folders: list[PreparedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with pytest.raises(SettingsError) as error:
        pretrain("unisrec", [], run, mixing=-1, domains_per_step="two")  # type: ignore[arg-type]
    assert "data is empty" in str(error.value) and "mixing is -1" in str(error.value)
    assert "domains_per_step is 'two'; expected all or one" in str(error.value)
    with pytest.raises(SettingsError, match=r"augmentation.item_drop is 2; it must be in \[0, 1\]"):
        pretrain("unisrec", [], run, augmentation=ViewSettings(item_drop=2))
    with pytest.raises(SettingsError, match=r"named twice: .*domain0"):
        pretrain("unisrec", [folders[0].path, folders[0].path], run)
    with pytest.raises(SettingsError, match=r"takes 250000 targets, and all folders together have [0-9]+:"):
        pretrain("unisrec", paths(folders), run, training=settings(targets_per_step=10**6, accumulate=4))
    with pytest.raises(
        SettingsError, match=r"named twice: .*domain0\n--valid domain1 is one of the folders that train"
    ):
        monkeypatch.chdir(tmp_path)
        pretrain("unisrec", [*paths(folders), Path("domain0")], run, valid=Path("domain1"))
    assert not run.exists()
    run.mkdir()
    (run / "precious").touch()
    with pytest.raises(OutputError, match="--overwrite"):
        pretrain("unisrec", paths(folders), run, transformer=SMALL, training=settings())


def test_folders_that_do_not_go_together_are_refused(folders: list[PreparedDataset], tmp_path: Path) -> None:
    run = tmp_path / "run"
    one, two = folders[:2]
    book = ItemCodes.load(one.codes_path("pq")).book
    apart = replace(book, centroids=book.centroids + 1)
    ItemCodes(apart.encode(two.features("words")), apart, two.texts_fingerprint).save(two.codes_path("pq"))
    with pytest.raises(
        StaleFeaturesError, match=r"domain1 are of .*domain0 of .*codebooks were fitted separately.*quantize"
    ):
        pretrain("vqrec", [one.path, two.path], run)
    two.write_features("words", two.features("words"), replace(two.feature_info("words"), pooling="cls"))
    with pytest.raises(StaleFeaturesError, match=r"domain1 and of .*domain0 differ in pooling cls against mean"):
        pretrain("unisrec", [one.path, two.path], run)
    (two.path / "features" / "words.json").unlink()
    with pytest.raises(SettingsError, match=r"domain1 has none; make them with `linguarec encode"):
        pretrain("unisrec", [one.path, two.path], run)
    assert not run.exists()


def test_how_to_fit_one_code_book_is_told_in_whole(folders: list[PreparedDataset], tmp_path: Path) -> None:
    one, two = folders[:2]
    book = ItemCodes.load(one.codes_path("pq")).book
    apart = replace(book, centroids=book.centroids + 1)
    ItemCodes(apart.encode(two.features("words")), apart, two.texts_fingerprint).save(two.codes_path("pq"))
    with pytest.raises(StaleFeaturesError) as caught:
        pretrain("vqrec", [one.path, two.path], tmp_path / "run")
    kind = "CodeBook(pq, 4 x 32, 16 dimensions of words)"
    assert str(caught.value) == (
        f"The codes pq of {two.path} are of {kind}, those of {one.path} of {kind} with other contents: the "
        "codebooks were fitted separately. Fit one for all folders: "
        f"`linguarec quantize {one.path} {two.path} --features words --subvectors 4 --centroids 32 --name pq --overwrite`."
    )


def test_validation_reads_the_codes_that_are_trained_on(folders: list[PreparedDataset], tmp_path: Path) -> None:
    """Codes need not be those of the vectors (import-codes takes some from the nearest text), and vectors need not be there."""
    run = tmp_path / "run"
    for folder in folders:
        stored = ItemCodes.load(folder.codes_path("pq"))
        ItemCodes(stored.codes[::-1].copy(), stored.book, folder.texts_fingerprint).save(folder.codes_path("pq"))
        folder.feature_path("words").with_suffix(".json").unlink()
    training = settings(max_epochs=1, precision="fp32")
    result = pretrain("vqrec", paths(folders[:1]), run, transformer=SMALL, training=training)
    held = pretrain(
        "vqrec", paths(folders[:1]), tmp_path / "held", transformer=SMALL, training=training, valid=folders[1].path
    )
    for found, folder, path in ((result, folders[0], run), (held, folders[1], tmp_path / "held")):
        network, _ = open_model(path)
        cases = evaluation_cases(folder.sequences, folder.roles("leave-one-out"), "valid", SMALL.max_length)
        expected = evaluate_model(network, catalogue_batch(folder, None, "pq"), cases).mean("ndcg@10")
        assert found["valid"]["ndcg@10"] == pytest.approx(expected, abs=1e-6)


def test_an_empty_domain_is_refused(folders: list[PreparedDataset], make_dataset: Any, tmp_path: Path) -> None:
    vectors = np.zeros((3, WIDTH), dtype=np.float32)
    lonely = make_dataset([[0, 1, 2], [2, 1, 0]], features={"words": vectors}, name="lonely")
    with pytest.raises(DataFormatError, match="lonely: split 'leave-one-out' leaves no user with two training items"):
        pretrain("unisrec", [folders[0].path, lonely.path], tmp_path / "run")
