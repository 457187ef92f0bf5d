"""Item tokens of prepared folders, and the Recformer that reads them: from a backbone, from another folder, or new."""

import logging
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from linguarec.data.dataset import PreparedDataset
from linguarec.errors import CheckpointMismatchError, SettingsError, StaleFeaturesError
from linguarec.given import given
from linguarec.hub.backbone import check_vocabulary, extended_positions, recformer_from_backbone
from linguarec.hub.pretrained import AGAIN, SENTENCES_FILE
from linguarec.models.recformer import Recformer, RecformerConfig
from linguarec.recipes.runs import SETTINGS_FILE, choose, is_main_process
from linguarec.recipes.starting import WEIGHTS_NEED, Start, take_over
from linguarec.stored import read_json
from linguarec.text.attributes import AttributeTokenizer, SentenceForm
from linguarec.text.token_store import StoredTokens, open_tokens, read_form, tokenize_command

log = logging.getLogger(__name__)

# Of a model that starts from a backbone these can be chosen: the tables are extended.
_CHOSEN = ("window", "max_tokens", "max_items")


def stored_tokens(dataset: PreparedDataset, asked: str | None, backbone: str | None = None) -> StoredTokens:
    """The tokens of a folder: those asked for, or the only ones; `backbone` is the one that they are needed for, if any.

    Raises:
        SettingsError: there are none, or several.
        StaleFeaturesError: they were made from another catalogue.
    """
    flags = "" if backbone is None else f" --backbone {shlex.quote(backbone)}"
    return _opened(dataset, choose("tokens", asked, dataset.token_names, dataset, "tokenize", flags))


def fitting_tokens(form: SentenceForm, dataset: PreparedDataset, asked: str | None = None) -> StoredTokens:
    """The tokens of a folder that were made by the tokenizer of `form`.

    Raises:
        StaleFeaturesError: there are none, or those asked for are of another tokenizer.
        SettingsError: several fit.
    """
    if asked is not None:
        stored = {asked: stored_tokens(dataset, asked)}
    else:
        stored = {name: _opened(dataset, name) for name in dataset.token_names}
    fitting = [name for name, tokens in stored.items() if tokens.form.tokenizer_sha256 == form.tokenizer_sha256]
    if len(fitting) > 1:
        raise SettingsError(
            [
                f"{dataset.path} has several item tokens that fit: {', '.join(fitting)}; choose one with --tokens, or "
                "keep only one of them there"
            ]
        )
    if not fitting:
        found = ", ".join(f"{name} by that of {tokens.form.backbone}" for name, tokens in stored.items()) or "no tokens"
        taken = (asked or Path(form.backbone).name) in dataset.token_names
        raise StaleFeaturesError(
            f"The model reads tokens by the tokenizer of {form.backbone}, and {dataset.path} has {found}. "
            f"{_again(dataset, form, asked, overwrite=taken)}"
        )
    return stored[fitting[0]]


def valid_tokens(form: SentenceForm, dataset: PreparedDataset, asked: str | None) -> StoredTokens:
    """The tokens of a folder that only validates: those of the name asked for if it has them, else those that fit.

    Raises:
        SettingsError, StaleFeaturesError: as `fitting_tokens`.
    """
    return fitting_tokens(form, dataset, asked if asked in dataset.token_names else None)


def _opened(dataset: PreparedDataset, name: str) -> StoredTokens:
    def again(form: SentenceForm | None) -> str:
        return _again(dataset, form, name, overwrite=True)

    return open_tokens(dataset.tokens_path(name), dataset.fingerprint, again)


def _again(dataset: PreparedDataset, form: SentenceForm | None, name: str | None, overwrite: bool) -> str:
    """How tokens come to a folder, of those attributes of the form that it has."""
    known = [*dataset.manifest.attributes, "text"]
    return f"Make them: {tokenize_command(dataset.path, form, known, name, overwrite)}."


def form_of(folder: Path) -> SentenceForm | None:
    """How the model in `folder` was given items; None where the folder does not tell, as after a conversion."""
    file = folder / SENTENCES_FILE
    return read_form(file) if file.exists() else None


def tokens_for(
    start: Start | None, dataset: PreparedDataset, asked: str | None, backbone: str | None = None
) -> StoredTokens:
    """The tokens of a folder for a training that begins with `start` or a backbone: those of its tokenizer, where it tells
    which.

    Raises:
        SettingsError, StaleFeaturesError: as `stored_tokens`, `fitting_tokens`.
    """
    form = None if start is None else form_of(start.folder)
    if backbone is not None and start is None and asked is None and len(dataset.token_names) > 1:
        form = AttributeTokenizer.load(backbone).form
    return stored_tokens(dataset, asked, backbone) if form is None else fitting_tokens(form, dataset, asked)


def warn_of_other_sentences(start: Start | None, read: Mapping[Path, SentenceForm]) -> None:
    """Tell, in one warning, where the items of folders do not become sentences alike, or otherwise than those of `start`.

    It is no error: a shop may lack an attribute, or call it by another name.

    Args:
        start: the model that reads them, if there is one already.
        read: folder -> form of its tokens.
    """
    own = None if start is None else form_of(start.folder)
    forms = dict(read) if start is None or own is None else {start.folder: own, **read}
    alike: dict[str, list[str]] = {}
    for folder, form in forms.items():
        told = (
            f"attributes {', '.join(form.attributes)}, of each at most {form.attribute_tokens} tokens, "
            f"text rules {form.text_rules}"
        )
        alike.setdefault(told, []).append(str(folder))
    if len(alike) > 1 and is_main_process():
        sides = "; ".join(f"{', '.join(folders)}: {told}" for told, folders in alike.items())
        log.warning(
            "items become sentences in %d ways: %s. If that is not meant, tokenize with the same --attributes and "
            "--attribute-tokens, and prepare with the same --text-rules.",
            len(alike),
            sides,
        )


def from_scratch(start: Start) -> dict[str, Any]:
    """`config` and `backbone` of a Recformer that begins as the one of `start` once began: as a language model, or at random.

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
    return {"config": config, **began}


def _beginning(start: Start) -> dict[str, str | None]:
    """`backbone`: the language model that the weights of `start` began as, None = random weights; empty if not known."""
    file = start.folder / SETTINGS_FILE
    settings = read_json(file, CheckpointMismatchError, AGAIN) if file.exists() else {}
    told = settings.get("from") or settings
    return {"backbone": told["backbone"]} if "backbone" in told else {}


def starting_model(
    config: RecformerConfig,
    form: SentenceForm,
    backbone: str | None,
    start: Start | None,
    language_head: bool,
    seed: int,
) -> tuple[Recformer, dict[str, Any] | None]:
    """The network that a training begins with, and what was taken over from `start`, as settings.json records it.

    Args:
        config: what was asked for (see `given`). More tokens than the weights of `start` have positions for repeat these.
        form: of the items' tokens.
        backbone: the language model to start from, or None.
        start: the folder to start from, or None. Neither: random weights.
        language_head: whether the network has the head that guesses words, if mlm_weight is above 0.
        seed: of what is drawn: without a start or a backbone all weights, else those of a missing head, but for its words,
            which are the word embeddings.

    Raises:
        SettingsError: both are given, or settings that the weights do not allow.
        CheckpointMismatchError: the weights are of another model, or were made for another tokenizer.
    """
    if backbone is not None and start is not None:
        raise SettingsError(["--backbone and --from both name weights to start from; give one of them"])
    torch.manual_seed(seed)
    asked = given(config)
    asked.pop("language_head", None)
    if start is not None:
        start.check_model("recformer")
        own = form_of(start.folder)
        if own is not None:
            _check_tokenizer(own, form, str(start.folder))
        began = start.description.config
        rows = max(began.positions, began.first_position + asked.get("max_tokens", 0))
        merged, problems = start.merged(replace(began, positions=rows), config, "model")
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
    return name in (*WEIGHTS_NEED, "initializer_range") and name not in _CHOSEN


def _check_tokenizer(own: SentenceForm, form: SentenceForm, source: str) -> None:
    if own.tokenizer_sha256 != form.tokenizer_sha256:
        raise CheckpointMismatchError(
            f"{source} was trained on tokens of its own tokenizer (SHA-256 {own.tokenizer_sha256[:12]}), the items were "
            f"tokenized by that of {form.backbone} ({form.tokenizer_sha256[:12]}): its ids mean other words. Tokenize with "
            f"{tokenize_command('DATA', replace(form, backbone=own.backbone))}."
        )
