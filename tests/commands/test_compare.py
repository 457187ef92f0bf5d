import json
from dataclasses import replace

import numpy as np
import pytest
from results import stored_result

from linguarec.commands.compare import compare
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.commands.quantize import quantize
from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import TEST, TRAIN, evaluation_cases, global_temporal, held_out_items
from linguarec.errors import DataFormatError, SettingsError
from linguarec.families import FAMILIES
from linguarec.families.ease.model import EASEConfig
from linguarec.families.recguru.alignment import AlignmentSettings
from linguarec.nn.encoders import TransformerConfig
from linguarec.training.settings import TrainingSettings

NUM_ITEMS = 30
SMALL = TransformerConfig(hidden_size=16, layers=1, heads=2, inner_size=16, max_length=8)
SHORT = TrainingSettings(max_epochs=2, targets_per_step=200, learning_rate=0.01, precision="fp32", accelerator="cpu")


@pytest.fixture
def dataset(make_dataset):
    """Every item is followed by the next one: something to learn."""
    rng = np.random.default_rng(0)
    sequences = [
        ((start + np.arange(rng.integers(4, 9))) % NUM_ITEMS).tolist() for start in rng.integers(0, 30, size=80)
    ]
    return make_dataset(
        sequences, num_items=NUM_ITEMS, features={"enc": rng.standard_normal((NUM_ITEMS, 8)).astype("f")}
    )


@pytest.mark.slow
def test_trains_compares_and_reports(dataset, tmp_path, capsys):
    output = tmp_path / "comparison"
    found = compare(dataset.path, ["sasrec", "sasrec-text"], output, seeds=2, transformer=SMALL, training=SHORT)
    assert set(found["systems"]) >= {"chance", "popularity", "ease", "sasrec", "sasrec-text"}
    assert set(found["excluded"]) == set(found["learned"]) == set(found["systems"])
    assert found["baseline"] in {"popularity", *(set(found["systems"]) - {"chance", "sasrec", "sasrec-text"})}
    assert set(found["differences"]["learned"]) == set(found["systems"]) - {"chance", found["baseline"]}
    assert len(found["systems"]["sasrec"]["ndcg@10"]["seeds"]) == 2
    assert found["systems"]["chance"]["recall@10"]["median"] == pytest.approx(10 / NUM_ITEMS)
    for model in ("sasrec", "sasrec-text"):  # what the training measured at its end is what is compared
        for run, value in zip(found["runs"][model], found["systems"][model]["ndcg@10"]["seeds"], strict=True):
            metrics = json.loads((output / run / "metrics.json").read_text())
            assert value == pytest.approx(metrics["test"]["ndcg@10"], abs=1e-9)
    lengths = [part for part in found["slices"] if part["group"] == "history length"]
    assert sum(part["cases"] for part in lengths) == sum(part["users"] for part in lengths) == 80
    assert stored_result(output / "comparison.json") == json.loads(json.dumps(found.to_dict()))
    page = (output / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 3
    assert "linguarec finetune sasrec-text" in page
    assert "median of 2 seeds" in capsys.readouterr().out

    weights = output / "runs" / "sasrec" / "seed0" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    again = compare(
        dataset.path, ["sasrec", "sasrec-text"], output, seeds=2, transformer=SMALL, training=SHORT, blend=True
    )
    assert weights.stat().st_mtime_ns == before  # finished runs are not trained again
    assert {name: of for name, of in again["systems"].items() if name != "blend"} == found["systems"]
    blends = again["systems"]["blend"]["ndcg@10"]["seeds"]
    for seed, value in enumerate(blends):
        recorded = json.loads((output / "runs" / "blend" / f"seed{seed}" / "metrics.json").read_text())
        assert value == pytest.approx(recorded["test"]["kept"]["ndcg@10"], abs=1e-9)
    assert len(blends) == 2 and set(again["learned"]) == {*found["systems"], "blend"}
    beside = again["best_parts"]["blend"]
    assert list(beside) == ["kept", "excluded", "learned"] and found["best_parts"] == {}
    for protocol, field in (("kept", "systems"), ("excluded", "excluded"), ("learned", "learned")):
        means = {name: of["ndcg@10"]["mean"] for name, of in again[field].items() if name in again["runs"]}
        best = max((name for name in means if name != "blend"), key=lambda name: means[name])
        assert means[beside[protocol]["part"]] == means[best]
        test = beside[protocol]["ndcg@10"]
        assert test["difference"] == pytest.approx(means["blend"] - means[best], abs=1e-9)
        assert test["low"] <= test["difference"] <= test["high"]
    assert "blend and its best part" in (output / "report.html").read_text()
    assert json.loads((output / "comparison.json").read_text())["best_parts"] == again["best_parts"]


@pytest.fixture
def with_new_items(dataset):
    """A fifth of the items is held out."""
    roles = held_out_items(dataset.sequences, NUM_ITEMS, 0.2, 0)
    np.save(dataset.path / "splits" / "held-out-items.npy", roles)
    return dataset


@pytest.mark.slow
def test_all_models_that_the_data_suit(make_dataset, tmp_path, caplog):
    """Without texts, only those that know items by ID are left."""
    rng = np.random.default_rng(0)
    sequences = [((start + np.arange(6)) % NUM_ITEMS).tolist() for start in rng.integers(0, 30, size=40)]
    shop = make_dataset(sequences, num_items=NUM_ITEMS)
    short = replace(SHORT, max_epochs=1)
    with caplog.at_level("INFO"):
        found = compare(
            shop.path,
            "all",
            tmp_path / "out",
            seeds=1,
            published=True,
            transformer=SMALL,
            training=short,
            alignment=AlignmentSettings(epochs=0, reconstruction_epochs=0),
        )
    assert set(found.systems) == {"chance", "popularity", "sasrec", "bert4rec", "recguru", "ease", "itemknn"}
    assert set(found.left_out) == set(FAMILIES) - set(found.systems) - {"blend"}
    assert "reads item vectors" in found.left_out["unisrec"] and "linguarec encode" in found.left_out["unisrec"]
    assert found.new_items is None  # the folder has no split of held-out items
    before_training = caplog.text.split("sasrec, seed 0")[0]
    assert "costly: bert4rec, a hundred short epochs or more" in before_training
    assert "left out: vqrec, because this model reads item codes" in before_training
    assert f"no values are published of {shop.name} with this split, so --published adds none" in caplog.messages
    assert found.memory.keys() == found.minutes.keys() == set(found.systems) - {"chance", "popularity"}
    assert all(0.1 < peak < 64 for peak in found.memory.values())
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Models that do not take part" in page and "reads item vectors" in page


def test_new_items_are_compared_among_models_that_can_rank_them(with_new_items, tmp_path):
    found = compare(with_new_items.path, ["ease"], tmp_path / "out", seeds=2, new_items=True)
    assert set(found.systems) == {"chance", "popularity", "ease", "ease-text", "itemknn", "textknn"}
    assert len(found.systems["ease"]["ndcg@10"]["seeds"]) == len(found.runs["ease"]) == 1  # a closed form runs once
    new = found.new_items
    assert set(new["systems"]) == {"chance", "popularity", "ease-text", "textknn"}
    assert new["baseline"] in (
        "ease-text",
        "textknn",
    )  # popularity knows nothing of new items, however good it is on valid
    assert new["systems"]["popularity"]["recall@10"]["median"] < new["systems"]["chance"]["recall@10"]["median"]
    assert new["users"] == len(
        set(evaluation_cases(with_new_items.sequences, with_new_items.roles("held-out-items"), "test").users)
    )
    assert found.list_vectors == "enc"
    lists = found.lists["excluded"]
    assert set(lists) == {"popularity", "ease", "ease-text", "itemknn", "textknn"}
    assert lists["textknn"]["diversity@10"]["median"] < lists["popularity"]["diversity@10"]["median"]  # alike by text
    evaluated = evaluate(found.runs["ease"][0], plots=False)
    assert {name: values["ease"] for name, values in evaluated.lists.items()} == {
        name: {measure: value["median"] for measure, value in of["ease"].items()} for name, of in found.lists.items()
    }
    assert set(new["lists"]["excluded"]) == {"popularity", "ease-text", "textknn"}
    assert new["runs"]["textknn"] == [str(tmp_path / "out" / "runs-new-items" / "textknn" / "seed0")]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Beyond accuracy</h2>" in page and "<td>textknn, learned</td>" in page
    assert "<h2>New items</h2>" in page and page.count("data:image/png;base64,") == 4


@pytest.fixture
def in_time(dataset):
    """The dataset with times: every user acts once a day, and begins on another day."""
    starts = np.repeat(np.random.default_rng(1).integers(0, 20, size=80), dataset.sequences.lengths)
    positions = np.concatenate([np.arange(length) for length in dataset.sequences.lengths])
    times = (starts + positions) * 86_400 + np.random.default_rng(2).integers(0, 86_400, size=len(starts))
    np.save(dataset.path / "sequences" / "timestamps.npy", times)
    np.save(dataset.path / "splits" / "temporal.npy", global_temporal(times))
    return PreparedDataset.open(dataset.path)


def test_windows_of_time_each_with_its_own_training(in_time, tmp_path, capsys):
    found = compare(in_time.path, ["itemknn"], tmp_path / "out", split="temporal", windows=2)
    assert len(found.windows) == 2 and found.split == "temporal"
    for window in found.windows:
        roles = in_time.roles(window["split"])
        cases = evaluation_cases(in_time.sequences, roles, "test")
        assert window["users"] == len(set(cases.users)) and window["training"] == np.count_nonzero(roles == TRAIN)
        finetune("itemknn", in_time.path, tmp_path / window["split"], split=window["split"])
        metrics = json.loads((tmp_path / window["split"] / "metrics.json").read_text())
        assert window["systems"]["kept"]["itemknn"] == pytest.approx(metrics["test"])
    assert found.windows[0]["test_from"] < found.windows[1]["test_from"]
    for protocol in ("kept", "excluded", "learned"):
        values = [window["systems"][protocol]["itemknn"]["ndcg@10"] for window in found.windows]
        assert found.mean_of_windows[protocol]["itemknn"]["ndcg@10"] == pytest.approx(np.mean(values))
    # All other figures are of the newest window, which is the split `temporal`.
    assert np.array_equal(in_time.roles(found.windows[1]["split"]), in_time.roles("temporal"))
    assert found.systems["itemknn"]["ndcg@10"]["median"] == found.windows[1]["systems"]["kept"]["itemknn"]["ndcg@10"]
    whole = compare(in_time.path, ["itemknn"], tmp_path / "one", split="temporal")
    assert whole.windows is None and whole.systems == found.systems
    assert whole.leakage == {**found.leakage, "exposed": 0, "share": 0.0}
    shown = capsys.readouterr().out
    assert f"from {found.windows[0]['test_from'][:10]}" in shown and "windows of time: trained before each" in shown
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h2>Windows of time</h2>" in page and "Trained on the future" not in page
    assert "itemknn, learned: ndcg@10" in repr(found) and "mean of 2 windows" in repr(found)


def test_a_run_of_one_window_is_a_row_of_it_alone(in_time, tmp_path, caplog):
    newest = finetune("ease", in_time.path, tmp_path / "newest", split="temporal")
    first = compare(
        *(in_time.path, ["itemknn", "textknn"], tmp_path / "out"),
        split="temporal",
        windows=2,
        baselines=False,
        blend=True,
        runs=[newest.run],
    )
    assert [window["split"] for window in first.windows][1] == "temporal"
    assert first.systems["newest"]["ndcg@10"]["median"] == pytest.approx(newest.test["ndcg@10"])
    assert ["newest" in window["systems"]["kept"] for window in first.windows] == [False, True]
    assert set(first.mean_of_windows["kept"]) == {"chance", "popularity", "itemknn", "textknn", "blend"}
    # A blend of other parts in one of the windows would be another system, and have no mean.
    blended = json.loads((tmp_path / "out" / "runs-temporal" / "blend" / "seed0" / "metrics.json").read_text())
    assert [part["model"] for part in blended["parts"]] == ["itemknn", "textknn"]
    assert "newest was trained for one window of time: the others lack it" in caplog.text
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"newest was not trained for the windows from {first.windows[0]['test_from'][:10]}, so it" in page
    # A run of the older window is a row of that one.
    older = first.windows[0]["split"]
    finetune("ease", in_time.path, tmp_path / "older", split=older)
    second = compare(
        *(in_time.path, ["itemknn"], tmp_path / "out"),
        split="temporal",
        windows=2,
        baselines=False,
        runs=[tmp_path / "older"],
    )
    assert ["older" in window["systems"]["kept"] for window in second.windows] == [True, False]
    with pytest.raises(
        SettingsError, match=r"newest was trained on the split temporal of these data, and leave-one-out"
    ):
        compare(in_time.path, ["itemknn"], tmp_path / "out", runs=[newest.run])


def test_training_on_the_future_is_told(in_time, tmp_path, caplog):
    found = compare(in_time.path, ["itemknn"], tmp_path / "out", baselines=False)
    roles, times = in_time.roles(), in_time.timestamps
    later = [(times[roles == TRAIN] > moment).mean() for moment in times[roles == TEST]]
    assert found.leakage["share"] == pytest.approx(np.mean(later)) and np.mean(later) > 0.1
    warning = f"leave-one-out: {np.mean(later):.1%} of the training interactions are later than a test target"
    assert warning in caplog.text
    assert "<h2>Trained on the future</h2>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    caplog.clear()
    evaluated = evaluate(found.runs["itemknn"][0], plots=False)
    assert evaluated.leakage == found.leakage and warning in caplog.text


def test_windows_that_cannot_be_compared_are_refused(in_time, make_dataset, tmp_path):
    with pytest.raises(SettingsError, match="--windows is for --split temporal; --split is leave-one-out"):
        compare(in_time.path, ["itemknn"], tmp_path / "out", windows=2)
    with pytest.raises(SettingsError, match="--windows is 9; it must be between 1 and 6"):
        compare(in_time.path, ["itemknn"], tmp_path / "out", split="temporal", windows=9)
    order = make_dataset([[0, 1, 2, 3]] * 9, name="order")
    with pytest.raises(DataFormatError, match="order has no times of its interactions, only their order"):
        compare(order.path, ["itemknn"], tmp_path / "out", split="temporal", windows=2)
    with pytest.raises(
        DataFormatError, match=r"no split .temporal.; it has: .*\. The times of its interactions are not known"
    ):
        compare(order.path, ["itemknn"], tmp_path / "out", split="temporal")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_the_split_of_new_items_is_refused(dataset, tmp_path):
    with pytest.raises(DataFormatError, match="has no split 'held-out-items'"):
        compare(dataset.path, ["ease"], tmp_path / "out", new_items=True)
    np.save(dataset.path / "splits" / "held-out-items.npy", np.zeros_like(dataset.roles()))
    with pytest.raises(SettingsError, match=r"no item of .* is held out"):
        compare(dataset.path, ["ease"], tmp_path / "out", new_items=True)
    with pytest.raises(SettingsError, match="--split held-out-items compares on new items already"):
        compare(dataset.path, ["ease"], tmp_path / "out", new_items=True, split="held-out-items")
    assert not (tmp_path / "out").exists()


def test_finished_runs_are_rows_whatever_they_were_trained_from(with_new_items, tmp_path):
    data, runs = with_new_items.path, tmp_path / "own"
    for seed in (0, 1):
        finetune("ease", data, runs / "light" / f"seed{seed}", config=EASEConfig(regularisation=float(10 + seed)))
    finetune("textknn", data, runs / "other-split", split="held-out-items")
    rows = [runs / "light", runs / "other-split"]
    found = compare(data, ["itemknn"], tmp_path / "out", seeds=1, new_items=True, blend=True, runs=rows)
    assert set(found.systems) == {
        *("chance", "popularity", "ease", "ease-text", "itemknn", "textknn"),
        *("light", "blend"),
    }
    assert len(found.systems["light"]["ndcg@10"]["seeds"]) == 2
    assert found.runs["light"] == [str(runs / "light" / f"seed{seed}") for seed in (0, 1)]
    # Each run stands where it was trained, and two text models of the other split are blended, too.
    assert set(found.new_items["systems"]) == {
        *("chance", "popularity", "ease-text", "textknn"),
        *("other-split", "blend"),
    }
    blended = json.loads((tmp_path / "out" / "runs" / "blend" / "seed0" / "metrics.json").read_text())
    assert [part["model"] for part in blended["parts"]] == ["itemknn", "ease", "ease-text", "textknn", "ease"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "light: ease" in page

    made = tmp_path / "out" / "runs" / "blend" / "seed0" / "metrics.json"
    before = made.stat().st_mtime_ns
    compare(data, ["itemknn"], tmp_path / "out", seeds=1, blend=True, runs=rows[:1])
    assert made.stat().st_mtime_ns == before  # of the same parts: it is not made again
    compare(data, ["itemknn"], tmp_path / "out", seeds=1, blend=True)
    assert made.stat().st_mtime_ns > before


def test_runs_that_cannot_be_rows_are_refused(with_new_items, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=r"--runs .*empty: it is no run folder and holds none"):
        compare(with_new_items.path, ["ease"], tmp_path / "out", runs=[tmp_path / "empty"])
    finetune("textknn", with_new_items.path, tmp_path / "new", split="held-out-items")
    with pytest.raises(SettingsError, match="was trained on the split held-out-items of these data, and leave-one-out"):
        compare(with_new_items.path, ["ease"], tmp_path / "out", runs=[tmp_path / "new"])
    np.save(with_new_items.path / "splits" / "mine.npy", with_new_items.roles())
    run = tmp_path / "mine"
    finetune("ease", with_new_items.path, run, split="mine")
    with pytest.raises(SettingsError, match="was trained on the split mine of these data"):
        compare(with_new_items.path, ["ease"], tmp_path / "out", runs=[run])


def test_a_model_of_another_shop_reads_the_items_by_text(shops, pretrained, tmp_path):
    start = pretrained("sasrec-text", features="words")
    found = compare(shops[1].path, ["textknn"], tmp_path / "out", seeds=1, runs=[start], baselines=False)
    assert set(found.systems) == {"chance", "popularity", "textknn", start.name}
    assert found.differences["learned"].keys() == set(found.systems) - {"chance", found.baseline}
    measured = found.systems[start.name]["ndcg@10"]["median"]
    assert measured == pytest.approx(
        evaluate(start, shops[1].path, zero_shot=True, plots=False).systems["sasrec-text"]["ndcg@10"]["mean"]
    )
    assert start.name in found.learned  # with a repeat term that is fitted on valid
    assert start.name not in found.minutes


def test_what_a_model_lacks_is_told_before_another_is_trained(dataset, tmp_path):
    with pytest.raises(SettingsError, match=r"^recformer: this model reads item tokens .*linguarec tokenize"):
        compare(dataset.path, ["sasrec", "recformer"], tmp_path / "out", seeds=1, transformer=SMALL, training=SHORT)
    assert not (tmp_path / "out").exists()
    windows = replace(SHORT, window_stride=2)
    with pytest.raises(SettingsError, match=r"--training\.window_stride: this is not for recformer"):
        compare(dataset.path, ["sasrec", "recformer"], tmp_path / "out", transformer=SMALL, training=windows)
    with pytest.raises(SettingsError, match=r"holds a manifest\.json, so it is no place for a report"):
        compare(dataset.path, ["sasrec"], dataset.path)
    with pytest.raises(SettingsError, match="--first-seed is -1"):
        compare(dataset.path, ["sasrec"], tmp_path / "out", first_seed=-1)


def test_all_bad_settings_are_named_at_once(tmp_path):
    with pytest.raises(SettingsError) as error:
        compare(
            tmp_path, ["sasrek"], tmp_path / "out", seeds=0, baseline="nothing", training=TrainingSettings(devices=2)
        )
    assert [problem.split(" is ")[0] for problem in error.value.problems[1:]] == [
        "seeds",
        "baseline",
        "training.devices",
    ]
    assert "unknown model 'sasrek'; did you mean sasrec? There are: sasrec" in str(error.value)


def test_no_unknown_name_is_sent_to_a_model_that_is_not_trained(tmp_path):
    """A blend is made of runs: `compare` takes it by a flag of its own."""
    with pytest.raises(SettingsError) as error:
        compare(tmp_path, ["blen"], tmp_path / "out")
    [problem] = error.value.problems
    assert problem.startswith("unknown model 'blen'")
    assert problem.endswith("itemknn, textknn.")
    assert "blend" not in problem
    with pytest.raises(SettingsError, match=r"models names none\. There are: sasrec, .* textknn\.$"):
        compare(tmp_path, [], tmp_path / "out")


def test_a_flag_goes_to_the_models_that_it_says_something_to(dataset, tmp_path, caplog):
    """With two kinds of vectors --features is needed by textknn, and no flag of VQ-Rec, which reads codes."""
    quantize([dataset.path], "enc", subvectors=2, centroids=4)
    dataset.write_features("other", dataset.load_features("enc")[::-1].copy(), dataset.feature_info("enc"))
    with pytest.raises(SettingsError, match="--features: this is not for vqrec; leave it out"):
        compare(dataset.path, ["vqrec"], tmp_path / "out", baselines=False, features="enc")
    short = replace(SHORT, max_epochs=1)
    found = compare(dataset.path, "vqrec", tmp_path / "out", seeds=1, transformer=SMALL, training=short, features="enc")
    assert {"vqrec", "ease-text", "textknn"} <= set(found.systems) and not found.left_out
