"""Chooses how a blend scores new items, on known items that are treated as new.

A new item is in no training sequence. Models that read texts score it by its text, models of IDs know nothing of it: weights
that were chosen on known items put it too low. So the items are divided into ten folds. The items of a fold are scored as if
they were new, by the parts that can say how they would score an item that nobody had:

- the valid cases whose target is in the fold say how well new targets are ranked, among known and new items;
- as many other cases say what known targets lose by the new items that come before them. The new items of the folder stand
  beside those of the fold: a catalogue full of them must not crowd out others.

A new item's score is then a weighted sum of its own plus an offset. Tried are the weights of these parts, and each of them
alone, at several scales, with offsets from "below all" to "above all". Taken is what has the best mean ndcg@10 over cases of
known and of new targets (ten to one, as there are items), among those whose new targets are ranked as well as by the best of
these parts: the mean difference is at least one standard error above zero, where cases of one item count as one observation.
Items of the history are no candidates. What models of IDs give to the nearest known items was tried as well, and left out: it
helped popular items treated as new, and not those that are new.

What a trained network learned of an item by its text cannot be taken from it without another training, so it looks better on
items treated as new than it is, and would be preferred to parts that rank new items better. It is asked only where no part can
tell what it would do without its training.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linguarec.data.splits import EvaluationCases
from linguarec.evaluation.case_scores import Part, scores_of_cases
from linguarec.evaluation.metrics import FloatArray
from linguarec.progress import progress_bar
from linguarec.ranking.sums import NewItems

IntArray = npt.NDArray[np.int64]
# Rows of items -> each part as a ranker of these alone, as new ones; None = it is not asked about new items.
AsNew = Callable[[IntArray], Sequence[Part | None]]

_K = 10
_FOLDS = 10
_MOST_CASES, _MOST_NEW = 400, 1_000  # of a fold, of each kind; items of a fold
_NUMBERS = 1 << 26  # scores held at once: 256 MiB
_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
_OFFSETS = 129  # tried for each weighting; steps that are too wide overshoot the bar, and known items pay
_FEWEST = 10  # new targets; with fewer nothing is chosen


@dataclass(frozen=True)
class NewItemsChoice:
    """How new items are scored, and ndcg@10 on items treated as new.

    `new`: without rows. `new_targets`, `known_targets`: of the blend. `best_reader`: the part by number from 0 that ranks new
    targets best, of those that are asked; `by_reader`: its ndcg@10 of new targets. `known_alone`: that of known targets if no
    new item is a candidate. `cases`: new targets.
    """

    new: NewItems
    cases: int
    new_targets: float
    best_reader: int
    by_reader: float
    known_targets: float
    known_alone: float


@dataclass(frozen=True)
class _Tried:
    """C cases, to each of which S items are new.

    `item` [C]: the target's row. `new` [C, M, S]: scores of each part, 0 of one that is not asked. `target` [C]: place
    among the new items, -1 = a known one. `best` [C, 1 + M, 10]: the best scores of known items but the target, by the weighted
    sum and by each part. `known` [C]: the known target's score, and `above` [C]: how many known items score higher, ties half.
    `seen` [C, S]: new items of the history, which are no candidates.
    """

    item: Tensor
    new: Tensor
    seen: Tensor
    target: Tensor
    best: Tensor
    known: Tensor
    above: Tensor

    @classmethod
    def joined(cls, some: "Sequence[_Tried]") -> "_Tried":
        """The cases of all."""
        return cls(*(torch.cat([getattr(each, name.name) for each in some]) for name in fields(cls)))

    def select(self, mask: Tensor) -> "_Tried":
        """The cases where it is true."""
        return _Tried(*(getattr(self, name.name)[mask] for name in fields(self)))


@dataclass(frozen=True)
class _Summed:
    """What ndcg@10 depends on, with one weighting of the new items.

    Of new targets: the `target`'s score, how many new items come `before` it (ties count half), the `best` [_, 10] known
    scores. Of known targets: the highest scores of new items (`top` [_, 10]), `known`, `above`.
    """

    target: Tensor
    before: Tensor
    best: Tensor
    top: Tensor
    known: Tensor
    above: Tensor

    @classmethod
    def of(cls, new: _Tried, known: _Tried, mix: FloatArray, best: int = 0) -> "_Summed":
        """`mix` [M]: weights of the new items; `best`: whose known scores stand beside them."""
        own, others = (
            torch.einsum("m,cms->cs", torch.from_numpy(mix).float(), each.new).masked_fill_(each.seen, -torch.inf)
            for each in (new, known)
        )
        target = own.gather(1, new.target.unsqueeze(1))
        before = (own > target).sum(dim=1) + ((own == target).sum(dim=1) - 1) / 2
        top = others.topk(min(_K, others.shape[1]), dim=1).values
        return cls(target[:, 0], before, new.best[:, best], top, known.known, known.above)

    def gains(self, offset: float) -> tuple[FloatArray, FloatArray]:
        """ndcg@10 of each new target and of each known one, if this is added to the scores of new items."""
        above = self.before + (self.best > (self.target + offset).unsqueeze(1)).sum(dim=1)
        return _gain(above), _gain(self.above + (self.top + offset > self.known.unsqueeze(1)).sum(dim=1))

    def offsets(self) -> list[float]:
        """Those that move new targets from below the tenth known item to above the first, for more and more; and 0."""
        gaps = (self.best[:, [0, -1]] - self.target.unsqueeze(1)).flatten().numpy()
        gaps = gaps[np.isfinite(gaps)]
        return [0.0, *map(float, np.quantile(gaps, np.linspace(0, 1, _OFFSETS)))] if len(gaps) else [0.0]


def choose_for_new(
    parts: Sequence[Part],
    weights: Sequence[float],
    as_new: AsNew,
    cases: EvaluationCases,
    trained: IntArray,
    new: IntArray,
    seed: int = 0,
) -> NewItemsChoice | None:
    """How a weighted sum scores new items; None = no part reads texts, or there are too few targets to try it on.

    Args:
        parts: models of the same items.
        weights: of the parts, for known items.
        as_new: the parts for items treated as new.
        cases: valid cases.
        trained: rows of the items that occur in training sequences.
        new: rows of the new items.
        seed: of folds and cases.
    """
    readers = np.array([number for number, part in enumerate(as_new(trained[:1])) if part is not None], dtype=np.int64)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(trained)
    beside = rng.permutation(new)[:_MOST_NEW]
    cases = cases.select(np.flatnonzero(np.isin(cases.targets, trained) & ~_repeated(cases)))
    size = min(_MOST_NEW, len(trained) // _FOLDS)
    if not len(readers) or not size:
        return None
    folds = [np.sort(shuffled[start : start + size]) for start in range(0, _FOLDS * size, size)]
    if np.isin(cases.targets, np.concatenate(folds)).sum() < _FEWEST:
        return None
    with progress_bar("Trying new items", _FOLDS, "folds") as advance:
        made: list[_Tried] = []
        for number, rows in enumerate(folds):
            every = np.union1d(rows, beside)
            index = _drawn(cases, rows, np.random.default_rng([seed, number]))
            absent = np.union1d(rows, new)
            made += list(_fold(parts, weights, as_new(every), cases.select(index), every, absent))
            advance(1)
    whole = _Tried.joined(made)
    is_new = whole.target >= 0
    return _chosen(whole.select(is_new), whole.select(~is_new), np.array(weights), readers)


def _repeated(cases: EvaluationCases) -> npt.NDArray[np.bool_]:
    """[C] whose target is in the history: the text of a new item is in no history, so such a target is not as a new one is."""
    case = np.repeat(np.arange(len(cases)), cases.histories.lengths)
    again = case[cases.histories.values == cases.targets[case]]
    found: npt.NDArray[np.bool_] = np.isin(np.arange(len(cases)), again)
    return found


def _drawn(cases: EvaluationCases, rows: IntArray, rng: np.random.Generator) -> IntArray:
    """The cases of a fold: those whose target is in it, and as many others at most."""
    is_new = np.isin(cases.targets, rows)
    return np.concatenate([rng.permutation(np.flatnonzero(of_kind))[:_MOST_CASES] for of_kind in (is_new, ~is_new)])


def _fold(
    parts: Sequence[Part],
    weights: Sequence[float],
    new: Sequence[Part | None],
    cases: EvaluationCases,
    rows: IntArray,
    absent: IntArray,
) -> Iterator[_Tried]:
    """The cases of a fold, a bounded number at once; items of `new` are `rows`, `absent` ones are not among the known."""
    at_once = max(1, _NUMBERS // (len(parts[0].ranker) * (len(parts) + 1)))
    for start in range(0, len(cases), at_once):
        some = cases.select(np.arange(start, min(start + at_once, len(cases))))
        yield _tried(parts, weights, new, some, rows, torch.from_numpy(absent))


def _tried(
    parts: Sequence[Part],
    weights: Sequence[float],
    new: Sequence[Part | None],
    cases: EvaluationCases,
    rows: IntArray,
    absent: Tensor,
) -> _Tried:
    own = [scores_of_cases(part, cases) for part in parts]
    whole = torch.zeros_like(own[0])
    for weight, scores in zip(weights, own, strict=True):
        whole.add_(scores, alpha=weight)
    of_new = torch.zeros(len(cases), len(parts), len(rows))
    for place, read in enumerate(new):
        if read is not None:
            of_new[:, place] = scores_of_cases(read, cases)
    case = np.repeat(np.arange(len(cases)), cases.histories.lengths)
    item = cases.histories.values.astype(np.int64)
    other = item != cases.targets[case]
    spot = np.searchsorted(rows, cases.targets).clip(max=len(rows) - 1)
    target = np.where(rows[spot] == cases.targets, spot, -1)
    targets = torch.from_numpy(cases.targets.astype(np.int64)).unsqueeze(1)
    known = whole.gather(1, targets)
    best = []
    for scores in (whole, *own):
        scores[:, absent] = -torch.inf
        scores[case[other], item[other]] = -torch.inf
        scores.scatter_(1, targets, -torch.inf)
        best.append(scores.topk(min(_K, scores.shape[1]), dim=1).values)
    seen = np.isin(item, rows) & other
    is_seen = torch.zeros(len(cases), len(rows), dtype=torch.bool)
    is_seen[case[seen], np.searchsorted(rows, item[seen])] = True
    above = (whole > known).sum(dim=1) + (whole == known).sum(dim=1) / 2
    spots = torch.from_numpy(target)
    return _Tried(targets[:, 0], of_new, is_seen, spots, torch.stack(best, dim=1), known[:, 0], above)


def _chosen(new: _Tried, known: _Tried, weights: FloatArray, readers: IntArray) -> NewItemsChoice | None:
    """The weights and the offset, by the cases of new targets and those of known ones; None = no part tells items apart."""
    parts = np.eye(len(weights))
    by_reader = [_Summed.of(new, known, parts[part], 1 + part).gains(0.0)[0] for part in readers.tolist()]
    best = int(np.argmax([gains.mean() for gains in by_reader]))
    bar, item = by_reader[best], np.unique(new.item.numpy(), return_inverse=True)[1]
    found: list[tuple[bool, float, NewItems, float, float]] = []
    for mix in _mixes(new, weights, readers):
        summed = _Summed.of(new, known, mix)
        for offset in summed.offsets():
            of_new, of_known = summed.gains(offset)
            difference = of_new - bar
            enough = difference.sum() >= np.sqrt(np.square(np.bincount(item, weights=difference)).sum())
            mean = (_FOLDS * of_known.mean() + of_new.mean()) / (_FOLDS + 1)
            choice = NewItems(tuple(map(float, mix)), offset)
            found.append((bool(enough), float(mean), choice, float(of_new.mean()), float(of_known.mean())))
    if not found:
        return None
    _, _, choice, new_targets, known_targets = max(found, key=lambda each: each[:2])
    return NewItemsChoice(
        choice,
        len(bar),
        new_targets,
        int(readers[best]),
        float(bar.mean()),
        known_targets,
        float(_gain(known.above).mean()),
    )


def _mixes(new: _Tried, weights: FloatArray, readers: IntArray) -> Iterator[FloatArray]:
    """Weights [M] to try, each mix at several scales around that of the weighted sum."""
    # From the first to the tenth known item: of the weighted sum, and of each part.
    total, *spread = (new.best[..., 0] - new.best[..., -1]).nan_to_num(posinf=0.0).mean(dim=0).tolist()
    mixes = [np.where(np.isin(np.arange(len(weights)), readers), weights, 0.0)]
    mixes += [
        np.where(np.arange(len(weights)) == part, (total or spread[part]) / spread[part], 0.0)
        for part in readers
        if spread[part] > 0
    ]
    for mix in mixes:
        if mix.any():
            yield from (scale * mix for scale in _SCALES)


def _gain(above: Tensor) -> FloatArray:
    ranks = above.double().numpy()
    found: FloatArray = np.where(ranks < _K, 1 / np.log2(ranks + 2), 0.0)
    return found
