"""Released names, shapes and settings to ours and back."""

from dataclasses import replace

import pytest
import torch

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.errors import CheckpointMismatchError
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription, ModelFolder
from linguarec.families.recbole import (
    BIAS,
    CODES,
    ITEMS,
    MASK,
    PADDING,
    TASKS,
    TRANS_MATRIX,
    VECTORS,
    from_released,
    recognise,
    to_released,
)
from linguarec.families.recbole_checkpoint import RECBOLE, describe, recbole_checkpoint, released_settings
from linguarec.families.released import read_released
from linguarec.nn.encoders import GRUConfig, TransformerConfig
from linguarec.nn.shape import CatalogueShape
from linguarec.sources.embeddings import EmbeddingSource

ENCODER = TransformerConfig(hidden_size=8, layers=2, heads=2, inner_size=12, max_length=6, dropout=0.3)
SHAPE = CatalogueShape(5, 10, 3, 4)
RELEASED = ("sasrec", "bert4rec", "fdsa", "s3rec", "unisrec", "unisrec-transductive", "vqrec")


def model_of(name, encoder=ENCODER):
    torch.manual_seed(0)
    description = ModelDescription(FAMILIES[name], FAMILIES[name].config(), encoder, SHAPE)
    model = description.build()
    if name == "fdsa":  # the released code has one table of positions for both encoders
        model.feature_encoder.position.load_state_dict(model.encoder.position.state_dict())
    return model, description


def state_of(name):
    """A released state dict with padding, vectors and matrices of its own."""
    model, _ = model_of(name)
    carried = {}
    if FAMILIES[name].per_item:
        carried[PADDING + ITEMS] = torch.randn(8)
    if name == "bert4rec":
        carried[PADDING + BIAS] = torch.randn(1)
    if name == "s3rec":
        sizes = {"N": 6, "F": 10, "D": 8}
        carried |= {key: torch.randn([sizes[letter] for letter in shape]) for key, shape in TASKS.items()}
        carried[MASK] = torch.randn(8)
    if FAMILIES[name].source is EmbeddingSource:
        carried[VECTORS] = torch.randn(6, 10)
    if name == "vqrec":
        carried |= {PADDING + CODES: torch.randn(3, 8), TRANS_MATRIX: torch.randn(3, 5, 5)}
    return to_released(name, model.state_dict(), carried, 3)


def read(file):
    return recbole_checkpoint(read_released(file))


def described(checkpoint, given):
    return describe(checkpoint, given, FAMILIES)


def problems_of(state):
    with pytest.raises(CheckpointMismatchError) as error:
        from_released(state)
    return str(error.value)


@pytest.mark.parametrize("name", RELEASED)
def test_there_and_back(name):
    model, _ = model_of(name)
    state = state_of(name)
    released = from_released(state)
    assert released.form.model == name
    assert released.tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(released.tensors[key], tensor) for key, tensor in model.state_dict().items())
    again = to_released(name, released.tensors, released.carried, released.sizes.get("code_dim"))
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], tensor) for key, tensor in state.items())


def test_sizes_are_read_from_the_tensors():
    encoder = {"hidden_size": 8, "inner_size": 12, "MAX_ITEM_LIST_LENGTH": 6, "n_layers": 2}
    assert from_released(state_of("sasrec")).sizes == encoder
    assert from_released(state_of("vqrec")).sizes == {**encoder, "code_dim": 3, "code_cap": 4}
    released = from_released(state_of("unisrec-transductive"))
    assert released.sizes == {**encoder, "plm_size": 10, "n_exps": 8}
    assert released.num_items == 5


def test_where_tensors_go():
    state = state_of("vqrec")
    released = from_released(state)
    table = state[CODES].view(3, 5, 8)
    assert torch.equal(released.tensors["codes.weight"].view(3, 4, 8), table[:, 1:])
    assert torch.equal(released.carried[PADDING + CODES], table[:, 0])
    assert torch.equal(released.null_item, table[0, 0])
    joined = released.tensors["encoder.layers.1.attention.query_key_value.weight"]
    assert torch.equal(joined[8:16], state["trm_encoder.layer.1.multi_head_attention.key.weight"])
    state = state_of("unisrec-transductive")
    released = from_released(state)
    assert torch.equal(released.tensors["adaptor.weight"][3], state["moe_adaptor.experts.3.lin.weight"])
    assert torch.equal(released.tensors["item.weight"], state[ITEMS][1:])
    assert torch.equal(released.null_item, state[ITEMS][0])


def test_where_the_mask_and_the_biases_of_a_bert4rec_go():
    state = state_of("bert4rec")
    released = from_released(state)
    assert released.num_items == 5
    assert torch.equal(released.tensors["item.weight"], state[ITEMS][1:6])
    assert torch.equal(released.tensors["mask"], state[ITEMS][6])
    assert torch.equal(released.tensors["bias"], state[BIAS][1:])
    assert torch.equal(released.null_item, torch.cat([state[ITEMS][0], state[BIAS][:1]]))
    state[ITEMS] = state[ITEMS][:6]
    assert f"{ITEMS} has 6 rows, expected 7: padding, 5 items and the mask" in problems_of(state)


def test_what_an_s3rec_learned_with_is_carried_and_cannot_be_made():
    state = state_of("s3rec")
    released = from_released(state)
    assert released.tensors.keys() == model_of("sasrec")[0].state_dict().keys()
    assert torch.equal(released.tensors["item.weight"], state[ITEMS][1:6])
    assert torch.equal(released.carried[MASK], state[ITEMS][6])
    assert released.carried.keys() == {*TASKS, MASK, PADDING + ITEMS}
    with pytest.raises(CheckpointMismatchError) as error:
        to_released("s3rec", released.tensors, {})
    assert "missing: aap_norm.weight, which only a converted checkpoint carries along" in str(error.value)
    assert f"missing: {MASK}, which" in str(error.value)


def test_an_s3rec_of_recbole_itself_is_refused_by_name():
    state = state_of("s3rec")
    del state["adapter.mlp_layers.1.weight"], state["adapter.mlp_layers.1.bias"]
    assert "it is RecBole's own S3-Rec, whose attributes are tags" in problems_of(state)


def test_a_bert4rec_of_recbole_1_1_is_refused_by_name(tmp_path):
    """Its keys are those of a SASRec."""
    settings = {**SETTINGS, "model": "BERT4Rec"}
    torch.save({"state_dict": state_of("sasrec"), "config": settings}, tmp_path / "old.pth")
    with pytest.raises(
        CheckpointMismatchError, match=r"old\.pth is a BERT4Rec of RecBole 1\.1 or earlier, which has no output"
    ):
        described(read(tmp_path / "old.pth"), {})
    torch.save({"state_dict": state_of("bert4rec"), "config": settings}, tmp_path / "new.pth")
    assert described(read(tmp_path / "new.pth"), {})[0].name == "bert4rec"


def test_the_form_is_told_by_the_keys():
    titles = {name: recognise(state_of(name)).title for name in RELEASED}
    assert titles == {
        "sasrec": "SASRec of RecBole",
        "fdsa": "FDSA of UniSRec",
        "bert4rec": "BERT4Rec of RecBole",
        "s3rec": "S3-Rec of UniSRec",
        "unisrec": "inductive UniSRec",
        "unisrec-transductive": "transductive UniSRec",
        "vqrec": "VQ-Rec",
    }
    state = state_of("unisrec")
    del state[VECTORS]
    assert recognise(state).title == "pre-trained UniSRec"
    assert from_released(state).num_items is None


def test_a_trans_matrix_is_carried_and_not_applied():
    """The released code evaluates with the code table as it stands, whatever the matrix is."""
    state = state_of("vqrec")
    state[TRANS_MATRIX] = torch.eye(5)[torch.tensor([0, 2, 1, 4, 3])].repeat(3, 1, 1)
    released = from_released(state)
    assert torch.equal(released.tensors["codes.weight"], model_of("vqrec")[0].codes.weight)
    assert torch.equal(released.carried[TRANS_MATRIX], state[TRANS_MATRIX])


def test_what_was_not_carried_is_made():
    model, _ = model_of("vqrec")
    state = to_released("vqrec", model.state_dict(), {}, 3)
    assert torch.equal(state[CODES].view(3, 5, 8)[:, 0], torch.zeros(3, 8))
    assert torch.equal(state[TRANS_MATRIX], torch.eye(5).expand(3, 5, 5))
    model, _ = model_of("sasrec")
    state = to_released("sasrec", model.state_dict(), {})
    assert state[ITEMS][0].tolist() == [0] * 8
    model, _ = model_of("unisrec")
    assert recognise(to_released("unisrec", model.state_dict(), {})).title == "pre-trained UniSRec"
    model, _ = model_of("unisrec-transductive")
    with pytest.raises(CheckpointMismatchError, match=r"missing: plm_embedding\.weight, the text vectors of its items"):
        to_released("unisrec-transductive", model.state_dict(), {})


def test_every_missing_and_unexpected_key_is_named():
    state = state_of("unisrec")
    del state["trm_encoder.layer.0.feed_forward.dense_1.bias"], state["moe_adaptor.experts.2.bias"]
    state |= {"trm_encoder.layer.1.new": torch.ones(1), "other": torch.ones(1)}
    message = problems_of(state)
    assert "taken for inductive UniSRec by its keys" in message
    assert [line for line in message.splitlines() if "missing: " in line or "unexpected: " in line] == [
        "missing: trm_encoder.layer.0.feed_forward.dense_1.bias",
        "missing: moe_adaptor.experts.2.bias",
        "unexpected: trm_encoder.layer.1.new",
        "unexpected: other",
    ]


def test_a_state_dict_of_another_network():
    message = problems_of({f"conv{number}.weight": torch.ones(1) for number in range(7)})
    assert "no released SASRec, BERT4Rec, FDSA, S3-Rec, UniSRec or VQ-Rec" in message
    assert "it has: conv0.weight, conv1.weight, conv2.weight, conv3.weight, conv4.weight and 2 more" in message


def test_tensors_of_another_width_are_named_with_both():
    state = state_of("sasrec")
    key = "trm_encoder.layer.0.multi_head_attention.query.weight"
    state[key] = torch.ones(16, 16)
    assert f"{key}: shape (16, 16), expected (8, 8)" in problems_of(state)
    state = state_of("unisrec")
    state["moe_adaptor.w_gate"] = torch.ones(10, 9)
    assert "moe_adaptor.w_gate: shape (10, 9), expected (10, 8)" in problems_of(state)
    state["moe_adaptor.w_gate"] = torch.ones(10)
    assert "moe_adaptor.w_gate: shape (10,), expected (10, 8)" in problems_of(state)


def test_what_is_no_float32_tensor():
    state = state_of("sasrec")
    state["LayerNorm.weight"], state["LayerNorm.bias"] = state["LayerNorm.weight"].half(), [1.0]
    message = problems_of(state)
    assert "LayerNorm.weight: its numbers are torch.float16, expected torch.float32" in message
    assert "LayerNorm.bias: expected a tensor, found [1.0]" in message


def test_one_released_tensor_for_several_here():
    state = state_of("fdsa")
    state["LayerNorm.weight"] = torch.randn(8)
    tensors = from_released(state).tensors
    norms = ("encoder.input_norm", "feature_encoder.input_norm", "output_norm")
    assert all(torch.equal(tensors[f"{norm}.weight"], state["LayerNorm.weight"]) for norm in norms)
    positions = [tensors[f"{stream}.position.weight"] for stream in ("encoder", "feature_encoder")]
    assert all(torch.equal(table, state["position_embedding.weight"]) for table in positions)
    joined = tensors["feature_encoder.layers.1.attention.query_key_value.weight"]
    assert torch.equal(joined[8:16], state["feature_trm_encoder.layer.1.multi_head_attention.key.weight"])
    assert torch.equal(tensors["merge.weight"], state["concat_layer.weight"])


def test_tensors_that_differ_cannot_become_one():
    """A model that was trained here has three LayerNorms and two tables of positions."""
    released = from_released(state_of("fdsa"))
    tensors = dict(released.tensors)
    tensors["output_norm.bias"] = torch.ones(8)
    tensors["feature_encoder.position.weight"] = torch.zeros(6, 8)
    with pytest.raises(CheckpointMismatchError) as error:
        to_released("fdsa", tensors, released.carried)
    assert str(error.value).splitlines() == [
        "this fdsa cannot be written as FDSA of UniSRec:",
        "encoder.position.weight, feature_encoder.position.weight differ, and the released code has one tensor for them, "
        "position_embedding.weight",
        "encoder.input_norm.bias, feature_encoder.input_norm.bias, output_norm.bias differ, and the released code has one "
        "tensor for them, LayerNorm.bias",
    ]


def test_an_fdsa_whose_streams_do_not_fit():
    state = state_of("fdsa")
    del state["feature_trm_encoder.layer.1.feed_forward.dense_1.bias"]
    state["adapter.mlp_layers.4.weight"] = torch.ones(8, 8)
    message = problems_of(state)
    assert "missing: feature_trm_encoder.layer.1.feed_forward.dense_1.bias" in message
    assert "unexpected: adapter.mlp_layers.4.weight" in message
    state = state_of("fdsa")
    state["concat_layer.weight"] = torch.ones(8, 24)
    assert "concat_layer.weight reads 24 numbers, expected two states of 8" in problems_of(state)


def test_an_fdsa_that_reads_tags_is_refused_by_name():
    """RecBole's own has the item table that identifies a SASRec."""
    state = state_of("sasrec") | {
        "feature_embed_layer.token_embedding_tables.item.class.embedding_table.weight": torch.ones(3, 8),
        "concat_layer.weight": torch.ones(8, 16),
    }
    message = problems_of(state)
    assert "it cannot be converted: its feature_embed_layer.token" in message
    assert "says that it is an FDSA of RecBole, which reads tags of items" in message


def test_codes_that_do_not_fit():
    state = state_of("vqrec")
    state[CODES] = torch.ones(14, 8)
    assert f"{CODES} has 14 rows, expected 3 codebooks x (4 centroids + 1)" in problems_of(state)


def test_a_table_of_padding_alone():
    state = state_of("sasrec")
    state[ITEMS] = state[ITEMS][:1]
    assert "its item table has no row beside that of padding" in problems_of(state)


def test_models_that_the_released_code_lacks():
    model, _ = model_of("sasrec-text")
    with pytest.raises(CheckpointMismatchError, match=r"no form of sasrec-text; it has vqrec, unisrec-transductive"):
        to_released("sasrec-text", model.state_dict(), {})
    model, _ = model_of("sasrec", GRUConfig(hidden_size=8, inner_size=8))
    with pytest.raises(CheckpointMismatchError) as error:
        to_released("sasrec", model.state_dict(), {})
    assert "the released code has no place for: encoder.output.weight" in str(error.value)
    assert "missing: encoder.position.weight" in str(error.value)


@pytest.mark.parametrize("name", ["sasrec", "fdsa"])
def test_a_model_without_positions_is_written_with_vectors_of_zeros(name, tmp_path):
    """It gives the same scores when it is read again, with positions."""
    torch.manual_seed(0)
    encoder = replace(ENCODER, positions="none", initializer_range=0.5)
    description = ModelDescription(FAMILIES[name], FAMILIES[name].config(), encoder, SHAPE)
    model = description.build().eval()
    carried = {VECTORS: torch.randn(6, 10)} if name == "fdsa" else {}
    if name == "fdsa":  # the released code has one LayerNorm
        for norm in (model.feature_encoder.input_norm, model.output_norm):
            norm.load_state_dict(model.encoder.input_norm.state_dict())
    RECBOLE.write(ModelFolder(tmp_path, description, model, carried, {}), tmp_path / "file.pth", False)
    checkpoint = recbole_checkpoint(read_released(tmp_path / "file.pth"))
    read, _ = describe(checkpoint, {}, FAMILIES)
    assert read.encoder == replace(encoder, positions="learned", attention_dropout=0.3)
    again = read.build().eval()
    again.load_state_dict(checkpoint.weights.tensors)
    assert not again.encoder.position.weight.any()
    zeros = torch.zeros(4, dtype=torch.int64)
    history = SequenceBatch(
        torch.tensor([2, 0, 4, 1]), torch.tensor([0, 4]), torch.arange(4), zeros, zeros[:1], zeros[:1]
    )
    items = ItemBatch(torch.arange(5), torch.zeros(5, dtype=torch.int64), torch.randn(5, 10))
    with torch.inference_mode():
        first, second = (each.queries(history, each.item_inputs(items)) for each in (model, again))
    assert torch.equal(first, second)


# -- settings


SETTINGS = {
    "n_heads": 4,
    "temperature": 0.1,
    "hidden_dropout_prob": 0.4,
    "attn_dropout_prob": 0.2,
    "plm_suffix": "feat1",
}


@pytest.fixture
def checkpoint(tmp_path):
    """`checkpoint(model, settings)`: a released file of that model, read again."""

    def make(name="unisrec", settings=SETTINGS):
        torch.save({"state_dict": state_of(name), "config": settings, "epoch": 7}, tmp_path / "released.pth")
        return read(tmp_path / "released.pth")

    return make


def test_settings_that_tensors_cannot_tell(checkpoint):
    description, assumed = described(checkpoint(), {})
    assert description.encoder == replace(ENCODER, heads=4, dropout=0.4, attention_dropout=0.2)
    assert (description.config.temperature, description.config.experts) == (0.1, 8)
    assert description.shape == CatalogueShape(5, 10)
    assert assumed == {"adaptor_dropout_prob": 0.2, "layer_norm_eps": 1e-12, "initializer_range": 0.02} | {
        name: value for name, value in assumed.items() if name == "lambda"
    }
    assert checkpoint().epoch == 7
    given, _ = described(checkpoint(), {"n_heads": 2, "temperature": 0.5})
    assert (given.encoder.heads, given.config.temperature) == (2, 0.5)


def test_the_shares_of_hidden_places_are_read(checkpoint):
    description, _ = described(checkpoint("bert4rec", {"n_heads": 2, "mask_ratio": 0.3, "ft_ratio": 0.25}), {})
    assert (description.config.mask_share, description.config.last_share) == (0.3, 0.25)
    settings = released_settings(description)
    assert (settings["mask_ratio"], settings["ft_ratio"]) == (0.3, 0.25)


def test_released_settings_are_the_inverse(checkpoint):
    description, assumed = described(checkpoint(), {})
    settings = released_settings(description)
    assert {**checkpoint().weights.sizes, **assumed, **SETTINGS, "plm_suffix": None} == {**settings, "plm_suffix": None}


def test_heads_must_be_told_and_divide(checkpoint):
    with pytest.raises(CheckpointMismatchError, match=r"give it by --heads or --released-config"):
        described(checkpoint(settings={}), {})
    for heads, message in (
        (3, "3 does not divide the hidden size 8"),
        (0, "more than 0"),
        ("two", "a number"),
        (2.0, "whole"),
    ):
        with pytest.raises(CheckpointMismatchError, match=f"n_heads: .*{message}"):
            described(checkpoint(), {"n_heads": heads})


def test_settings_that_contradict_the_tensors_are_all_named(checkpoint):
    with pytest.raises(CheckpointMismatchError) as error:
        described(checkpoint(), {"hidden_size": 300, "n_exps": 4, "hidden_act": "relu", "temperature": 0})
    assert str(error.value).splitlines()[1:] == [
        "hidden_size: the tensors say 8, the settings 300",
        "n_exps: the tensors say 8, the settings 4",
        "hidden_act: 'relu'; the Transformer here has gelu only",
        "temperature: expected more than 0, found 0",
    ]
    with pytest.raises(CheckpointMismatchError, match="code_cap: the tensors say 4, the settings 256"):
        described(checkpoint("vqrec"), {"code_cap": 256})


def test_a_bare_state_dict_and_strange_contents(tmp_path):
    torch.save(state_of("sasrec"), tmp_path / "bare.pth")
    checkpoint = read(tmp_path / "bare.pth")
    assert (checkpoint.weights.form.model, checkpoint.settings, checkpoint.epoch) == ("sasrec", {}, None)
    torch.save([1, 2], tmp_path / "bare.pth")
    with pytest.raises(CheckpointMismatchError, match=r"bare\.pth holds a list, expected a dict with a `state_dict`"):
        read(tmp_path / "bare.pth")
    torch.save({"state_dict": 1}, tmp_path / "bare.pth")
    with pytest.raises(CheckpointMismatchError, match="its `state_dict` is 1"):
        read(tmp_path / "bare.pth")
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "bare.pth")
    with pytest.raises(CheckpointMismatchError, match=r"bare\.pth: no released"):
        read(tmp_path / "bare.pth")


@pytest.mark.parametrize("name", ["sasrec", "bert4rec", "unisrec", "vqrec"])
def test_a_written_file_loads_with_weights_only(name, tmp_path):
    model, description = model_of(name)
    stored = {"released_settings": {"dataset": "x"}, "released_epoch": 3}
    RECBOLE.write(ModelFolder(tmp_path, description, model, {}, stored), tmp_path / "out.pth", False)
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    expected = to_released(name, model.state_dict(), {}, 3)
    assert content["state_dict"].keys() == expected.keys()
    assert all(torch.equal(content["state_dict"][key], tensor) for key, tensor in expected.items())
    assert (content["epoch"], content["config"]["dataset"], content["config"]["n_heads"]) == (3, "x", 2)
    assert content["config"]["attn_dropout_prob"] == 0.3
    again, _ = described(read(tmp_path / "out.pth"), {})
    assert again.encoder == replace(ENCODER, attention_dropout=0.3)
