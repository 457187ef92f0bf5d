"""Initial weights of a Recformer training: from a language model, from another folder, or random."""

import logging
from dataclasses import replace
from typing import Any

import torch

from linguarec.checks import sizes_of_weights
from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.families.family import Request, Start
from linguarec.families.recformer.backbone import check_vocabulary, extended_positions, recformer_from_backbone
from linguarec.families.recformer.model import Recformer, RecformerConfig
from linguarec.families.start import merge_settings, take_over
from linguarec.families.weights import SETTINGS_FILE
from linguarec.given import given
from linguarec.processes import is_main_process
from linguarec.sources.tokens import TokenSource
from linguarec.text.attributes import AttributeTokenizer, SentenceForm
from linguarec.text.token_store import tokenize_command

log = logging.getLogger(__name__)

# Sizes that the user can choose when starting from a backbone: the tables are extended.
_CHOSEN = ("window", "max_tokens", "max_items")


def as_it_began(start: Start) -> tuple[RecformerConfig, str | None]:
    """Config and backbone to repeat the initialisation of the model in `start`, before its own training.

    Returns:
        The config, and the backbone; None = random initial weights.

    Raises:
        CheckpointMismatchError: the folder does not record its initialisation.
    """
    config, began = start.description.config, _beginning(start)
    if not began:
        raise CheckpointMismatchError(
            f"{start.folder} does not tell what it began as: its {SETTINGS_FILE} names no backbone, as after a conversion."
        )
    if began["backbone"] is not None:
        defaults = RecformerConfig()
        config = replace(config, **{name: getattr(defaults, name) for name in vars(config) if _of_backbone(name)})
    return config, began["backbone"]


def _beginning(start: Start) -> dict[str, str | None]:
    """`backbone`: the language model that `start` was initialised from, None = random weights; empty if not recorded."""
    told = start.settings.get("from") or start.settings
    return {"backbone": told["backbone"]} if "backbone" in told else {}


def starting_model(
    request: Request, form: SentenceForm, language_head: bool
) -> tuple[Recformer, dict[str, Any] | None]:
    """The initial network of a training, and the record of the weights from its start for settings.json (None = no start).

    Args:
        request: its config records which settings the user set (see `linguarec.given`). If max_tokens exceeds the positions of
            the start, these are repeated. Without a start or a backbone all weights are drawn with the seed; with one of them
            only those of a missing LM head, whose word vectors are copied from the word embeddings.
        form: of the items' tokens.
        language_head: whether the network gets an LM head, if mlm_weight is above 0.

    Raises:
        SettingsError: both a backbone and a start are set, or settings do not fit the weights.
        CheckpointMismatchError: the weights are of another model, or were made for another tokenizer.
    """
    start, backbone, seed = request.start, request.options.backbone, request.seed
    config: RecformerConfig = request.config or RecformerConfig()
    if backbone is not None and start is not None:
        raise SettingsError(["--backbone and --from both name weights to start from; give one of them"])
    torch.manual_seed(seed)
    asked = given(config)
    asked.pop("language_head", None)
    if start is not None:
        assert isinstance(start.source, TokenSource)
        own = start.source.form
        if own is not None:
            _check_tokenizer(own, form, str(start.folder))
        began = start.description.config
        rows = max(began.positions, began.first_position + asked.get("max_tokens", 0))
        merged, problems = merge_settings(start, replace(began, positions=rows), config, "model")
        if problems:
            raise SettingsError(problems)
        check_vocabulary(form, merged)
        language_head = language_head and merged.mlm_weight > 0
        network = Recformer(replace(merged, language_head=language_head))
        new_head = None if start.description.config.language_head else network.language_head
        new = [] if new_head is None else [name for name in network.state_dict() if name.startswith("language_head.")]
        positions = extended_positions(start.network.state_dict()["position.weight"], began.first_position, rows)
        taken = take_over(start, network, new=new, grown={"position.weight": positions})
        if rows > began.positions and is_main_process():
            log.info("positions of %s, for %d tokens, are repeated for %d", start.folder, began.positions, rows)
        if new_head is not None:  # as for a backbone without an LM head
            with torch.no_grad():
                new_head.words.weight.copy_(network.word.weight)
        return network, taken | _beginning(start)
    if backbone is not None:
        _check_tokenizer(AttributeTokenizer.load(backbone).form, form, backbone)
        network = recformer_from_backbone(
            backbone,
            config.window,
            config.max_tokens,
            config.max_items,
            language_head and config.mlm_weight > 0,
            {name: value for name, value in asked.items() if name not in _CHOSEN and not _of_backbone(name)},
        )
        theirs = vars(network.config)
        problems = [
            f"--model.{name} {value}: it comes with the backbone {backbone} ({theirs[name]}); leave the flag out"
            for name, value in asked.items()
            if _of_backbone(name) and value != theirs[name]
        ]
        if problems:
            raise SettingsError(problems)
        check_vocabulary(form, network.config)
        return network, None
    if asked.get("vocabulary", form.vocabulary) != form.vocabulary:
        raise SettingsError(
            [
                f"--model.vocabulary {config.vocabulary}: the items are tokenized into {form.vocabulary}; leave the flag out"
            ]
        )
    language_head = language_head and config.mlm_weight > 0
    return Recformer(replace(config, language_head=language_head, vocabulary=form.vocabulary)), None


def _of_backbone(name: str) -> bool:
    """Whether the backbone decides this setting."""
    return name in (*sizes_of_weights(RecformerConfig), "initializer_range") and name not in _CHOSEN


def _check_tokenizer(own: SentenceForm, form: SentenceForm, source: str) -> None:
    if own.tokenizer_sha256 != form.tokenizer_sha256:
        raise CheckpointMismatchError(
            f"{source} was trained on tokens of its own tokenizer (SHA-256 {own.tokenizer_sha256[:12]}), the items were "
            f"tokenized by that of {form.backbone} ({form.tokenizer_sha256[:12]}): its ids mean other words. Tokenize with "
            f"{tokenize_command('DATA', replace(form, backbone=own.backbone))}."
        )
