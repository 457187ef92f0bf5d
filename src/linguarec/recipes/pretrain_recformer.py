"""Pre-training of a Recformer: what `linguarec pretrain` does where the model reads tokens."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from linguarec.batching.domains import Domain, Domains
from linguarec.batching.masking import WordMasking
from linguarec.batching.token_steps import HistoryLoader, TokenPairsLoader
from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError
from linguarec.evaluation.evaluate import encode_tokens
from linguarec.files import write_json
from linguarec.hub.pretrained import SENTENCES_FILE, ModelDescription, save_pretrained
from linguarec.models.recformer import RecformerConfig
from linguarec.models.shape import CatalogueShape
from linguarec.recipes.runs import (
    finish_pretraining,
    is_main_process,
    open_run,
    read_of_domains,
    refuse_windows,
    versions,
    write_config,
)
from linguarec.recipes.sentence_inputs import (
    fitting_tokens,
    starting_model,
    tokens_for,
    valid_tokens,
    warn_of_other_sentences,
)
from linguarec.recipes.starting import Start, log_start
from linguarec.recipes.truncation import count_cut, log_cut
from linguarec.recipes.validation import ranked_means, valid_cases
from linguarec.text.attributes import AttributeTokenizer
from linguarec.text.references import lasting_name
from linguarec.text.token_store import copy_tokenizer
from linguarec.training.fit import fit
from linguarec.training.recformer import TokenPreTraining
from linguarec.training.settings import TrainingSettings

NAME = "recformer"
log = logging.getLogger(__name__)


def pretrain_recformer(
    data: list[Path],
    output: Path,
    config: RecformerConfig | None,
    training: TrainingSettings,
    valid: Path | None,
    from_: Path | None,
    mixing: float,
    backbone: str | None,
    tokens: str | None,
    split: str,
    users: float,
    seed: int,
    resume: bool,
    overwrite: bool,
) -> dict[str, Any]:
    """Train by contrast and masked words, keep what is best on valid; arguments as in `pretrain`.

    The word embeddings stay as they are, as published.
    """
    refuse_windows(NAME, training)
    datasets = [PreparedDataset.open(folder) for folder in data]
    start = None if from_ is None else Start.read(from_)
    backbone = None if backbone is None else lasting_name(backbone)
    first = tokens_for(start, datasets[0], tokens, backbone)
    form = first.form
    read = {dataset.path: fitting_tokens(form, dataset, tokens) for dataset in datasets}
    domains = Domains(
        [Domain.of(dataset, split, tokens=read[dataset.path].tokens, users=users, seed=seed) for dataset in datasets]
    )
    network, taken = starting_model(config or RecformerConfig(), form, backbone, start, True, seed)
    network.word.requires_grad_(False)
    config = network.config
    if config.mlm_weight and form.mask is None:
        problem = (
            f"the tokenizer of {form.backbone} has no mask token; masked words need one (--model.mlm_weight 0: without)"
        )
        raise SettingsError([problem])
    held_out = None if valid is None else PreparedDataset.open(valid)
    of_valid = {} if held_out is None else {held_out.path: valid_tokens(form, held_out, tokens)}
    # One item more than the model reads, so that what it leaves out can be counted.
    parts = [
        ((of_valid or read)[dataset.path].tokens, cases)
        for dataset, cases in valid_cases(datasets, held_out, split, config.max_items + 1, training.valid_users)
    ]
    description = ModelDescription(NAME, config, None, CatalogueShape(0))
    settings = {
        **description.to_dict(),
        **read_of_domains(datasets, held_out, split, users),
        "sentences": asdict(form),
        "data_sentences": [asdict(of_folder.form) for of_folder in read.values()],
        "valid_sentences": next((asdict(of_folder.form) for of_folder in of_valid.values()), None),
        "mixing": mixing,
        "seed": seed,
        "training": asdict(training),
        "backbone": backbone,
        "from": taken,
        "versions": versions(),
    }
    masking = None
    if config.mlm_weight:
        assert form.mask is not None
        masking = WordMasking(AttributeTokenizer.of(form, first.tokenizer).continues_a_word(), form.mask, seed)
    per_step = training.targets_per_step // training.accumulate  # negatives come from a part, not from the whole step
    steps = HistoryLoader(domains, config.max_items, config.max_tokens, per_step, mixing, True, seed)
    steps.shard(0, training.devices)  # refuses what cannot work; only now is the folder made
    done = open_run(output, settings, resume, overwrite)
    if done is not None:
        return done
    if is_main_process():
        write_json(output / SENTENCES_FILE, asdict(form))
        copy_tokenizer(first.tokenizer, output)
    flags = {
        "valid": valid,
        "from": from_,
        "mixing": mixing,
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
    warn_of_other_sentences(start, {folder: stored.form for folder, stored in (read | of_valid).items()})
    cut = count_cut(
        config,
        [stored.tokens for stored in (read | of_valid).values()],
        {
            "train": [
                (read[d.path].tokens, domain.sequences.without_last())
                for d, domain in zip(datasets, domains.domains, strict=True)
            ],
            "valid": [(of_items, cases.histories) for of_items, cases in parts],
        },
    )
    log_cut(cut)
    if training.accumulate > 1 and is_main_process():
        log.info(
            "contrast: each part of a step is %d pairs, each other's negatives; --training.accumulate 1 contrasts all %d",
            per_step,
            training.targets_per_step,
        )

    def validate(current: nn.Module) -> dict[str, float]:
        device = next(current.parameters()).device
        return ranked_means(current, ((read, encode_tokens(current, read, device), cases) for read, cases in parts))

    result = fit(
        TokenPreTraining(network, TokenPairsLoader(steps, masking), training, seed),
        output,
        validate,
        save_best=lambda current: save_pretrained(current, description, output),
        resume=resume,
    )
    if not result.main_process:
        return {}
    counts = [int((domain.sequences.lengths >= 2).sum()) for domain in domains.domains]
    return finish_pretraining(output, NAME, datasets, counts, seed, result, cut)
