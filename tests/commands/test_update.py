"""A run updated from newer data of its shop: what is solved or trained on what, what it is judged by, when it is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import linguarec
from linguarec.cli import main
from linguarec.commands import finetune as finetuning
from linguarec.commands.blend import blend
from linguarec.commands.finetune import finetune
from linguarec.commands.update import update
from linguarec.data.dataset import PreparedDataset
from linguarec.data.ragged import Ragged
from linguarec.data.splits import TEST, TRAIN, VALID, EvaluationCases, evaluation_cases
from linguarec.data.synthetic import LAUNCH, TINY, generate_world, word_vectors
from linguarec.errors import CheckpointMismatchError, DataFormatError, LinguarecError, SettingsError, WorseModelError
from linguarec.evaluation.intervals import paired_difference
from linguarec.families import FAMILIES
from linguarec.families.softmax import SoftmaxSettings
from linguarec.nn.encoders import TransformerConfig
from linguarec.recommender import Recommender
from linguarec.run_items import items_of_run, rank_on_newer_data
from linguarec.runs.updating import trained_until
from linguarec.training.settings import TrainingSettings

CLOSED = [name for name, family in FAMILIES.items() if family.closed_form]
SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.2, max_length=20)
QUICK = TrainingSettings(learning_rate=5e-3, targets_per_step=200, max_epochs=4, accelerator="cpu")
WIDTH = 32
Shop = tuple[PreparedDataset, PreparedDataset]


@pytest.fixture
def shop_of(make_dataset: Any) -> Callable[..., PreparedDataset]:
    """Part of the first shop of the tiny world: its interactions before a time, its items in the order `rows`."""
    domain = generate_world(seed=0, domains=1, size=TINY)[0]

    def make(name: str, rows: Any, before: int | None = None, times: bool = True) -> PreparedDataset:
        rows = np.asarray(rows)
        place = np.full(len(domain.items), -1)
        place[rows] = np.arange(len(rows))
        kept = place[domain.sequences.values] >= 0
        if before is not None:
            kept &= domain.timestamps < before
        users = np.repeat(np.arange(len(domain.sequences)), domain.sequences.lengths)[kept]
        items = place[domain.sequences.values[kept]]
        sequences = [items[users == user].tolist() for user in np.unique(users)]
        texts = [domain.items[row].text for row in rows]
        raw_ids = [domain.items[row].raw_id for row in rows]
        vectors = {"words": word_vectors(texts, WIDTH)}
        shop: PreparedDataset = make_dataset(sequences, texts, features=vectors, name=name, raw_ids=raw_ids)
        if times:
            np.save(shop.path / "sequences" / "timestamps.npy", domain.timestamps[kept])
        return shop

    return make


@pytest.fixture
def shop(shop_of: Callable[..., PreparedDataset]) -> Shop:
    """A shop before new items were launched, and after: all items, in another order, and all interactions."""
    domain = generate_world(seed=0, domains=1, size=TINY)[0]
    new = np.isin(np.arange(len(domain.items)), domain.new_items)
    order = np.random.default_rng(0).permutation(len(domain.items))
    return shop_of("before", np.flatnonzero(~new), LAUNCH), shop_of("after", order)


def new_ids(shop: Shop) -> list[str]:
    before, after = shop
    return [raw_id for raw_id in after.raw_item_ids if raw_id not in before.item_row]


def trained(name: str, dataset: PreparedDataset, run: Path, **arguments: Any) -> Path:
    closed = FAMILIES[name].closed_form
    config = replace(FAMILIES[name].config(), decay=0.9) if closed else None
    options = {"defaults": "fixed"} if closed else {"transformer": SMALL, "training": QUICK}
    finetune(name, dataset.path, run, config, **options, **arguments)
    return run


def content_of(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in run.iterdir() if file.suffix in (".npy", ".safetensors")}


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_form_is_solved_anew_with_the_settings_of_the_run(name: str, shop: Shop, tmp_path: Path) -> None:
    before, after = shop
    run = trained(name, before, tmp_path / "run")
    found = update(run, after.path, tmp_path / "new")
    assert (found.items_, found.new_items, found.gone_items) == (len(after.raw_item_ids), len(new_ids(shop)), 0)
    assert found.how == "solved anew" and found.refitted
    # The final model is what a training on all of the data with the settings of the run gives.
    expected = trained(name, after, tmp_path / "expected")
    assert content_of(tmp_path / "new") == content_of(expected)
    assert json.loads((tmp_path / "new" / "config.json").read_text())["config"]["decay"] == 0.9
    assert (tmp_path / "new" / "repeats.json").read_bytes() == (expected / "repeats.json").read_bytes()
    # New items are ranked, and read in histories.
    recommender = linguarec.load_model(tmp_path / "new")
    [best] = recommender.recommend([[*before.raw_item_ids[:2], new_ids(shop)[0]]], k=3, within=new_ids(shop)[1:])
    assert len(best) == 3 and all(np.isfinite(one.score) for one in best)
    assert json.loads((tmp_path / "new" / "evaluation" / "update.json").read_text())["judged"] == found.judged
    assert not (tmp_path / ".new.judged").exists()


def test_nothing_of_the_judged_targets_was_trained_on(shop: Shop, tmp_path: Path) -> None:
    before, after = shop
    run = trained("itemknn", before, tmp_path / "run")
    found = update(run, after.path, tmp_path / "new", refit=False)
    judged, roles, times = found.judged, after.roles(found.judged["split"]), after.timestamps
    assert times is not None and before.timestamps is not None
    last = before.timestamps.max()
    assert found.interactions == np.count_nonzero(times > last)
    assert last < times[roles == TEST].min()
    assert (
        times[roles == TRAIN].max()
        < times[roles == VALID].min()
        <= times[roles == VALID].max()
        < times[roles == TEST].min()
    )
    assert np.count_nonzero(roles == TEST) == pytest.approx(min(found.interactions / 3, len(times) / 10), rel=0.1)
    # The judged model is kept as it is: it counted the training part of that split alone.
    expected = trained("itemknn", after, tmp_path / "expected", split=judged["split"])
    assert content_of(tmp_path / "new") == content_of(expected)
    assert json.loads((tmp_path / "new" / "settings.json").read_text())["split"] == judged["split"]
    # Its figures are those of its run, and the interval is paired by user.
    cases = evaluation_cases(after.sequences, roles, "test")
    results = [rank_on_newer_data(Recommender.load(each), after, cases) for each in (run, tmp_path / "new")]
    old, new = (each["learned"].per_user((10,))["ndcg@10"] for each in results)
    assert judged["old"]["learned"]["ndcg@10"] == pytest.approx(old.mean())
    assert judged["difference"]["difference"] == pytest.approx(new.mean() - old.mean())
    assert judged["difference"]["low"] == paired_difference(new, old).low
    metrics = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert judged["new"]["excluded"] == pytest.approx(metrics["test_excluded"])
    assert new.mean() > old.mean()  # it knows the new items


def test_rows_of_items_do_not_matter(shop: Shop, shop_of: Callable[..., PreparedDataset], tmp_path: Path) -> None:
    before, after = shop
    other = shop_of("other", np.arange(len(after.raw_item_ids)))
    assert other.raw_item_ids != after.raw_item_ids
    run = trained("ease", before, tmp_path / "run")
    found = [update(run, data.path, tmp_path / f"new-{data.name}").judged for data in (after, other)]
    for system in ("old", "new"):
        for protocol in ("kept", "excluded"):
            assert found[0][system][protocol] == pytest.approx(found[1][system][protocol])


def test_a_model_that_reads_text_is_trained_on_from_the_run(shop: Shop, tmp_path: Path) -> None:
    before, after = shop
    run = trained("sasrec-text", before, tmp_path / "run")
    found = update(run, after.path, tmp_path / "new", epochs=2)
    assert found.how == "trained on from the run" and found.epochs == 2
    settings = json.loads((tmp_path / "new" / "settings.json").read_text())
    assert settings["split"] == "leave-one-out" and settings["training"] == {**vars(QUICK), "max_epochs": 2}
    assert settings["from"]["model"] == "sasrec-text" and settings["from"]["frozen"] == "none"
    assert settings["encoder"]["hidden_size"] == 16
    # The old run reads the new items by their text.
    zero = items_of_run(run, after, True, {}, linguarec.load_model(run).scorer.device)
    cases = evaluation_cases(after.sequences, after.roles(found.judged["split"]), "test")
    assert found.new_items == len(new_ids(shop)) == 4
    assert found.judged["old"]["kept"] == pytest.approx(zero.rank(cases)["kept"].means())
    [best] = linguarec.load_model(tmp_path / "new").recommend([[new_ids(shop)[0]]], k=5)
    assert len(best) == 5


def test_ids_are_trained_anew_with_the_encoder_of_the_run(shop: Shop, tmp_path: Path) -> None:
    before, after = shop
    run = trained("sasrec", before, tmp_path / "run")
    found = update(run, after.path, tmp_path / "new", epochs=1, refit=False, accept_worse=True)
    assert found.how == "trained anew, because nothing that it learned carries over" and not found.refitted
    settings = json.loads((tmp_path / "new" / "settings.json").read_text())
    assert settings["from"] is None and settings["encoder"]["hidden_size"] == 16


def test_a_worse_model_is_refused_and_taken_only_on_request(
    make_dataset: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = np.random.default_rng(0).integers(0, 30, size=80)  # every item is followed by the next one
    shops = []
    for name, length in (("before", 6), ("after", 9)):
        shop = make_dataset([((start + np.arange(length)) % 30).tolist() for start in starts], num_items=30, name=name)
        np.save(shop.path / "sequences" / "timestamps.npy", np.tile(1_000 * np.arange(length), 80) + 5)
        shops.append(shop)
    before, after = shops
    run, new = tmp_path / "run", tmp_path / "new"
    finetune("sasrec", before.path, run, transformer=SMALL, training=replace(QUICK, learning_rate=0.02, max_epochs=15))
    spoilt = TrainingSettings(learning_rate=1.0, max_epochs=1)
    with pytest.raises(WorseModelError, match=r"new is not written: the new model is significantly worse") as refused:
        update(run, after.path, new, training=spoilt)
    assert refused.value.judged["difference"]["high"] < 0
    assert not new.exists() and (tmp_path / ".new.judged").exists()
    weights = (tmp_path / ".new.judged" / "model.safetensors").stat().st_mtime_ns
    flags = ["--training.learning_rate", "1", "--training.max_epochs", "1", "--resume"]
    with pytest.raises(SystemExit) as ended:
        main(["update", str(run), str(after.path), "-o", str(new), *flags])
    assert ended.value.code == 2 and "significantly worse" in capsys.readouterr().err
    assert (tmp_path / ".new.judged" / "model.safetensors").stat().st_mtime_ns == weights  # it was not trained again
    with pytest.raises(SystemExit) as ended:
        main(["update", str(run), str(after.path), "-o", str(new), *flags, "--accept-worse", "--no-refit", "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["verdict"] == "worse" and found["judged"] == refused.value.judged
    assert len(linguarec.load_model(new).catalogue) == len(after.raw_item_ids)
    assert not (tmp_path / ".new.judged").exists()


def test_an_update_that_was_ended_goes_on(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = shop
    run, new = trained("ease", before, tmp_path / "run"), tmp_path / "new"
    complete = finetuning.complete_run

    def ended(request: Any, *arguments: Any) -> Any:
        if request.split == "leave-one-out":
            raise KeyboardInterrupt
        return complete(request, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(finetuning, "complete_run", ended)
        update(run, after.path, new)
    judged = tmp_path / ".new.judged" / "model.safetensors"
    made = judged.stat().st_mtime_ns
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(finetuning, "complete_run", ended)
        update(run, after.path, new, resume=True)
    assert judged.stat().st_mtime_ns == made
    found = update(run, after.path, new, resume=True)
    assert content_of(new) == content_of(trained("ease", after, tmp_path / "expected"))
    again = update(run, after.path, new, resume=True)
    assert again.to_dict() == found.to_dict()  # nothing is left to do
    with pytest.raises(SettingsError, match="was updated with refitted True, now it is False"):
        update(run, after.path, new, resume=True, refit=False)
    with pytest.raises(LinguarecError, match="exists already"):
        update(run, after.path, new)
    replaced = update(run, after.path, new, refit=False, overwrite=True)
    assert json.loads((new / "settings.json").read_text())["split"] == replaced.judged["split"]


def test_data_of_another_shop_are_refused(shop: Shop, make_dataset: Any, tmp_path: Path) -> None:
    before, _ = shop
    run = trained("ease", before, tmp_path / "run")
    other = make_dataset([[0, 1, 2, 3]] * 5, texts=[f"thing {row}" for row in range(60)], name="other")
    with pytest.raises(SettingsError, match=r"other is not of the shop of .*run: 0 of its 60 items are among the"):
        update(run, other.path, tmp_path / "new")
    same_ids = make_dataset(
        [[0, 1, 2, 3]] * 5,
        texts=[f"thing {row}" for row in range(len(before.raw_item_ids))],
        raw_ids=before.raw_item_ids,
        name="same-ids",
    )
    with pytest.raises(SettingsError, match=r"items with the same raw id, 0 have the same text"):
        update(run, same_ids.path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_judged_is_refused(shop: Shop, shop_of: Callable[..., PreparedDataset], tmp_path: Path) -> None:
    before, after = shop
    run, new = trained("ease", before, tmp_path / "run"), tmp_path / "new"
    with pytest.raises(DataFormatError, match="before holds nothing new: its last interaction is of"):
        update(run, before.path, new)
    without = shop_of("without", np.arange(len(after.raw_item_ids)), times=False)
    with pytest.raises(DataFormatError, match="without has no times of its interactions, only their order"):
        update(run, without.path, new)
    with pytest.raises(SettingsError, match="is the run to update"):
        update(run, after.path, run)
    with pytest.raises(SettingsError, match="--epochs is 0"):
        update(run, after.path, new, epochs=0)
    with pytest.raises(SettingsError, match="update trains and judges in one process"):
        update(run, after.path, new, training=TrainingSettings(devices=2))
    with pytest.raises(SettingsError, match="--since 'yesterday' is no time"):
        update(run, after.path, new, since="yesterday")
    both = tmp_path / "blend"
    blend([run, trained("itemknn", before, tmp_path / "knn")], both)
    with pytest.raises(SettingsError, match="is a blend of ease, itemknn; update the runs that it was made of"):
        update(both, after.path, new)
    settings = json.loads((run / "settings.json").read_text())
    (run / "settings.json").write_text(json.dumps({**settings, "command": "pretrain"}))
    with pytest.raises(CheckpointMismatchError, match="was not fine-tuned on a shop"):
        update(run, after.path, new)
    assert not new.exists()


def test_a_run_that_does_not_say_up_to_when_it_was_trained(shop: Shop, tmp_path: Path) -> None:
    """Runs of earlier versions: by their data where these are there, else the user says it."""
    before, after = shop
    assert before.timestamps is not None
    run = trained("ease", before, tmp_path / "run")
    settings = json.loads((run / "settings.json").read_text())
    assert settings.pop("data_until") == before.timestamps.max()
    (run / "settings.json").write_text(json.dumps(settings))
    (run / "files.json").unlink()
    expected = update(run, after.path, tmp_path / "by-data").interactions
    (run / "settings.json").write_text(json.dumps({**settings, "data": "./gone"}))
    with pytest.raises(SettingsError, match="does not record up to which time it was trained"):
        update(run, after.path, tmp_path / "new")
    told = update(run, after.path, tmp_path / "told", since=str(before.timestamps.max()))
    assert told.interactions == expected
    assert (
        update(run, after.path, tmp_path / "date", since="2023-11-14T22:13:19").interactions == expected
    )  # LAUNCH - 1


def test_items_that_a_model_by_id_does_not_know_stand_behind_all_others(make_dataset: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    small = make_dataset([rng.permutation(6)[:5].tolist() for _ in range(30)], num_items=6, name="small")
    large = make_dataset([[0, 1, 2]] * 3, num_items=8, raw_ids=["i7", *(f"i{row}" for row in range(7))], name="large")
    recommender = Recommender.load(trained("itemknn", small, tmp_path / "run"))
    # Rows 0 and 7 of the large folder are new; row r is item r - 1 of the small one.
    histories = Ragged.from_lists([[1, 0, 2], [1, 2], [7, 0], [3, 7]])
    cases = EvaluationCases(histories, np.array([3, 0, 1, 3], np.int32), np.arange(4))
    found = rank_on_newer_data(recommender, large, cases)
    known = EvaluationCases(Ragged.from_lists([[0, 1], [2]]), np.array([2, 2], np.int32), np.arange(2))
    own = items_of_run(tmp_path / "run", small, False, {}, recommender.scorer.device).rank(known)
    for protocol in ("kept", "excluded", "learned"):
        greater, ties = found[protocol].ranks.greater, found[protocol].ranks.ties
        assert (greater[[0, 3]].tolist(), ties[[0, 3]].tolist()) == (
            own[protocol].ranks.greater.tolist(),
            own[protocol].ranks.ties.tolist(),
        )
    # The target is new: it ties with the other new item behind the known ones, of which `excluded` bars two.
    assert (found["kept"].ranks.greater[1], found["kept"].ranks.ties[1]) == (6, 2)
    assert (found["excluded"].ranks.greater[1], found["excluded"].ranks.ties[1]) == (4, 2)
    # Nothing of the history is known: all items tie, without the two of the history where these are barred.
    assert (found["kept"].ranks.greater[2], found["kept"].ranks.ties[2]) == (0, 8)
    assert (found["excluded"].ranks.greater[2], found["excluded"].ranks.ties[2]) == (0, 6)


def test_a_time_before_the_end_of_what_was_trained_on_is_refused(shop: Shop, tmp_path: Path) -> None:
    before, after = shop
    assert before.timestamps is not None
    run = trained("itemknn", before, tmp_path / "run")
    early = str(int(before.timestamps.max()) - 1)
    with pytest.raises(SettingsError, match=rf"--since {early} .* it would be judged on what it was trained on"):
        update(run, after.path, tmp_path / "new", since=early)
    settings = json.loads((run / "settings.json").read_text())
    assert trained_until(run, settings, "2023-11-14") == LAUNCH // 86_400 * 86_400 + 86_399  # a date is its last second


def test_what_stands_in_the_way_is_not_replaced_by_resuming(shop: Shop, tmp_path: Path) -> None:
    before, after = shop
    run, other = trained("itemknn", before, tmp_path / "run"), trained("ease", before, tmp_path / "other")
    content = content_of(other)
    for refit in (True, False):
        with pytest.raises(LinguarecError):
            update(run, after.path, other, resume=True, refit=refit)
        assert content_of(other) == content


def test_a_model_trained_over_samples_is_updated_over_samples(shop: Shop, tmp_path: Path) -> None:
    before, after = shop
    sampled = {"softmax": SoftmaxSettings(kind="sampled", negatives=16)}
    run = tmp_path / "run"
    finetune("sasrec-text", before.path, run, features="words", transformer=SMALL, training=QUICK, **sampled)
    found = update(run, after.path, tmp_path / "new", epochs=1, refit=False, accept_worse=True)
    settings = json.loads((tmp_path / "new" / "settings.json").read_text())
    assert settings["softmax"]["kind"] == "sampled" and found.how == "trained on from the run"


def test_a_handful_of_users_refuses_no_model(make_dataset: Any, tmp_path: Path) -> None:
    shops = []
    for name, length in (("before", 6), ("after", 9)):
        shop = make_dataset(
            [((start + np.arange(length)) % 30).tolist() for start in range(20)], num_items=30, name=name
        )
        np.save(shop.path / "sequences" / "timestamps.npy", np.tile(1_000 * np.arange(length), 20) + 5)
        shops.append(shop)
    run = trained("itemknn", shops[0], tmp_path / "run")
    found = update(run, shops[1].path, tmp_path / "new")
    assert found.judged["users"] == 20 and found.verdict == "too few"
    assert "not judged, for want of users" in str(found)
