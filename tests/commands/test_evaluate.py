import json

import numpy as np
import pytest
import torch
from prepared import catalogue_batch, untrained
from results import stored_result

from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.data.splits import TEST, draw_users, evaluation_cases, held_out_items, training_sequences
from linguarec.errors import CheckpointMismatchError, DataFormatError, SettingsError
from linguarec.evaluation.evaluate import evaluate_model
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.files import write_json
from linguarec.nn.encoders import TransformerConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.recommender import Recommender
from linguarec.run_items import items_of_recommender
from linguarec.sources.embeddings import EmbeddingSource

NUM_ITEMS, WIDTH = 30, 8


def vectors(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def sequences(seed=0, users=50, num_items=NUM_ITEMS):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, num_items, size=rng.integers(3, 12)).tolist() for _ in range(users)]


@pytest.fixture
def dataset(make_dataset):
    return make_dataset(sequences(), num_items=NUM_ITEMS, features={"enc": vectors(NUM_ITEMS)})


@pytest.fixture
def run(dataset, tmp_path):
    """A run folder as training leaves it, of an untrained model."""
    torch.manual_seed(0)
    encoder = TransformerConfig(hidden_size=16, layers=1, heads=2, inner_size=16, max_length=6, initializer_range=0.4)
    description = ModelDescription(
        FAMILIES["sasrec-text"], FAMILIES["sasrec-text"].config(), encoder, CatalogueShape(NUM_ITEMS, WIDTH)
    )
    untrained(description, dataset, EmbeddingSource.stored(dataset, "enc")).save(tmp_path / "run")
    settings = {
        "model": "sasrec-text",
        "data": str(dataset.path),
        "data_fingerprint": dataset.fingerprint,
        "split": "leave-one-out",
    }
    write_json(tmp_path / "run" / "settings.json", settings)
    return tmp_path / "run"


def test_means_are_those_of_the_model(run, dataset):
    found = evaluate(run, plots=False)
    recommender = Recommender.load(run)
    cases = evaluation_cases(dataset.sequences, dataset.roles(), "test")
    expected = evaluate_model(recommender.model, catalogue_batch(dataset, "enc", None), cases).means()
    means = {name: interval["mean"] for name, interval in found["systems"]["sasrec-text"].items()}
    assert means == pytest.approx(expected)
    assert found["systems"]["chance"]["recall@10"]["mean"] == pytest.approx(10 / NUM_ITEMS)
    assert (found["targets"], found["users"], found["targets_without_history"]) == (50, 50, 0)
    interval = found["systems"]["sasrec-text"]["recall@10"]
    assert interval["low"] < interval["mean"] < interval["high"]


def test_lists_are_measured_as_they_are_recommended(run, dataset, capsys):
    found = evaluate(run, plots=False)
    cases = evaluation_cases(dataset.sequences, dataset.roles(), "test")
    ids = dataset.raw_item_ids
    histories = [[ids[row] for row in cases.histories[case]] for case in range(len(cases))]
    lists = Recommender.load(run).recommend(histories, k=10)
    rows = [[dataset.item_row[one.raw_id] for one in best] for best in lists]
    distinct = {row for best in rows for row in best}
    of_run, popular = (found.lists["excluded"][name] for name in ("sasrec-text", "popularity"))
    assert of_run["coverage@10"] == len(distinct) / NUM_ITEMS
    units = vectors(NUM_ITEMS) / np.linalg.norm(vectors(NUM_ITEMS), axis=1, keepdims=True)
    expected = [1 - (np.square(units[best].sum(axis=0)).sum() - 10) / 90 for best in rows]
    assert of_run["diversity@10"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert found.list_vectors == "enc" and found.no_diversity is None
    assert popular["novelty@10"] < of_run["novelty@10"] and popular["popularity@10"] > of_run["popularity@10"]
    assert found.lists["kept"]["popularity"]["coverage@10"] == 10 / NUM_ITEMS
    assert set(found.lists) == {"kept", "excluded"}  # the run has no repeat term
    shown = capsys.readouterr().out
    assert "diversity by the text vectors enc" in shown and "coverage@10, excluded" in shown
    assert stored_result(run / "evaluation" / "test.json")["lists"] == found.lists
    assert "lists of sasrec-text, excluded: coverage@10" in repr(found)


def test_diversity_is_not_made_up_where_there_are_no_vectors(make_dataset, tmp_path, capsys):
    shop = make_dataset(sequences(), num_items=NUM_ITEMS)
    finetune("itemknn", shop.path, tmp_path / "knn")
    found = evaluate(tmp_path / "knn", plots=False)
    assert "diversity@10" not in found.lists["kept"]["itemknn"] and found.list_vectors is None
    assert found.no_diversity == "tiny has no text vectors (`linguarec encode` makes them)"
    assert "diversity is not measured: tiny has no text vectors" in capsys.readouterr().out


def test_items_are_copied_only_where_rows_differ(run, dataset, make_dataset):
    recommender, cpu = Recommender.load(run), torch.device("cpu")
    held, keys = recommender.snapshot.inputs.base, recommender.snapshot.ranker.keys
    same = items_of_recommender(recommender, dataset, False, cpu)
    assert (same.inputs.base is held, same.ranker.keys.data_ptr() == keys.data_ptr()) == (True, True)
    assert same.new_items == 0
    ids = [f"i{row}" for row in range(NUM_ITEMS)]
    turned = make_dataset(sequences(), name="turned", raw_ids=ids[::-1], num_items=NUM_ITEMS)
    found = items_of_recommender(recommender, turned, False, cpu)
    assert torch.equal(found.inputs.rows(torch.arange(NUM_ITEMS)), held.flip(0))
    assert torch.equal(found.ranker.keys, keys.flip(0))
    # The first item is unknown and read by its text; the run's own tensors are left alone.
    features = {"enc": vectors(NUM_ITEMS, seed=1)}
    new = make_dataset(sequences(), name="new", raw_ids=["n", *ids[1:]], num_items=NUM_ITEMS, features=features)
    before = held.clone(), keys.clone()
    with pytest.raises(DataFormatError, match=r"1 of the 30 items .* unknown to the run, such as 'n'"):
        items_of_recommender(recommender, new, False, cpu)
    found = items_of_recommender(recommender, new, True, cpu)
    inputs = found.inputs.rows(torch.arange(NUM_ITEMS))
    assert (found.new_items, torch.equal(inputs[1:], held[1:]), torch.equal(inputs[0], held[0])) == (1, True, False)
    part = make_dataset(sequences(num_items=9), name="part", raw_ids=ids[:9], num_items=9)
    found = items_of_recommender(recommender, part, False, cpu)
    assert torch.equal(found.inputs.rows(torch.arange(9)), held[:9])
    assert (torch.equal(before[0], held), torch.equal(before[1], keys)) == (True, True)


def test_slices_add_up_to_the_whole(run):
    found = evaluate(run, plots=False)
    for group in ("target", "history length"):
        parts = [part for part in found["slices"] if part["group"] == group]
        assert sum(part["cases"] for part in parts) == 50
        mean = sum(part["cases"] * part["systems"]["popularity"]["mrr"]["mean"] for part in parts) / 50
        assert mean == pytest.approx(found["systems"]["popularity"]["mrr"]["mean"])


def test_results_and_plots_are_written_into_the_run(run, capsys, drawn):
    found = evaluate(run, ks=[5])
    stored = stored_result(run / "evaluation" / "test.json")
    assert stored == json.loads(json.dumps(found.to_dict()))
    for name, group in (("history-length", "history length"), ("popularity", "popularity of the target")):
        panels = drawn(run / "evaluation" / f"test.{name}.png").axes
        parts = [part for part in found["slices"] if part["group"] == group]
        named = [label.get_text().split("\n")[0] for label in panels[-1].get_xticklabels()]
        assert named == [part["name"] for part in parts]
        assert [axes.get_ylabel() for axes in panels] == [f"ndcg@5, {each}" for each in ("kept", "excluded")]
        for axes, protocol in zip(panels, ("systems", "excluded"), strict=True):
            shown = {container.get_label(): list(container.lines[0].get_ydata()) for container in axes.containers}
            assert set(shown) == {"sasrec-text", "popularity", "chance"}
            for system, values in shown.items():
                assert values == pytest.approx([part[protocol][system]["ndcg@5"]["mean"] for part in parts])
    ranks = np.load(run / "evaluation" / "test.ranks.npz")
    assert np.mean(ranks["greater"] < 5) == pytest.approx(found["systems"]["sasrec-text"]["recall@5"]["mean"])
    shown = capsys.readouterr().out
    title = next(line for line in shown.splitlines() if "50 targets among 30 items in" in line)
    assert title.startswith("sasrec-text on ") and title.endswith((" s", " min"))  # the whole of it
    assert "popularity" in shown


def test_the_protocols_stand_side_by_side_and_the_valid_part_has_a_file_of_its_own(run):
    found = evaluate(run, plots=False, fit_repeats=True)
    evaluate(run, split="valid", plots=False)
    assert {path.name for path in (run / "evaluation").glob("*.json")} == {"test.json", "valid.json"}
    assert found["excluded"]["chance"]["mrr"]["mean"] > found["systems"]["chance"]["mrr"]["mean"]
    assert set(found["learned"]) == set(found["excluded"]) == set(found["systems"])
    ranks = np.load(run / "evaluation" / "test.ranks.npz")
    assert (ranks["excluded_greater"] <= ranks["greater"]).all()


def test_a_run_without_a_repeat_term_gets_one(run, make_dataset):
    assert "learned" not in evaluate(run, plots=False)
    with pytest.raises(SettingsError, match="--fit-repeats"):
        Recommender.load(run).recommend([["i3"]], exclude_seen="learned")
    assert "learned" in evaluate(run, plots=False, fit_repeats=True)
    other = make_dataset(sequences(seed=1), name="other", num_items=NUM_ITEMS)
    with pytest.raises(SettingsError, match="is for the data that the run was trained on"):
        evaluate(run, other.path, fit_repeats=True)
    assert Recommender.load(run).recommend([["i3"]], exclude_seen="learned")


def test_another_folder_is_matched_by_raw_id(run, make_dataset):
    order = np.random.default_rng(1).permutation(NUM_ITEMS)
    row_of = np.argsort(order)
    moved = make_dataset(
        [row_of[sequence].tolist() for sequence in sequences()],
        texts=[f"item {row}" for row in order],
        raw_ids=[f"i{row}" for row in order],
        name="moved",
    )
    here, there = evaluate(run, plots=False), evaluate(run, moved.path, plots=False)
    assert there["systems"] == here["systems"]
    assert not there["trained_on_this_data"]
    assert (run / "evaluation" / "test-moved-leave-one-out.json").exists()


def test_unknown_items_need_zero_shot_and_are_counted(run, make_dataset):
    other = make_dataset(
        sequences(3, num_items=40),
        num_items=40,
        features={"enc": np.concatenate([vectors(30), vectors(10, 9)])},
        name="other",
    )
    with pytest.raises(DataFormatError, match=r"10 of the 40 items .* such as 'i30'\. Pass --zero-shot"):
        evaluate(run, other.path)
    found = evaluate(run, other.path, zero_shot=True, plots=False)
    assert found["items_read_by_text"] == 40
    assert (run / "evaluation" / "test-other-leave-one-out-zero-shot.json").exists()

    recommender = Recommender.load(run)
    items = catalogue_batch(other, "enc", None)
    cases = evaluation_cases(other.sequences, other.roles(), "test")
    assert found["systems"]["sasrec-text"]["mrr"]["mean"] == pytest.approx(
        evaluate_model(recommender.model, items, cases).mean("mrr"), abs=1e-6
    )


def test_what_is_known_is_what_the_users_who_trained_had(run, dataset):
    settings = json.loads((run / "settings.json").read_text())
    write_json(run / "settings.json", {**settings, "users": 0.1, "seed": 0})
    few = evaluate(run, plots=False)
    trained = training_sequences(dataset.sequences, dataset.roles()).select(draw_users(dataset.num_users, 0.1, 0))
    targets = evaluation_cases(dataset.sequences, dataset.roles(), "test").targets
    expected = int((~np.isin(targets, trained.values)).sum())
    assert expected > 0
    assert [part["cases"] for part in few["slices"] if part["name"] == "new (not in training)"] == [expected]


def test_targets_that_may_have_been_trained_on_are_told(run, dataset, caplog):
    np.save(dataset.path / "splits" / "temporal.npy", dataset.roles())
    evaluate(run, dataset.path, plots=False)
    assert "may be among what it learned from" not in caplog.text
    found = evaluate(run, dataset.path, protocol="temporal", plots=False)
    assert "was trained on the split leave-one-out of these data: targets of temporal may be among" in caplog.text
    assert found["trained_on_split"] == "leave-one-out"


def test_held_out_items_are_all_new_and_popularity_knows_none_of_them(run, dataset):
    roles = held_out_items(dataset.sequences, NUM_ITEMS, share=0.2, seed=0)
    np.save(dataset.path / "splits" / "held-out-items.npy", roles)
    found = evaluate(run, protocol="held-out-items", plots=False)
    assert [part["name"] for part in found["slices"] if part["group"] == "target"] == ["new (not in training)"]
    assert found["targets"] == int((roles == TEST).sum()) > 0
    # The 24 known items come first, then the 6 held out ones, which tie.
    expected = sum(1 / rank for rank in range(25, 31)) / 6
    assert found["systems"]["popularity"]["mrr"]["mean"] == pytest.approx(expected)
    assert (run / "evaluation" / "test-held-out-items.json").exists()


def test_data_prepared_anew_is_refused_unless_named(run, dataset):
    settings = json.loads((run / "settings.json").read_text())
    write_json(run / "settings.json", {**settings, "data_fingerprint": "0" * 64})
    with pytest.raises(DataFormatError, match="was prepared anew"):
        evaluate(run)
    assert not evaluate(run, dataset.path, plots=False)["trained_on_this_data"]


def test_what_is_missing_is_named(run, tmp_path, dataset):
    with pytest.raises(CheckpointMismatchError, match=r"nowhere is not a run folder: it does not exist"):
        evaluate(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="ks holds 0"):
        evaluate(run, ks=[0])
    with pytest.raises(DataFormatError, match="has no split 'temporal'; it has: leave-one-out"):
        evaluate(run, protocol="temporal")
    dataset.path.rename(tmp_path / "moved-away")
    with pytest.raises(DataFormatError, match="which is not there; name the folder"):
        evaluate(run)
