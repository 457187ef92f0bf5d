"""Fine-tuning of a Recformer: what `linguarec finetune` does where the model reads tokens."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from linguarec.batching.domains import Domain, Domains
from linguarec.batching.token_steps import HistoryLoader
from linguarec.catalogue import Catalogue
from linguarec.data.dataset import PreparedDataset
from linguarec.data.splits import EvaluationCases, evaluation_cases
from linguarec.devices import device_of
from linguarec.evaluation.evaluate import encode_tokens, rank_cases
from linguarec.hub.pretrained import WEIGHTS_FILE, ModelDescription, load_weights, save_pretrained
from linguarec.models.recformer import RecformerConfig
from linguarec.models.shape import CatalogueShape
from linguarec.recipes.runs import open_run, read_of, refuse_windows, valid_of, versions, write_config, write_results
from linguarec.recipes.sentence_inputs import starting_model, tokens_for, warn_of_other_sentences
from linguarec.recipes.starting import Start, check_other_folder, log_start
from linguarec.recipes.training_data import TrainingData
from linguarec.recipes.truncation import count_cut, log_cut
from linguarec.recommender import Recommender
from linguarec.sentences import ITEM_WEIGHTS_FILE, SentenceReader
from linguarec.text.cleaning import TextRules
from linguarec.text.references import lasting_name
from linguarec.text.token_store import StoredTokens
from linguarec.training.recformer import tune_in_two_stages
from linguarec.training.settings import TrainingSettings

NAME = "recformer"


def finetune_recformer(
    data: Path,
    output: Path,
    config: RecformerConfig | None,
    training: TrainingSettings,
    from_: Path | None,
    backbone: str | None,
    tokens: str | None,
    split: str,
    users: float,
    seed: int,
    resume: bool,
    overwrite: bool,
) -> dict[str, Any]:
    """Train in two stages, keep what is best on valid, and test it; arguments as in `finetune`."""
    check_other_folder(from_, output)
    refuse_windows(NAME, training)
    dataset = PreparedDataset.open(data)
    start = None if from_ is None else Start.read(from_)
    backbone = None if backbone is None else lasting_name(backbone)
    if start is not None:
        start.check_model(NAME)
    stored = tokens_for(start, dataset, tokens, backbone)
    network, taken = starting_model(config or RecformerConfig(), stored.form, backbone, start, False, seed)
    config = network.config
    description = ModelDescription(NAME, config, None, CatalogueShape(dataset.num_items))
    settings = {
        **description.to_dict(),
        **read_of(data, dataset, split, users),
        "sentences": asdict(stored.form),
        "seed": seed,
        "training": asdict(training),
        "backbone": backbone,
        "from": taken,
        "versions": versions(),
    }
    longest = config.max_items + 1  # one item more than the model reads, so that what it leaves out can be counted
    read = TrainingData.of(dataset, split, users, training.valid_users, seed, longest)
    domains = Domains([Domain(dataset.name, read.sequences, dataset.num_items, tokens=stored.tokens)])
    # The softmax is over the items that occur in training, as in `finetune`.
    classes = torch.from_numpy(np.unique(read.sequences.values).astype(np.int64))

    def rank(current: nn.Module, keys: Tensor) -> dict[str, float]:
        return rank_cases(current, stored.tokens, keys, read.valid).means()

    def encode(current: nn.Module) -> Tensor:
        return encode_tokens(current, stored.tokens, next(current.parameters()).device)

    def loader() -> HistoryLoader:
        per_step = training.targets_per_step // training.accumulate
        return HistoryLoader(domains, config.max_items, config.max_tokens, per_step, 1.0, False, seed)

    def test_cases() -> EvaluationCases:
        return evaluation_cases(dataset.sequences, dataset.roles(split), "test", longest)

    loader().shard(0, training.devices)  # refuses what cannot work; only now is the folder made
    done = open_run(output, settings, resume, overwrite)
    if done is not None:
        return done
    flags = {
        "from": from_,
        "backbone": backbone,
        "tokens": tokens,
        "split": split,
        "users": users,
        "seed": seed,
        "model": asdict(config),
        "training": asdict(training),
    }
    write_config(output, flags)
    log_start(taken)
    warn_of_other_sentences(start, {data: stored.form})
    cut = count_cut(
        config,
        [stored.tokens],
        {
            "train": [(stored.tokens, read.sequences.without_last())],
            "valid": [(stored.tokens, read.valid.histories)],
            "test": [(stored.tokens, test_cases().histories)],
        },
    )
    log_cut(cut)
    result = tune_in_two_stages(
        network,
        encode,
        classes,
        loader,
        training,
        seed,
        output,
        output / ITEM_WEIGHTS_FILE,
        rank,
        save_best=lambda current: save_pretrained(current, description, output),
        resume=resume,
    )
    if not result.second.main_process:
        return {}
    load_weights(network, output / WEIGHTS_FILE)
    device = device_of(training.accelerator)  # Lightning has moved the model back
    recommender = _finish_run(output, network.to(device), description, dataset, stored)
    second = result.second
    in_second = result.best_stage == 2
    metrics = {
        "run": str(output),
        "model": NAME,
        "seed": seed,
        "best_stage": result.best_stage,
        "best_epoch": second.best_epoch if in_second else result.first["best_epoch"],
        "epochs": result.first["epochs"] + second.epochs,
        "seconds": round(result.first.get("seconds", 0.0) + second.seconds, 1),
        "cut": cut,
        "stage1": result.first,
        "valid": valid_of(second.history, second.best_epoch) if in_second else result.first["valid"],
        "test": rank_cases(network.to(device), recommender.inputs, recommender.keys.to(device), test_cases()).means(),
    }
    write_results(output, NAME, dataset.name, metrics)
    return metrics


def _finish_run(
    output: Path,
    network: nn.Module,
    description: ModelDescription,
    dataset: PreparedDataset,
    stored: StoredTokens,
) -> Recommender:
    """Make the run folder usable on its own: catalogue, tokens, keys, how new items are read."""
    item_model = description.build()
    load_weights(item_model, output / ITEM_WEIGHTS_FILE)
    device = next(network.parameters()).device
    reader = SentenceReader(stored.form, item_model.to(device), stored.tokenizer)
    keys = reader.keys(stored.tokens, device).cpu()
    reader.model.cpu()
    rules = cast(TextRules, dataset.manifest.text_rules)
    catalogue = Catalogue.of(dataset.items(), dataset.manifest.attributes, rules)
    recommender = Recommender(network.cpu(), description, catalogue, stored.tokens, keys, reader=reader)
    recommender.save(output)
    return recommender
