"""Released checkpoints to model folders and back, by the command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from prepared import names_read
from safetensors.torch import load_file
from torch.nn import functional as F

import linguarec
from linguarec.cli import main
from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.commands.convert import convert
from linguarec.commands.finetune import finetune
from linguarec.data.features import FeatureInfo
from linguarec.errors import CheckpointMismatchError, DataFormatError, OutputError, SettingsError, UnknownItemError
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription
from linguarec.families.opening import open_model, open_start
from linguarec.families.weights import save_model
from linguarec.nn.encoders import TransformerConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.training.settings import TrainingSettings

FIXTURES = (
    *("sasrec", "bert4rec", "fdsa", "s3rec", "unisrec_inductive_ft", "unisrec_transductive_ft", "unisrec_pretrain"),
    *("vqrec_inductive_ft", "vqrec_pretrain"),
)
NUM_ITEMS, WIDTH = 12, 10
TEXTS = [f"item number {row}" for row in range(NUM_ITEMS)]


@pytest.fixture
def released(tmp_path):
    """`released(model)`: a small file of the released code; items 1 to 12, text vectors 10 wide, 2 codes of 4 values."""

    def make(name, vectors=None):
        torch.manual_seed(0)
        encoder = TransformerConfig(hidden_size=8, layers=1, heads=2, inner_size=8, max_length=6, initializer_range=0.5)
        description = ModelDescription(
            FAMILIES[name], FAMILIES[name].config(), encoder, CatalogueShape(NUM_ITEMS, WIDTH, 2, 4)
        )
        folder, file = tmp_path / f"own-{name}", tmp_path / f"{name}.pth"
        save_model(description.build(), description, folder)
        convert(folder, file, overwrite=True)
        return file

    return make


def vectors_of(count=NUM_ITEMS, width=WIDTH):
    return np.random.default_rng(1).standard_normal((count, width)).astype(np.float32)


@pytest.fixture
def dataset(make_dataset):
    raw_ids = [f"B{row:02}" for row in range(NUM_ITEMS)]
    found = make_dataset([[0, 1, 2, 3]], texts=TEXTS, raw_ids=raw_ids, features={"enc": vectors_of()})
    found.write_features("wide", vectors_of(width=11), FeatureInfo("wide", 11, "mean", None, None, "default"))
    for name, centroids in (("pq", 4), ("fine", 6)):
        book = CodeBook("pq", vectors_of(2 * centroids, 5).reshape(2, centroids, 5), None, None, "enc")
        ItemCodes(book.encode(found.features("enc")), book).save(found.codes_path(name))
    return found


def ranking(recommender, history):
    """Raw ids of all items, best first."""
    found = recommender.recommend([history], k=len(recommender.catalogue), exclude_seen=False)[0]
    return [best.raw_id for best in found]


# -- the fixtures of the released code


@pytest.mark.parametrize("name", FIXTURES)
def test_there_and_back_gives_the_same_file_to_the_bit(name, released_outputs, tmp_path):
    official = released_outputs / name / "official.pth"
    convert(official, tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "again.pth")
    before, after = (torch.load(file, weights_only=True) for file in (official, tmp_path / "again.pth"))
    assert after["state_dict"].keys() == before["state_dict"].keys()
    for key, tensor in before["state_dict"].items():
        assert after["state_dict"][key].dtype == tensor.dtype
        assert torch.equal(after["state_dict"][key], tensor), key
    assert after["epoch"] == before["epoch"]
    differing = {key for key, value in before["config"].items() if after["config"].get(key) != value}
    assert differing <= {"device"}  # an object, not a plain value


def test_a_pickled_recbole_config_gives_the_same_model(released_outputs, tmp_path):
    folder = released_outputs / "unisrec_pretrain"
    result = convert(folder / "official_recbole_config.pth", tmp_path / "pickled")
    assert "recbole.config.configurator.Config" in result["not_made"]
    assert (result["n_heads"], result["assumed"]) == (2, {})
    convert(folder / "official.pth", tmp_path / "plain")
    models = [open_model(tmp_path / name) for name in ("pickled", "plain")]
    assert models[0][1] == models[1][1]
    states = [model.state_dict() for model, _ in models]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    settings = json.loads((tmp_path / "pickled" / "settings.json").read_text())
    assert (settings["released_settings"]["train_stage"], settings["released_epoch"]) == ("pretrain", 299)


def histories_of(io):
    lengths = io["item_seq_len"].tolist()
    return [[str(item) for item in row[:length]] for row, length in zip(io["item_seq"].tolist(), lengths, strict=True)]


def expected_ranking(scores):
    """Released item numbers from 1, best first, without the padding column."""
    return [str(number + 1) for number in scores[1:].argsort(descending=True, stable=True).tolist()]


@pytest.mark.parametrize("name", ["sasrec", "fdsa", "unisrec_inductive_ft", "unisrec_transductive_ft"])
def test_a_checkpoint_with_items_recommends_as_the_released_code_ranks(name, released_outputs, tmp_path):
    folder = released_outputs / name
    convert(folder / "official.pth", tmp_path / "model")
    recommender = linguarec.load_model(tmp_path / "model")
    io = load_file(folder / "io.safetensors")
    for history, scores in zip(histories_of(io), io["scores"], strict=True):
        assert ranking(recommender, history) == expected_ranking(scores)


def test_a_pretrained_unisrec_recommends_items_that_are_added_by_their_vectors(released_outputs, tmp_path):
    folder = released_outputs / "unisrec_pretrain"
    convert(folder / "official_recbole_config.pth", tmp_path / "model")
    recommender = linguarec.load_model(tmp_path / "model")
    assert len(recommender.catalogue) == 0
    io = load_file(folder / "io.safetensors")
    items = [{"raw_id": str(number), "text": f"item {number}"} for number in range(1, 41)]
    recommender.add_items(items, io["plm_embedding"][1:].numpy())
    scores = F.normalize(io["seq_output"], dim=-1) @ F.normalize(io["item_emb"], dim=-1).T
    for history, row in zip(histories_of(io), scores, strict=True):
        assert ranking(recommender, history) == expected_ranking(row)
    recommender.save(tmp_path / "with-items")
    again = linguarec.load_model(tmp_path / "with-items")
    assert ranking(again, ["3", "7"]) == ranking(recommender, ["3", "7"])


def test_a_vqrec_recommends_the_items_of_a_prepared_folder(released_outputs, tmp_path, make_dataset):
    folder = released_outputs / "vqrec_inductive_ft"
    io = load_file(folder / "io.safetensors")
    dataset = make_dataset([[0, 1]], num_items=40, raw_ids=[str(number) for number in range(1, 41)])
    codes = (io["pq_codes"][1:] - 1 - torch.arange(4) * 17).numpy().astype(np.uint8)
    book = CodeBook("pq", vectors_of(64, 3).reshape(4, 16, 3), None, None, "enc")
    ItemCodes(codes, book).save(dataset.codes_path("released"))
    convert(folder / "official.pth", tmp_path / "model", items=dataset.path, codes="released")
    recommender = linguarec.load_model(tmp_path / "model")
    for history, scores in zip(histories_of(io), io["scores"], strict=True):
        assert ranking(recommender, history) == expected_ranking(scores)
    assert recommender.catalogue.title(0) == "item 0"
    recommender.add_items([{"raw_id": "new", "title": "a new one"}], vectors_of(1, 12))
    assert "new" in ranking(recommender, ["1"])


# -- items


def test_items_of_a_prepared_folder_by_their_vectors(released, dataset, tmp_path):
    result = convert(released("unisrec"), tmp_path / "model", items=dataset.path, features="enc")
    assert result["items"] == NUM_ITEMS
    recommender = linguarec.load_model(tmp_path / "model")
    assert recommender.catalogue.raw_ids == dataset.raw_item_ids
    assert recommender.snapshot.source.info == replace(dataset.feature_info("enc"), texts_fingerprint=None)
    convert(released("unisrec"), tmp_path / "bare")
    bare = linguarec.load_model(tmp_path / "bare")
    bare.add_items([{"raw_id": raw_id, "text": "x"} for raw_id in dataset.raw_item_ids], vectors_of())
    assert torch.equal(bare.snapshot.ranker.keys, recommender.snapshot.ranker.keys)
    settings = json.loads((tmp_path / "model" / "settings.json").read_text())
    assert (settings["data_fingerprint"], settings["features"]) == (dataset.fingerprint, "enc")


def test_raw_ids_for_the_checkpoints_own_items(released, dataset, tmp_path):
    ids = list(reversed(dataset.raw_item_ids))
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    convert(released("sasrec"), tmp_path / "numbers")
    convert(released("sasrec"), tmp_path / "named", item_ids=tmp_path / "ids.txt")
    convert(released("sasrec"), tmp_path / "texts", item_ids=tmp_path / "ids.txt", items=dataset.path)
    numbers, named, texts = (linguarec.load_model(tmp_path / name) for name in ("numbers", "named", "texts"))
    expected = [ids[int(number) - 1] for number in ranking(numbers, ["3", "1"])]
    assert ranking(named, [ids[2], ids[0]]) == ranking(texts, [ids[2], ids[0]]) == expected
    assert texts.catalogue.title(0) == TEXTS[-1]
    assert numbers.catalogue.raw_ids == [str(number) for number in range(1, NUM_ITEMS + 1)]


def test_vectors_beside_the_carried_ones_have_to_be_the_same(released_outputs, tmp_path, make_dataset, caplog):
    """The released FDSA carries noise: with the data's own vectors its scores would be others, and the user is told so."""
    file = released_outputs / "fdsa" / "official.pth"
    carried = torch.load(file, weights_only=True)["state_dict"]["plm_embedding.weight"][1:].numpy()
    raw_ids = [str(number) for number in range(40, 0, -1)]  # another order than the checkpoint's
    given = load_file(released_outputs / "fdsa" / "io.safetensors")["plm_embedding"][1:].numpy()
    vectors = {"same": carried[::-1].copy(), "given": given[::-1].copy()}
    dataset = make_dataset([[0, 1]], num_items=40, raw_ids=raw_ids, features=vectors)
    (tmp_path / "ids.txt").write_text("\n".join(reversed(raw_ids)))
    keys = []
    for name in vectors:
        caplog.clear()
        asked = {"items": dataset.path, "item_ids": tmp_path / "ids.txt", "features": name}
        convert(file, tmp_path / name, **asked)
        warned = f"40 of the 40 items are not the vectors {name} of {dataset.path}: its own are read" in caplog.text
        assert warned == (name == "given")
        keys.append(linguarec.load_model(tmp_path / name).snapshot.inputs.base)
    assert torch.equal(*keys)


def test_item_ids_that_do_not_fit(released, dataset, tmp_path):
    file = tmp_path / "ids.txt"
    for ids, message in (
        (dataset.raw_item_ids[:-1], "holds 11 ids, 11 different ones; .* has 12 items"),
        ([*dataset.raw_item_ids[:-1], "B00"], "holds 12 ids, 11 different ones"),
        ([*dataset.raw_item_ids[:-1], "other"], "lacks 1 of the 12 items of .*, such as 'other'"),
    ):
        file.write_text("\n".join(ids))
        with pytest.raises(DataFormatError, match=message):
            convert(released("sasrec"), tmp_path / "model", item_ids=file, items=dataset.path)
    with pytest.raises(SettingsError, match=r"--item-ids is missing: .* numbers its 12 items in an order of its own"):
        convert(released("sasrec"), tmp_path / "model", items=dataset.path)
    with pytest.raises(SettingsError, match=r"--item-ids: .*vqrec\.pth holds no items of its own"):
        convert(released("vqrec"), tmp_path / "model", item_ids=file)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("unisrec", {}, "--features is missing: pre-trained UniSRec reads text vectors; .* has: enc, wide"),
        ("vqrec", {}, "--codes is missing: VQ-Rec reads item codes; .* has: fine, pq"),
        ("vqrec", {"codes": "pq", "features": "enc"}, "--features enc: VQ-Rec reads no features"),
        ("unisrec", {"codes": "pq", "features": "enc"}, "--codes pq: pre-trained UniSRec reads no codes"),
    ],
)
def test_flags_that_do_not_fit_the_model(released, dataset, tmp_path, model, arguments, message):
    with pytest.raises(SettingsError, match=message):
        convert(released(model), tmp_path / "model", items=dataset.path, **arguments)


def test_vectors_and_codes_of_other_sizes_are_named_with_both(released, dataset, tmp_path):
    with pytest.raises(CheckpointMismatchError, match=r"reads vectors of width 10, the vectors wide of .* are 11 wide"):
        convert(released("unisrec"), tmp_path / "model", items=dataset.path, features="wide")
    with pytest.raises(CheckpointMismatchError, match=r"reads 2 codes of 4 values, the codes fine of .* are 2 of 6"):
        convert(released("vqrec"), tmp_path / "model", items=dataset.path, codes="fine")


def test_adding_items_that_the_model_cannot_read(released, tmp_path):
    new = [{"raw_id": "a", "text": "x"}]
    convert(released("unisrec"), tmp_path / "unisrec")
    recommender = linguarec.load_model(tmp_path / "unisrec")
    with pytest.raises(DataFormatError, match=r"have the shape \(1, 11\), this model reads vectors of width 10"):
        recommender.add_items(new, vectors_of(1, 11))
    with pytest.raises(SettingsError, match="pass `vectors`"):
        recommender.add_items(new)
    with pytest.raises(UnknownItemError, match="The model has no items yet, so these ids are unknown: 'a'"):
        recommender.recommend([["a"]])
    convert(released("vqrec"), tmp_path / "vqrec")
    with pytest.raises(SettingsError, match="holds no codebook to code new items with"):
        linguarec.load_model(tmp_path / "vqrec").add_items(new, vectors_of(1))


def test_a_codebook_beside_the_model_codes_new_items(released, dataset, tmp_path):
    convert(released("vqrec"), tmp_path / "bare")
    ItemCodes.load(dataset.codes_path("pq")).book.save(tmp_path / "bare" / "code_book.npz")
    recommender = linguarec.load_model(tmp_path / "bare")
    recommender.add_items([{"raw_id": raw_id, "text": "x"} for raw_id in dataset.raw_item_ids], vectors_of())
    result = convert(released("vqrec"), tmp_path / "model", items=dataset.path, codes="pq")
    converted = linguarec.load_model(tmp_path / "model")
    assert torch.equal(recommender.snapshot.ranker.keys, converted.snapshot.ranker.keys)
    # The book of those codes is the model's own from then on: a training that begins with it codes its items by it.
    book = open_start(tmp_path / "model").source.book
    assert book is not None and book.fingerprint == result["code_book"]
    assert names_read("vqrec", "reuse", dataset, open_start(tmp_path / "model"), None, None) == (None, "pq")


def test_what_a_released_checkpoint_has_no_place_for_is_named(released, dataset, tmp_path, caplog):
    convert(released("vqrec"), tmp_path / "bare")
    assert convert(tmp_path / "bare", tmp_path / "bare.pth")["left_out"] == []
    convert(released("vqrec"), tmp_path / "model", items=dataset.path, codes="pq")
    assert not caplog.messages
    assert convert(tmp_path / "model", tmp_path / "model.pth")["left_out"] == ["items", "codes"]
    (warning,) = caplog.messages
    assert warning.startswith(
        f"a released checkpoint has no place for items, codes, and {tmp_path / 'model'} needs them"
    )


def test_an_unfinished_training_is_still_told_apart(released, tmp_path):
    """Its folder has a model and no catalogue, but a catalogue's size."""
    released("unisrec")
    with pytest.raises(CheckpointMismatchError, match="its training is not finished"):
        linguarec.load_model(tmp_path / "own-unisrec")


# -- settings, files


def test_settings_from_beside_the_checkpoint(released, tmp_path):
    state = torch.load(released("vqrec"), weights_only=True)["state_dict"]
    torch.save(state, tmp_path / "bare.pth")
    with pytest.raises(CheckpointMismatchError, match=r"give it by --heads or --released-config"):
        convert(tmp_path / "bare.pth", tmp_path / "model")
    result = convert(tmp_path / "bare.pth", tmp_path / "model", heads=4)
    assert result["n_heads"] == 4
    assert result["assumed"]["temperature"] == 0.07
    file = tmp_path / "config.json"
    file.write_text('{"n_heads": 2, "temperature": 0.2, "layer_norm_eps": 1e-6}')
    result = convert(tmp_path / "bare.pth", tmp_path / "model", released_config=file, overwrite=True)
    _, description = open_model(tmp_path / "model")
    assert (description.encoder.heads, description.encoder.layer_norm_eps, description.config.temperature) == (
        2,
        1e-6,
        0.2,
    )
    assert "temperature" not in result["assumed"]
    for content, message in (("{", "is not JSON"), ("[1]", "holds a list, expected an object")):
        file.write_text(content)
        with pytest.raises(DataFormatError, match=message):
            convert(tmp_path / "bare.pth", tmp_path / "other", released_config=file)


def test_outputs_are_not_replaced_unasked(released, tmp_path):
    file = released("sasrec")
    convert(file, tmp_path / "model")
    with pytest.raises(OutputError, match="--overwrite"):
        convert(file, tmp_path / "model")
    with pytest.raises(OutputError, match=r"sasrec\.pth exists already; choose another file, or pass --overwrite"):
        convert(tmp_path / "model", file)
    with pytest.raises(OutputError, match="it is a folder; name a file"):
        convert(tmp_path / "model", tmp_path / "model", overwrite=True)
    (tmp_path / "model" / "stale").touch()
    convert(file, tmp_path / "model", overwrite=True)
    assert not (tmp_path / "model" / "stale").exists()


def test_flags_for_the_other_direction(released, tmp_path):
    released("sasrec")
    with pytest.raises(SettingsError) as error:
        convert(tmp_path / "own-sasrec", tmp_path / "x.pth", heads=2, features="enc")
    assert error.value.problems == [
        f"--heads is for reading a checkpoint, and {tmp_path / 'own-sasrec'} is a folder",
        f"--features is for reading a checkpoint, and {tmp_path / 'own-sasrec'} is a folder",
    ]
    with pytest.raises(SettingsError, match=r"--codes pq names something in a prepared folder; give it by --items"):
        convert(released("vqrec"), tmp_path / "model", codes="pq")


def test_on_the_command_line(released, tmp_path, capsys):
    file = released("sasrec")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(file), "-o", str(tmp_path / "model"), "--json"])
    assert stop.value.code == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["model"], result["items"], result["hidden_size"]) == ("sasrec", NUM_ITEMS, 8)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(file), "-o", str(tmp_path / "other")])
    assert stop.value.code == 2
    assert "sasrec.pth begins like a file of torch.save and has no end: it is cut short" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


# -- a start for fine-tuning


@pytest.mark.parametrize(
    ("fixture", "model", "mode"),
    [
        ("unisrec_pretrain/official_recbole_config.pth", "unisrec", "inductive"),
        ("unisrec_pretrain/official.pth", "unisrec", "transductive"),
        ("vqrec_pretrain/official.pth", "vqrec", "permutation"),
    ],
)
def test_a_converted_checkpoint_fine_tunes(fixture, model, mode, released_outputs, tmp_path, make_dataset):
    sequences = [[(start + step) % 30 for step in range(8)] for start in range(60)]
    dataset = make_dataset(sequences, num_items=30, features={"enc": vectors_of(30, 48)})
    book = CodeBook("pq", vectors_of(4 * 16, 12).reshape(4, 16, 12), None, None, "enc")
    ItemCodes(book.encode(dataset.features("enc")), book, dataset.texts_fingerprint).save(dataset.codes_path("pq"))
    convert(released_outputs / fixture, tmp_path / "model")
    settings = TrainingSettings(max_epochs=2, accelerator="cpu")
    finetune(model, dataset.path, tmp_path / "run", from_=tmp_path / "model", mode=mode, training=settings)
    before, after = (open_model(tmp_path / name)[0].state_dict() for name in ("model", "run"))
    frozen, tuned = "encoder.layers.0.inner.weight", "codes.weight" if model == "vqrec" else "adaptor.weight"
    assert torch.equal(after[frozen], before[frozen])
    assert after[tuned].shape == before[tuned].shape
    assert not torch.equal(after[tuned], before[tuned])
    assert len(linguarec.load_model(tmp_path / "run").catalogue) == 30
