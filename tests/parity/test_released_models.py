"""The released weights, converted, give the released scores and losses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from linguarec.batching.batches import ItemBatch, SequenceBatch
from linguarec.batching.pretraining import PretrainingBatch
from linguarec.commands.convert import convert
from linguarec.families import FAMILIES
from linguarec.families.opening import open_model
from linguarec.families.recbole import VECTORS
from linguarec.families.recbole_checkpoint import recbole_checkpoint
from linguarec.families.released import read_released
from linguarec.nn.losses import catalogue_cross_entropy

CASES = {
    "sasrec": "sasrec",
    "fdsa": "fdsa",
    "bert4rec": "bert4rec",
    "s3rec": "s3rec",
    "unisrec_inductive_ft": "unisrec",
    "unisrec_transductive_ft": "unisrec-transductive",
    "unisrec_pretrain": "unisrec",
    "unisrec_pretrain/official_recbole_config.pth": "unisrec",
    "vqrec_inductive_ft": "vqrec",
    "vqrec_pretrain": "vqrec",
}


class Converted:
    """A released model as `linguarec convert` writes it, with the inputs and outputs that were recorded of it."""

    def __init__(self, file: Path, output: Path, name: str) -> None:
        convert(file, output)
        loaded, description = open_model(output)
        assert description.name == name
        self.model: nn.Module = loaded
        self.io = load_file(file.parent / "io.safetensors")
        weights = recbole_checkpoint(read_released(file)).weights
        # FDSA's network redraws the vectors that it is given: those that it read are in the checkpoint.
        self.vectors = weights.carried.get(VECTORS, self.io.get("plm_embedding"))
        num_items = len(self.io["pq_codes"] if self.vectors is None else self.vectors) - 1
        codes = features = None
        if "pq_codes" in self.io:
            code_books, centroids = description.shape.needs_codes()
            codes = self.io["pq_codes"][1:] - 1 - torch.arange(code_books) * (centroids + 1)
        if self.vectors is not None:
            features = self.vectors[1:]
        self.items = ItemBatch(torch.arange(num_items), torch.zeros(num_items).long(), features, codes)
        self.null_item = weights.null_item
        self.keys_of_text = description.family.ranks_new

    def null_key(self) -> Tensor:
        """The padding class of the released code, as one more key [1, D]."""
        vector = self.null_item
        if self.vectors is not None and self.keys_of_text:
            adapted = self.model.adaptor(self.vectors[:1])[0]
            vector = adapted if vector is None else adapted + vector
        assert vector is not None
        if hasattr(self.model.config, "temperature"):
            vector = F.normalize(vector, dim=-1) / self.model.config.temperature
        return vector[None]

    def batch(self, histories: str = "item_seq") -> SequenceBatch:
        """The recorded padded histories, ragged, in their own order."""
        lengths = self.io[f"{histories}_len"]
        offsets = torch.cat([torch.zeros(1).long(), lengths.cumsum(0)])
        read = torch.arange(self.io[histories].shape[1]) < lengths[:, None]
        items = self.io[histories][read] - 1
        positions = torch.arange(read.shape[1]).expand_as(read)[read]
        targets = torch.full_like(items, -1)
        targets[offsets[1:] - 1] = self.io["pos_items"]  # an index into the keys with the null class in front
        nobody = torch.zeros(len(lengths)).long()
        return SequenceBatch(items, offsets, positions, targets, nobody, nobody)

    def pretraining_batch(self) -> PretrainingBatch:
        """The recorded prefixes as a step of pre-training: one target each, every row a user of its own."""
        batch = self.batch()
        targets = torch.where(batch.targets > 0, batch.targets - 1, -1)  # no null class here
        sequences = replace(batch, targets=targets, users=torch.arange(len(batch)))
        augmented = self.batch("aug_item_seq") if "aug_item_seq" in self.io else None
        negatives = None
        if "fake_codes" in self.io:
            code_books, centroids = self.model.shape.needs_codes()
            negatives = self.io["fake_codes"] - 1 - torch.arange(code_books) * (centroids + 1)
        return PretrainingBatch(self.items, sequences, augmented, negatives, 0, len(sequences))


@pytest.fixture
def converted(request: pytest.FixtureRequest, released_outputs: Path, tmp_path: Path) -> Converted:
    file = released_outputs / request.param
    return Converted(file / "official.pth" if file.is_dir() else file, tmp_path / "model", CASES[request.param])


BOTH_WAYS = [case for case, name in CASES.items() if FAMILIES[name].both_ways]
CAUSAL = [case for case in CASES if case not in BOTH_WAYS]
WITH_STATES = [case for case in CAUSAL if CASES[case] not in ("sasrec", "fdsa", "s3rec")]
WITH_SCORES = [case for case in CAUSAL if "_pretrain" not in case]


@pytest.mark.parametrize("converted", WITH_STATES, indirect=True)
@torch.no_grad()
def test_last_states_and_items_are_the_released_ones(converted: Converted) -> None:
    batch = converted.batch()
    states = converted.model.encoder(
        converted.model.item_inputs(converted.items)[batch.items], batch.positions, batch.offsets
    )
    expected = converted.io["seq_output"]
    found = states[batch.last]
    if torch.allclose(expected.norm(dim=-1), torch.ones(len(expected)), atol=1e-4):
        found = F.normalize(found, dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    by_text = converted.model.adaptor if hasattr(converted.model, "adaptor") else converted.model.codes
    read = converted.items.codes if converted.items.features is None else converted.items.features
    torch.testing.assert_close(by_text(read), converted.io["item_emb"][1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("converted", WITH_SCORES, indirect=True)
@torch.no_grad()
def test_scores_and_loss_are_the_released_ones(converted: Converted) -> None:
    batch = converted.batch()
    queries = converted.model.queries(batch, converted.model.item_inputs(converted.items))
    keys = torch.cat([converted.null_key(), converted.model.item_keys(converted.items)])
    # The released losses divide cosines by the temperature, the released predictions do not.
    scores = queries[batch.last] @ keys.T * getattr(converted.model.config, "temperature", 1)
    torch.testing.assert_close(scores, converted.io["scores"], atol=1e-5, rtol=1e-5)
    if "loss" in converted.io:  # S3-Rec's has the mask as one more class, and was not recorded
        loss = catalogue_cross_entropy(queries, keys, batch.targets)
        torch.testing.assert_close(loss, converted.io["loss"][0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("converted", ["fdsa"], indirect=True)
@torch.no_grad()
def test_the_released_fdsa_reads_noise(converted: Converted) -> None:
    """Its recorded scores are not those of the data's text vectors, which are a part of its initialised weights."""
    given = converted.io["plm_embedding"]
    assert converted.vectors.std() < 0.1 < given[1:].std()
    assert torch.corrcoef(torch.stack([converted.vectors[1:].flatten(), given[1:].flatten()]))[0, 1].abs() < 0.05
    batch, items = converted.batch(), replace(converted.items, features=given[1:])
    queries = converted.model.queries(batch, converted.model.item_inputs(items))
    scores = queries[batch.last] @ converted.model.item_keys(items).T
    assert (scores - converted.io["scores"][:, 1:]).abs().max() > 0.5


@pytest.mark.parametrize("converted", BOTH_WAYS, indirect=True)
@torch.no_grad()
def test_scores_of_whole_histories_are_the_released_ones(converted: Converted) -> None:
    """The released code leaves out the first item of every history, not of full ones alone; the first row is then empty."""
    converted.io["item_seq"], converted.io["item_seq_len"] = (
        converted.io["item_seq"][:, 1:],
        converted.io["item_seq_len"] - 1,
    )
    queries = converted.model.queries(converted.batch(), converted.model.item_inputs(converted.items))
    keys = torch.cat([converted.null_key(), converted.model.item_keys(converted.items)])
    torch.testing.assert_close(queries @ keys.T, converted.io["scores"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("converted", CAUSAL, indirect=True)
@torch.no_grad()
def test_ragged_path_equals_padded_prefixes(converted: Converted) -> None:
    """One pass over a sequence gives at each position what the prefix alone gives."""
    batch = converted.batch()
    inputs = converted.model.item_inputs(converted.items)
    queries = converted.model.queries(batch, inputs)
    row = int((batch.offsets[1:] - batch.offsets[:-1]).argmax())
    start, stop = int(batch.offsets[row]), int(batch.offsets[row + 1])
    for end in range(start + 1, stop + 1):
        length = end - start
        one = torch.zeros(1).long()
        prefix = SequenceBatch(
            batch.items[start:end], torch.tensor([0, length]), torch.arange(length), batch.targets[start:end], one, one
        )
        torch.testing.assert_close(converted.model.queries(prefix, inputs)[-1], queries[end - 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("converted", [case for case in CASES if "_pretrain" in case], indirect=True)
@torch.no_grad()
def test_pretraining_losses_in_the_released_form(converted: Converted) -> None:
    """Two recorded rows share their target, so the masked form counts."""
    batch = converted.pretraining_batch()
    loss = converted.model.pretrain_loss(batch, masked_logit=0.0)
    torch.testing.assert_close(loss, converted.io["loss"][0], atol=1e-4, rtol=0)
    ours = converted.model.pretrain_loss(batch)
    assert ours < loss - 1e-3  # what is no negative adds nothing to the denominator
    if "loss_seq_item" in converted.io:
        alone = converted.model.pretrain_loss(replace(batch, augmented=None), masked_logit=0.0)
        torch.testing.assert_close(alone, converted.io["loss_seq_item"][0], atol=1e-4, rtol=0)
        contrast = (loss - alone) / converted.model.config.sequence_contrast
        torch.testing.assert_close(contrast, converted.io["loss_seq_seq"][0], atol=1e-3, rtol=0)
