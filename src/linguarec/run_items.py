"""The items of a prepared folder, encoded by a trained run: known ones from its catalogue, others by their text."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from linguarec.data.dataset import PreparedDataset
from linguarec.data.ragged import Ragged
from linguarec.data.splits import EvaluationCases
from linguarec.devices import device_for
from linguarec.errors import DataFormatError, SettingsError
from linguarec.evaluation.baselines import distinct_seen
from linguarec.evaluation.case_scores import Part
from linguarec.evaluation.evaluate import EvaluationResult, Protocols, rank_by_protocol
from linguarec.evaluation.stacking import fit_repeats
from linguarec.families.family import Start
from linguarec.families.flags import refuse
from linguarec.families.opening import open_start, read_description
from linguarec.families.weights import seal_model
from linguarec.files import updating_folder
from linguarec.processes import ALONE, Processes
from linguarec.ranking.exact import ExactRanker
from linguarec.ranking.ranks import TargetRanks, full_precision
from linguarec.ranking.repeats import RepeatTerm
from linguarec.ranking.scorer import Scorer
from linguarec.recommender import CATALOGUE_FILE, Recommender
from linguarec.runs.settings import read_settings
from linguarec.sources.source import Asked


@dataclass(frozen=True)
class RunItems:
    """The items of a folder, in its row order, ready to be ranked by a run.

    `inputs`: of the histories. `new_items`: how many items were read by their text. `repeats`: the run's repeat term.
    """

    scorer: Scorer
    inputs: Any
    ranker: ExactRanker[Any, Any]
    new_items: int
    names: Mapping[str, str | None] = field(default_factory=dict)
    repeats: RepeatTerm | None = None

    def rank(self, cases: EvaluationCases, processes: Processes = ALONE, best: int = 0) -> Protocols:
        """Rank the targets of `cases`, which hold item rows of the folder, under every protocol; see `rank_by_protocol`."""
        return rank_by_protocol(
            self.scorer, self.inputs, self.ranker, cases, self.repeats, processes=processes, best=best
        )


def items_of_run(run: Path, dataset: PreparedDataset, zero_shot: bool, asked: Asked, device: torch.device) -> RunItems:
    """The items of a folder, encoded by a run.

    Args:
        run: folder of a trained model.
        dataset: the folder.
        zero_shot: whether items that the run does not know are read by their text; otherwise they are an error.
        asked: with `zero_shot`: names of the stored vectors, codes or tokens to read, by flag.
        device: device to encode on.

    Raises:
        SettingsError: the run has no catalogue, or a name was requested that is not read.
        DataFormatError: items are unknown.
    """
    has_catalogue = (run / CATALOGUE_FILE).exists()
    # A model that reads text and ID keeps the IDs that it knows: only the items that are new to it are read by text alone.
    if zero_shot and not (has_catalogue and read_description(run).family.per_item):
        return items_by_text(open_start(run), dataset, asked, device)
    named = [f"--{flag}" for flag, name in asked.items() if name is not None]
    if named:
        raise SettingsError(
            [f"{flag} names what --zero-shot reads of the data, here the run's own keys are used" for flag in named]
        )
    if not has_catalogue and read_settings(run).get("data_fingerprint") is None:
        raise SettingsError(
            [f"{run} has no catalogue, so it knows no item; pass --zero-shot to read all by their text"]
        )
    return items_of_recommender(Recommender.load(run), dataset, zero_shot, device)


def items_by_text(start: Start, dataset: PreparedDataset, asked: Asked, device: torch.device) -> RunItems:
    """All items of a folder, encoded by their text with a model that was not trained on the folder.

    Raises:
        SettingsError: the model knows items by ID.
        StaleFeaturesError: the folder has no vectors, codes or tokens for the model, and they cannot be made here.
    """
    family = start.family
    if family.per_item:
        raise SettingsError(
            [
                f"{start.folder} holds a {family.name}, which knows items by ID; the items of {dataset.path} have no ID "
                "there. Take a model that reads text alone"
            ]
        )
    refuse(family.name, {flag: name for flag, name in asked.items() if flag not in family.source.flags})
    source = start.source.matching(dataset, asked)
    scorer = family.scorer(start.network, start.description, source, start.folder).to(device)
    with full_precision(device):
        inputs, keys = scorer.encode(source)
    return RunItems(scorer, inputs, scorer.ranker(keys), dataset.num_items, source.names)


def items_of_recommender(
    recommender: Recommender, dataset: PreparedDataset, zero_shot: bool, device: torch.device
) -> RunItems:
    """The items of a folder: those in the run's catalogue by their raw id, and with `zero_shot` the others by their text.

    Raises:
        DataFormatError: items are unknown and `zero_shot` is false.
        SettingsError: all items are unknown.
    """
    now = recommender.snapshot
    scorer = recommender.scorer.to(device)
    entries = now.catalogue.find(dataset.raw_item_ids)
    unknown = np.flatnonzero(entries < 0)
    if np.array_equal(entries, np.arange(len(now.inputs))) and not len(now.exact.removed):
        inputs, ranker = now.inputs.to(device), now.exact.to(device)  # not copied: the memory maps may be large
        return RunItems(scorer, inputs, ranker, 0, repeats=recommender.repeats)
    known = entries[entries >= 0]
    inputs, ranker = now.inputs.select(known), now.exact.subset(known)
    if len(unknown):
        _check_unknown(recommender, dataset, unknown, zero_shot)
        new_inputs, new_keys = recommender.encode_new(now.source.new_of(dataset, unknown))
        # Known items, then new ones; sorted into the order of the folder.
        order = np.argsort(np.concatenate([np.flatnonzero(entries >= 0), unknown]))
        inputs = inputs.joined(new_inputs).select(order)
        ranker = ranker.with_added(new_keys).subset(order)
    return RunItems(scorer, inputs.to(device), ranker.to(device), len(unknown), repeats=recommender.repeats)


def rank_on_newer_data(recommender: Recommender, dataset: PreparedDataset, cases: EvaluationCases) -> Protocols:
    """Rank cases of newer data of a run's shop with the run, as it would serve them.

    Items that it does not know are read by their text. A model that ranks by ID alone puts them behind all others, tied, and
    reads past them in histories; a history without any item that it knows says nothing, so that all items tie.
    """
    device = device_for(None)
    if recommender.description.family.ranks_new:
        return items_of_recommender(recommender, dataset, True, device).rank(cases)
    now = recommender.snapshot
    entries = now.catalogue.find(dataset.raw_item_ids)
    entries[np.isin(entries, now.exact.removed)] = -1
    known = np.flatnonzero(entries >= 0)
    place = np.full(dataset.num_items, -1, dtype=np.int64)
    place[known] = np.arange(len(known))
    read = place[cases.histories.values]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(read >= 0)])[cases.histories.offsets]
    histories, targets = Ragged(read[read >= 0].astype(np.int32), offsets), place[cases.targets].astype(np.int32)
    readable = histories.lengths > 0
    ranked = np.flatnonzero(readable & (targets >= 0))
    scorer = recommender.scorer.to(device)
    inputs, ranker = now.inputs.select(entries[known]), now.exact.subset(entries[known])
    items = RunItems(scorer, inputs.to(device), ranker.to(device), 0, repeats=recommender.repeats)
    found = items.rank(EvaluationCases(histories.select(ranked), targets[ranked], cases.users[ranked]))
    seen_by, seen = distinct_seen(cases)  # without the target
    of_known = place[seen] >= 0
    seen_known = np.bincount(seen_by[of_known], minlength=len(cases))
    seen_unknown = np.bincount(seen_by[~of_known], minlength=len(cases))
    protocols: Protocols = {}
    for protocol, result in found.items():
        barred = protocol == "excluded"
        behind = len(known) - seen_known * barred
        unknown = dataset.num_items - len(known) - seen_unknown * barred
        greater = np.where(readable, behind, 0)
        ties = np.where(readable, unknown, behind + unknown)
        greater[ranked], ties[ranked] = result.ranks.greater, result.ranks.ties
        protocols[protocol] = EvaluationResult(TargetRanks(greater, ties), np.arange(len(cases)), cases.users)
    return protocols


def with_repeats(
    run: Path, items: RunItems, valid: EvaluationCases, dataset: PreparedDataset, own_data: bool
) -> RunItems:
    """The items with the repeat term fitted on valid cases, which is stored in the run, too.

    Raises:
        SettingsError: the run was trained on other data, or there are no valid cases.
    """
    if not own_data:
        raise SettingsError(
            [f"--fit-repeats is for the data that the run was trained on; {dataset.path} is not, leave the flag out"]
        )
    term = fit_repeats(Part.of(items.scorer, items.inputs, items.ranker), valid)
    if term is None:
        raise SettingsError([f"--fit-repeats: {dataset.path} has no valid targets to fit the repeat term on"])
    with updating_folder(run) as whole:
        term.save(whole)
        seal_model(whole)
    return replace(items, repeats=term)


def ranked(run: Path, dataset: PreparedDataset, cases: EvaluationCases, best: int = 0) -> Protocols:
    """Rank `cases` of the folder that the run was trained on with the run, on a GPU if there is one; see `RunItems.rank`."""
    items = items_of_recommender(Recommender.load(run), dataset, zero_shot=False, device=device_for(None))
    return items.rank(cases, best=best)


def _check_unknown(
    recommender: Recommender, dataset: PreparedDataset, unknown: npt.NDArray[np.int64], zero_shot: bool
) -> None:
    name, family = recommender.description.name, recommender.description.family
    if not zero_shot or (not family.ranks_new and len(unknown) < dataset.num_items):
        mend = "Pass --zero-shot to read them by their text"
        if not family.ranks_new:
            mend = f"A {family.bound_to_ids}; take a model that ranks by text"
        raise DataFormatError(
            f"{len(unknown):,} of the {dataset.num_items:,} items of {dataset.path} are unknown to the run, such as "
            f"{dataset.raw_item_ids[unknown[0]]!r}. {mend}."
        )
    if len(unknown) == dataset.num_items:
        raise SettingsError(
            [
                f"the run is a {name}, which knows items by {'ID' if family.by_id_alone else 'text and ID'}, and none of the "
                f"items of {dataset.path} is in its catalogue; take a model that reads text alone"
            ]
        )
    rules = recommender.catalogue.text_rules
    if dataset.manifest.text_rules != rules:
        raise DataFormatError(
            f"{dataset.path}: its texts were cleaned by the rules {dataset.manifest.text_rules!r}, those of the run by "
            f"{rules!r}; prepare it again with --text-rules {rules}."
        )
