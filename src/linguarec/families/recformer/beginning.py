"""What a Recformer begins as: a language model, the weights of another folder, or random ones."""

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
from linguarec.sources.tokens import TokenSource
from linguarec.text.attributes import AttributeTokenizer, SentenceForm
from linguarec.text.token_store import tokenize_command
from linguarec.training.processes import is_main_process

log = logging.getLogger(__name__)

# Of a model that starts from a backbone these can be chosen: the tables are extended.
_CHOSEN = ("window", "max_tokens", "max_items")


def as_it_began(start: Start) -> tuple[RecformerConfig, str | None]:
    """Config and backbone of a Recformer that begins as the one of `start` once began: as a language model, or at random.

    Raises:
        CheckpointMismatchError: its folder does not tell how.
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
    """`backbone`: the language model that the weights of `start` began as, None = random weights; empty if not known."""
    told = start.settings.get("from") or start.settings
    return {"backbone": told["backbone"]} if "backbone" in told else {}


def starting_model(
    request: Request, form: SentenceForm, language_head: bool
) -> tuple[Recformer, dict[str, Any] | None]:
    """The network that a training begins with, and what was taken over from its start, as settings.json records it.

    Args:
        request: its config holds what was asked for (see `linguarec.given`). More tokens than the weights of the start have
            positions for repeat these. Without a start or a backbone all weights are drawn by the seed, else those of a
            missing head, but for its words, which are the word embeddings.
        form: of the items' tokens.
        language_head: whether the network has the head that guesses words, if mlm_weight is above 0.

    Raises:
        SettingsError: a backbone and a start are given, or settings that the weights do not allow.
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
        if new_head is not None:  # as for a backbone without one
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
    """Whether a setting comes with the backbone."""
    return name in (*sizes_of_weights(RecformerConfig), "initializer_range") and name not in _CHOSEN


def _check_tokenizer(own: SentenceForm, form: SentenceForm, source: str) -> None:
    if own.tokenizer_sha256 != form.tokenizer_sha256:
        raise CheckpointMismatchError(
            f"{source} was trained on tokens of its own tokenizer (SHA-256 {own.tokenizer_sha256[:12]}), the items were "
            f"tokenized by that of {form.backbone} ({form.tokenizer_sha256[:12]}): its ids mean other words. Tokenize with "
            f"{tokenize_command('DATA', replace(form, backbone=own.backbone))}."
        )
