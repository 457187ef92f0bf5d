"""Training of RecGURU: user vectors aligned over several shops, then next-item prediction in one of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from linguarec.data.dataset import PreparedDataset
from linguarec.errors import SettingsError
from linguarec.families.family import Family, Plan, Request, Task, with_encoder
from linguarec.families.next_item import FirstStage, NextItemOptions, plan_next_item
from linguarec.families.padded import padded_vectors
from linguarec.families.recguru.alignment import AlignmentSettings, alignment_stage
from linguarec.families.recguru.model import RecGURU, RecGURUConfig
from linguarec.sources.ids import IdSource


@dataclass(frozen=True)
class FineTuningOptions(NextItemOptions):
    """The sequence encoder, and the alignment with other shops.

    Args:
        sequence_encoder: encoder of the histories; transformer by default
        transformer: settings of the sequence encoder, if it is a Transformer
        gru: settings of the sequence encoder, if it is a GRU
        pooling: settings of the sequence encoder, if it is pooling
        history_in_softmax: kept (default) or excluded; excluded trains each position without the items of its history as
            classes of the softmax, except the target; the first stage keeps them
        ties: fixed (default) or shuffled; shuffled draws a new order of the items of a user with equal timestamps for every
            epoch, for data whose order of ties says nothing; not in the first stage
        softmax: over which items the loss of a step runs; the first stage has all
        sources: prepared folders of other shops, whose users share the encoder in the first stage; none = the shop alone
        alignment: settings of the first stage
    """

    sources: list[str] | None = None
    alignment: AlignmentSettings | None = None


def plan_finetuning(request: Request) -> Plan:
    """Two stages, of which the first is also over the shops of `sources`."""
    options: FineTuningOptions = request.options
    settings = options.alignment or AlignmentSettings()
    sources = _opened(options.sources or [], request.dataset)
    if sources and not settings.epochs:
        raise SettingsError(["--sources with --alignment.epochs 0: the other shops are read by that stage only"])
    chosen = replace(options, sources=[str(each.path) for each in sources], alignment=settings)
    first: Sequence[FirstStage] = [alignment_stage(request, settings, sources)] if settings.epochs else []
    plan = plan_next_item(replace(request, options=chosen), IdSource.choose(request.dataset, {}), first)
    return replace(plan, facts={**plan.facts, "source_fingerprints": [each.fingerprint for each in sources]})


def _opened(folders: Sequence[str], target: PreparedDataset) -> list[PreparedDataset]:
    """The folders of the other shops.

    Raises:
        SettingsError: a folder is named twice, or is that of the shop itself.
    """
    opened = [PreparedDataset.open(folder) for folder in folders]
    problems, seen = [], [target.path.resolve()]
    for dataset in opened:
        if dataset.path.resolve() in seen:
            problems.append(f"--sources: {dataset.path} is the shop itself, or is named twice")
        seen.append(dataset.path.resolve())
    if problems:
        raise SettingsError(problems)
    return opened


RECGURU = Family(
    name="recguru",
    summary="items by ID, user vectors aligned with those of other shops",
    config=RecGURUConfig,
    build=with_encoder(RecGURU),
    source=IdSource,
    finetuning=Task(FineTuningOptions, plan_finetuning),
    per_item=("item.weight",),
    carries=False,
    ranks_new=False,
    padded=padded_vectors,
)
