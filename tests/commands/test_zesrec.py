"""ZESRec through the commands: pre-trained on one shop, used in another with and without training."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from prepared import catalogue_batch
from safetensors.torch import load_file

import linguarec
from linguarec.batching.pretraining import ViewSettings
from linguarec.commands.evaluate import evaluate
from linguarec.commands.finetune import finetune
from linguarec.commands.pretrain import pretrain
from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import evaluation_cases
from linguarec.errors import SettingsError
from linguarec.evaluation.evaluate import evaluate_model
from linguarec.families.opening import open_model
from linguarec.nn.encoders import GRUConfig, TransformerConfig
from linguarec.training.settings import TrainingSettings

SMALL = TransformerConfig(hidden_size=16, inner_size=16, layers=1, dropout=0.2, max_length=20)
QUICK = TrainingSettings(learning_rate=5e-3, targets_per_step=200, max_epochs=3, accelerator="cpu")
Shops = list[PreparedDataset]


@pytest.fixture
def start(shops: Shops, tmp_path: Any) -> Any:
    """A model that was pre-trained on the first shop; the second selected its weights."""
    folder, training = tmp_path / "start", replace(QUICK, learning_rate=2e-3, max_epochs=15)
    result = pretrain("zesrec", [shops[0].path], folder, transformer=SMALL, training=training, valid=shops[1].path)
    assert result["domains"].keys() == {shops[0].name}
    return folder


def test_ranks_a_shop_that_it_never_saw(start: Any, shops: Shops) -> None:
    found = evaluate(start, shops[1].path, zero_shot=True, plots=False)
    assert (found["items_read_by_text"], found["trained_on_this_data"]) == (shops[1].num_items, False)
    network, description = open_model(start)
    assert (description.name, description.shape.num_items) == ("zesrec", 0)
    cases = evaluation_cases(shops[1].sequences, shops[1].roles(), "test")
    expected = evaluate_model(network, catalogue_batch(shops[1], "words", None), cases).mean("ndcg@10")
    assert found["systems"]["zesrec"]["ndcg@10"]["mean"] == pytest.approx(expected, abs=1e-6)
    assert expected > 1.2 * found["systems"]["chance"]["ndcg@10"]["mean"]


@pytest.mark.parametrize("frozen", [None, "encoder", "none"])
def test_fine_tunes_with_and_without_its_encoder(frozen: str | None, start: Any, shops: Shops, tmp_path: Any) -> None:
    run = tmp_path / "run"
    finetune("zesrec", shops[1].path, run, from_=start, frozen=frozen, training=QUICK)
    before, after = (load_file(folder / "model.safetensors") for folder in (start, run))
    assert before.keys() == after.keys()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    outside = {"adaptor.weight", "adaptor.bias", "encoder.input_norm.weight", "encoder.input_norm.bias"}
    assert changed == (set(after) if frozen == "none" else outside)
    recommender = linguarec.load_model(run)
    known = shops[1].raw_item_ids[3]
    vectors = shops[1].features("words")[3:4]
    recommender.add_items([{"raw_id": "twin", "title": "", "text": shops[1].texts[3]}], vectors=vectors)
    # Only text counts: an item with the text of another one has its score.
    [picked] = recommender.recommend([shops[1].raw_item_ids[:2]], k=shops[1].num_items)
    scores = {one.raw_id: one.score for one in picked}
    assert scores["twin"] == pytest.approx(scores[known], abs=1e-5)


def test_the_encoder_of_the_paper_pretrains_too(shops: Shops, tmp_path: Any) -> None:
    gru = GRUConfig(hidden_size=16, inner_size=16, max_length=20)
    folders = [shop.path for shop in shops]
    pretrain("zesrec", folders, tmp_path / "gru", sequence_encoder="gru", gru=gru, training=QUICK)
    _, description = open_model(tmp_path / "gru")
    assert description.encoder == gru


def test_augmentation_is_not_for_it(shops: Shops, tmp_path: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        pretrain("zesrec", [shops[0].path], tmp_path / "run", augmentation=ViewSettings(item_drop=0.5), training=QUICK)
    assert caught.value.problems == ["--augmentation: this is not for zesrec; leave it out"]
    with pytest.raises(SettingsError, match="--frozen encoder: there is nothing trained to fix"):
        finetune("zesrec", shops[0].path, tmp_path / "run", frozen="encoder", transformer=SMALL, training=QUICK)
    assert not (tmp_path / "run").exists()
