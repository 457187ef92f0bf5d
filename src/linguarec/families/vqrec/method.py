"""Training of VQ-Rec: contrast over several domains, then next-item prediction on one, with items as codes.

The codes of a new domain come from the codebook of the pre-training (`--mode reuse`) or from its own; with its own codebook, a
first stage may learn which pre-trained embedding each code takes (`--mode permutation`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from linguarec.batching.pretraining import NegativeSettings, PretrainingLoader
from linguarec.errors import SettingsError
from linguarec.families.contrast import plan_contrast
from linguarec.families.family import Family, Plan, Request, Start, Task, with_encoder
from linguarec.families.flags import refuse
from linguarec.families.next_item import FirstStage, StartOptions, plan_next_item
from linguarec.families.options import EncoderOptions
from linguarec.families.padded import padded_vectors
from linguarec.families.recbole_checkpoint import RECBOLE
from linguarec.families.vqrec.model import VQRec, VQRecConfig
from linguarec.families.vqrec.permutation import PermutationSettings, permutation_stage
from linguarec.families.ways import ways_of
from linguarec.sources.codes import CodeSource
from linguarec.sources.joined import JoinedItems

# End of the error messages about a start's codebook that cannot be used.
OWN_CODES = "; or fine-tune on codes of the data's own by `linguarec finetune --mode permutation` or `--mode direct`"


@dataclass(frozen=True)
class FineTuningOptions(StartOptions):
    """The codes, the sequence encoder, and which part of a start is frozen.

    Args:
        sequence_encoder: encoder of the histories; transformer by default
        transformer: settings of the sequence encoder, if it is a Transformer
        gru: settings of the sequence encoder, if it is a GRU
        pooling: settings of the sequence encoder, if it is pooling
        history_in_softmax: kept (default) or excluded; excluded trains each position without the items of its history as
            classes of the softmax, except the target
        ties: fixed (default) or shuffled; shuffled draws a new order of the items of a user with equal timestamps for every
            epoch, for data whose order of ties says nothing
        softmax: over which items the loss of a step runs
        frozen: encoder (default with --from) freezes the loaded sequence encoder except its input LayerNorm
        codes: name of the item codes; not needed if the folder has one kind beside those of borrowed codebooks (book-...)
        features: --mode reuse: name of the item text vectors to code the items from; not needed if the folder has one kind
        mode: with --from: reuse (default) codes the items with the codebook of the pre-training; with the data's own codes,
            permutation learns which pre-trained embedding each of them takes, and direct keeps their numbers
        permutation: settings of the stage that learns the permutation (--mode permutation)
    """

    codes: str | None = None
    features: str | None = None
    mode: Literal["reuse", "permutation", "direct"] | None = None
    permutation: PermutationSettings | None = None


@dataclass(frozen=True)
class PretrainingOptions(EncoderOptions):
    """The codes, the sequence encoder, and the semi-synthetic negatives.

    Args:
        sequence_encoder: encoder of the histories; transformer by default
        transformer: settings of the sequence encoder, if it is a Transformer
        gru: settings of the sequence encoder, if it is a GRU
        pooling: settings of the sequence encoder, if it is pooling
        codes: name of the item codes; not needed if the folders have one kind
        features: name of the item text vectors, to code items that have no codes of the model's codebook (--from, --valid);
            not needed if the folders have one kind
        augmentation: how semi-synthetic negatives are made
    """

    codes: str | None = None
    features: str | None = None
    augmentation: NegativeSettings | None = None


def plan_finetuning(request: Request) -> Plan:
    """One stage over the codes of the catalogue; `--mode permutation` adds a stage before it."""
    options, start = request.options, request.start
    if options.mode is not None and start is None:
        raise SettingsError(
            [f"--mode {options.mode} is about pre-trained code embeddings; name their folder with --from"]
        )
    mode = None if start is None else options.mode or "reuse"
    if mode != "reuse":
        who = request.family.name if mode is None else f"{request.family.name} --mode {mode}"
        refuse(who, {"features": options.features})
    settings = options.permutation or PermutationSettings()
    if settings != PermutationSettings() and mode != "permutation":
        raise SettingsError(["--permutation.*: these settings are for --from FOLDER --mode permutation"])
    asked = {"codes": options.codes, "features": options.features}
    own = request.start_source(CodeSource)
    if own is not None and mode == "reuse":
        source = own.coded_alike(request.dataset, asked, OWN_CODES)
    else:
        source = CodeSource.choose(request.dataset, asked, own)
    learned = mode == "permutation"
    request = replace(request, options=replace(options, permutation=settings if learned else None))
    first: Sequence[FirstStage] = [permutation_stage(request, settings)] if learned else []
    plan = plan_next_item(request, source, first, mode)
    if plan.taken is not None:
        plan = replace(plan, taken={**plan.taken, "permutation": asdict(settings) if learned else None})
    return plan


def plan_pretraining(request: Request) -> Plan:
    """Contrast of histories with next items and their semi-synthetic variants."""
    options: PretrainingOptions = request.options
    negatives = options.augmentation or NegativeSettings()
    if request.start is None and request.valid is None:
        refuse(f"{request.family.name} without --from or --valid", {"features": options.features})
    asked = {"codes": options.codes, "features": options.features}
    sources = CodeSource.choose_for_all(request.datasets, asked, request.start_source(CodeSource))
    held_out = None
    if request.valid is not None:
        held_out = sources[0].matching(request.valid, {"features": options.features}, encode=False)
    codes = options.codes if request.start is not None else sources[0].name
    options = replace(options, codes=codes, augmentation=negatives)
    return plan_contrast(
        replace(request, options=options),
        sources,
        held_out,
        lambda steps: PretrainingLoader(steps, JoinedItems(sources), None, negatives, sources[0].centroids),
    )


def ways(start: Start, asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Training from scratch reads the data's own codes; so does a start, except with `--mode reuse`, which codes vectors."""
    reuse = asked.get("mode") in (None, "reuse")
    names = {flag: value for flag, value in asked.items() if flag != "mode"}
    of_scratch = {flag: value for flag, value in names.items() if flag != "features"}
    of_tuned = {flag: value for flag, value in names.items() if flag != ("codes" if reuse else "features")}
    return ways_of(start, of_scratch, of_tuned | {"mode": asked.get("mode") or "reuse"})


VQREC = Family(
    name="vqrec",
    summary="items by vector-quantised text",
    config=VQRecConfig,
    build=with_encoder(VQRec),
    source=CodeSource,
    finetuning=Task(FineTuningOptions, plan_finetuning),
    pretraining=Task(PretrainingOptions, plan_pretraining),
    ways=ways,
    released=RECBOLE,
    padded=padded_vectors,
)
