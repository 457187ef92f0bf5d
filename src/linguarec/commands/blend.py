"""Blend: several trained runs as one, with weights fitted on the valid part."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.errors import SettingsError
from linguarec.files import AnyPath
from linguarec.result import Result, metrics_line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.splits import EvaluationCases
    from linguarec.evaluation.case_scores import Part
    from linguarec.evaluation.choosing import Choice
    from linguarec.evaluation.report import Table
    from linguarec.families.blending import Ingredient
    from linguarec.ranking.sums import NewItems
    from linguarec.recommender import Recommender

log = logging.getLogger(__name__)
TESTED = ("recall@10", "ndcg@10")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class BlendResult(Result):
    """Figures of a blend.

    `parts`: for each part its run, model, `weight`, `share` (of the spread of the summed scores), its own `valid` and `test`
    (kept), and `test_protocols` with its own repeat term. `chosen`: how the weights were found. `valid`, `test`: protocol ->
    metrics of the blend; those on valid, on which it was fitted, are too good. `valid_difference`: ndcg@10 with the repeat
    term minus that of the best part, cross-fitted on valid; None = too few users. `test_differences`: protocol -> the best
    part on test, and the paired differences to it. `new_items`: how many items of the folder are new, how new items are
    scored, and what that gives on known items treated as new; None = they are scored like the others.
    `peak_memory_gib`: largest resident memory of the process meanwhile.
    """

    run: str
    data: str
    parts: list[dict[str, Any]]
    chosen: str
    cases: int
    seconds: float
    peak_memory_gib: float | None = None
    valid: dict[str, dict[str, float]]
    test: dict[str, dict[str, float]]
    valid_difference: dict[str, Any] | None = None
    test_differences: dict[str, dict[str, Any]]
    new_items: dict[str, Any] | None = None

    def _lines(self) -> list[str]:
        return [
            f"blend of {len(self.parts)} runs on {self.data}, {_decision(self)}, fitted on {self.cases:,} cases",
            *(f"{part['model']}: weight {part['weight']:.4g}, share {part['share']:.0%}" for part in self.parts),
            *(f"test, {protocol}: {metrics_line(found)}" for protocol, found in self.test.items()),
            *_against_lines(self),
            f"run folder: {self.run}",
        ]


def blend(
    runs: Sequence[AnyPath],
    output: AnyPath,
    data: AnyPath | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> BlendResult:
    """Sum the scores of several runs of the same data, with weights and a repeat term chosen on the valid part.

    The result is a run like any other: it is evaluated, recommends and takes new items, if one of its parts reads text. It
    holds copies of its parts. Weights are judged on users that they were not fitted on; where no sum is clearly better than
    its best part, that part has all the weight for known items. New items have weights of their own, chosen on known items
    treated as new.

    Args:
        runs: run folders of models that were trained on the same folder with the same split
        output: run folder to write
        data: prepared folder that the runs were trained on; by default where they recorded it
        seed: of the halves of the users, the folds of the items, and of the cases that are drawn where there are very many
        overwrite: replace the run folder if it exists
    """
    import time

    import numpy as np

    from linguarec.checks import check_seed
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.splits import HELD_OUT_ITEMS, evaluation_cases
    from linguarec.evaluation.case_scores import Part, remembering
    from linguarec.evaluation.choosing import choose_stack
    from linguarec.evaluation.comparison import against_best
    from linguarec.families.blending import blended
    from linguarec.files import write_json, writing_folder
    from linguarec.memory import peak_memory_gib, reset_peak_memory
    from linguarec.portable import portable_values
    from linguarec.ranking.repeats import RepeatTerm
    from linguarec.recommender import Recommender
    from linguarec.runs.settings import SETTINGS_MARKER, read_settings, versions
    from linguarec.runs.tables import plain_console, show_table
    from linguarec.snapshot import Snapshot

    check_seed(seed)
    reset_peak_memory()
    started = time.perf_counter()
    folders, output = [Path(run) for run in runs], Path(output)
    settings = [read_settings(folder) for folder in folders]
    _check(folders, settings, output)
    dataset = PreparedDataset.open(data or settings[0]["data"])
    if dataset.fingerprint != settings[0]["data_fingerprint"]:
        raise SettingsError(
            [f"{dataset.path} is not what the runs were trained on: its fingerprint is {dataset.fingerprint[:12]}"]
        )
    opened = [Recommender.load(folder) for folder in folders]
    _check_items(folders, opened, dataset)
    split = settings[0].get("split", "leave-one-out")
    roles = dataset.roles(split)
    valid, test = (evaluation_cases(dataset.sequences, roles, part) for part in ("valid", "test"))
    if not len(valid):
        raise SettingsError([f"{dataset.path}: split {split!r} has no valid targets to fit the weights on"])
    ingredients = [_ingredient(each) for each in opened]
    parts = remembering([Part.of(each.scorer, each.inputs, each.ranker) for each in ingredients], valid, test)
    found = choose_stack(parts, valid, seed)
    used = np.flatnonzero(found.weights)
    own = opened[used[0]].repeats if len(used) == 1 else None
    if own is not None:  # of a part alone: fitted again, on other cases, the blend would differ from it
        weight = found.weights[used[0]]
        found = replace(found, repeats=RepeatTerm(tuple(weight * value for value in own.values)))
    trained = _trained_items(dataset, split, settings)
    new, facts_of_new = _new_items(ingredients, parts, found.weights, dataset, split, trained, valid, seed)
    if new is not None and facts_of_new is not None and split != HELD_OUT_ITEMS:
        new = _where_it_helps(ingredients, parts, found, new, valid)
        facts_of_new["items"] = len(new.rows)
    made = blended(ingredients, found.weights, output, new)
    snapshot = Snapshot(opened[0].catalogue, made.inputs, made.ranker, made.source)
    recommender = Recommender(made.scorer, made.description, snapshot, found.repeats)
    whole = Part.of(made.scorer, made.inputs, made.ranker).reusing(parts)
    total = sum(weight * each for weight, each in zip(found.weights, found.spread, strict=True)) or 1.0
    tested = [part.rank(test, each.repeats) for part, each in zip(parts, opened, strict=True)]
    of_blend = whole.rank(test, found.repeats)
    facts = [
        {
            "run": str(folder),
            "model": each.description.name,
            "weight": weight,
            "share": weight * of_spread / total,
            "valid": part.rank(valid, None)["kept"].means(),
            "test": own["kept"].means(),
            "test_protocols": {name: ranked.means() for name, ranked in own.items()},
        }
        for folder, each, part, own, weight, of_spread in zip(
            folders, opened, parts, tested, found.weights, found.spread, strict=True
        )
    ]
    result = BlendResult(
        run=str(output),
        data=dataset.name,
        parts=facts,
        chosen=found.chosen,
        cases=found.cases,
        seconds=0.0,
        valid={name: ranked.means() for name, ranked in whole.rank(valid, found.repeats).items()},
        test={name: ranked.means() for name, ranked in of_blend.items()},
        valid_difference=None
        if found.gain is None
        else {"part": str(folders[found.best_part]), "ndcg@10": asdict(found.gain)},
        test_differences=against_best(
            [of_blend], {str(folder): [own] for folder, own in zip(folders, tested, strict=True)}, TESTED
        )
        if len(test)
        else {},
        new_items=facts_of_new,
    )
    result = replace(result, seconds=round(time.perf_counter() - started, 1), peak_memory_gib=peak_memory_gib())
    with writing_folder(output, overwrite, SETTINGS_MARKER) as folder:
        record = {
            "command": "blend",
            **made.description.to_dict(),
            "data": str(dataset.path),
            "data_name": dataset.name,
            "data_fingerprint": dataset.fingerprint,
            "split": split,
            "users": settings[0].get("users", 1.0),
            "seed": seed,
            "parts": [fact["model"] for fact in facts],
            "versions": versions(),
        }
        write_json(folder / "settings.json", portable_values(record, output, ("data",)))
        write_json(folder / "metrics.json", portable_values(result.to_dict(), output, ("run",)))
        recommender.save(folder)  # seals the folder
    show_table(plain_console(), _table(result), f"blend on {dataset.name}, recall@10 / ndcg@10: {_decision(result)}")
    for line in _against_lines(result):
        plain_console().print(line)
    plain_console().print(f"run folder: {output}")
    return result


def _trained_items(dataset: "PreparedDataset", split: str, settings: list[dict[str, Any]]) -> "npt.NDArray[np.int64]":
    """Rows of the items in the training sequences of any of the runs, of which each may have been trained on some users."""
    import numpy as np

    from linguarec.data.splits import draw_users, training_sequences

    users = [draw_users(dataset.num_users, run.get("users", 1.0), run.get("seed", 0)) for run in settings]
    sequences = training_sequences(dataset.sequences, dataset.roles(split)).select(np.unique(np.concatenate(users)))
    return np.unique(np.asarray(sequences.values, dtype=np.int64))


def _new_items(
    ingredients: "list[Ingredient]",
    parts: "list[Part]",
    weights: Sequence[float],
    dataset: "PreparedDataset",
    split: str,
    trained: "npt.NDArray[np.int64]",
    valid: "EvaluationCases",
    seed: int,
) -> "tuple[NewItems | None, dict[str, Any] | None]":
    """How new items are scored, with the rows of those of the folder, and the figures behind it; None = like the others.

    Items of the folder that no training sequence holds are new where the split holds items out, or where a valid target is one
    of them. Otherwise they are stock that nobody has taken so far, and scored like the others.
    """
    import numpy as np

    from linguarec.data.splits import HELD_OUT_ITEMS
    from linguarec.evaluation.new_items import choose_for_new
    from linguarec.families.blending import as_if_new

    new = np.setdiff1d(np.arange(dataset.num_items), trained)
    if split != HELD_OUT_ITEMS and not np.isin(valid.targets, new).any():
        new = new[:0]
    if not any(each.description.family.ranks_new for each in ingredients):
        return None, None
    choice = choose_for_new(
        parts, weights, lambda rows: as_if_new(ingredients, dataset, rows), valid, trained, new, seed
    )
    if choice is None:
        log.warning("too few valid targets to choose how new items are scored: they are scored like the others")
        return None, None
    facts = {
        "items": len(new),
        "weights": list(choice.new.weights),
        "offset": choice.new.offset,
        "cases": choice.cases,
        "best_reader": ingredients[choice.best_reader].description.name,
        "new_targets_ndcg@10": choice.new_targets,
        "best_reader_ndcg@10": choice.by_reader,
        "known_targets_ndcg@10": choice.known_targets,
        "known_targets_alone_ndcg@10": choice.known_alone,
    }
    return replace(choice.new, rows=tuple(new.tolist())), facts


def _where_it_helps(
    ingredients: "list[Ingredient]", parts: "list[Part]", found: "Choice", new: "NewItems", valid: "EvaluationCases"
) -> "NewItems":
    """The same, without its rows where scoring them as new makes valid worse, in which new items come as often as they do."""
    from linguarec.evaluation.case_scores import Part
    from linguarec.families.blending import blended

    def reached(how: "NewItems") -> float:
        made = blended(ingredients, found.weights, Path(), how)
        ranked = Part.of(made.scorer, made.inputs, made.ranker).reusing(parts).rank(valid, found.repeats)
        return ranked.get("learned", ranked["excluded"]).mean("ndcg@10")

    if not new.rows:
        return new
    like_others = replace(new, rows=())
    return new if reached(new) >= reached(like_others) else like_others


def _ingredient(recommender: "Recommender") -> "Ingredient":
    from linguarec.families.blending import Ingredient

    now = recommender.snapshot
    return Ingredient(recommender.scorer, recommender.description, now.source, now.inputs, now.exact)


def _check(folders: list[Path], settings: list[dict[str, Any]], output: Path) -> None:
    """Refuse runs that were not trained on the same data in the same way."""
    problems = []
    if len(folders) < 2:
        problems.append(f"name two runs or more; {len(folders)} given")
    places = [folder.resolve() for folder in folders]
    if twice := [str(folder) for folder, place in zip(folders, places, strict=True) if places.count(place) > 1]:
        problems.append(f"a run is named twice: {', '.join(dict.fromkeys(twice))}")
    if output.resolve() in places:
        problems.append(f"--output {output} is one of the runs; write the blend into another folder")
    for folder, each in zip(folders, settings, strict=True):
        if "data_fingerprint" not in each:
            problems.append(
                f"{folder} was not fine-tuned on a folder of its own, so it has no valid part to be fitted on; fine-tune it: "
                f"`linguarec finetune {each.get('model', 'MODEL')} DATA -o RUN --from {folder}`"
            )
            continue
        if each.get("command") == "blend":
            problems.append(f"{folder} is a blend; name its parts instead")
        if each["data_fingerprint"] != settings[0].get("data_fingerprint", each["data_fingerprint"]):
            names = settings[0].get("data_name"), each.get("data_name")
            other = f"{folder} on {names[1]}" if names[0] != names[1] else f"{folder} on another state of it"
            problems.append(
                f"{folders[0]} was trained on {names[0]}, {other}; the parts of a blend are runs of one folder"
            )
        for key in ("split", "users"):
            if each.get(key) != settings[0].get(key):
                problems.append(f"--{key}: {folders[0]} has {settings[0].get(key)}, {folder} has {each.get(key)}")
    if problems:
        raise SettingsError(problems)


def _check_items(folders: list[Path], opened: "list[Recommender]", dataset: "PreparedDataset") -> None:
    """Refuse runs to which items were added, or from which they were removed."""
    for folder, each in zip(folders, opened, strict=True):
        if list(each.catalogue.raw_ids) != list(dataset.raw_item_ids) or len(each.snapshot.ranker.removed):
            raise SettingsError([f"{folder} does not have the items of {dataset.path}, in their order"])


def _against_lines(result: BlendResult) -> list[str]:
    """The blend beside its best part, and how it ranks new items."""
    model_of = {part["run"]: part["model"] for part in result.parts}
    lines = []
    if result.valid_difference is not None:
        difference, part = result.valid_difference["ndcg@10"], model_of[result.valid_difference["part"]]
        lines.append(f"valid, cross-fitted: ndcg@10 {_shown(difference)} against {part}, its best part there")
    lines += [
        f"test, {protocol}: "
        + ", ".join(f"{metric} {_shown(found[metric])}" for metric in TESTED)
        + f" against {model_of[found['part']]}, its best part there"
        for protocol, found in result.test_differences.items()
    ]
    if result.new_items is not None:
        found = result.new_items
        lines.append(
            f"new items, tried out on {found['cases']:,} valid targets whose items were treated as new: the blend finds them "
            f"with an ndcg@10 of {found['new_targets_ndcg@10']:.4f}, {found['best_reader']} alone with "
            f"{found['best_reader_ndcg@10']:.4f}. Targets that are not new keep {found['known_targets_ndcg@10']:.4f} of "
            f"{found['known_targets_alone_ndcg@10']:.4f} beside so many new items"
        )
    return lines


def _shown(difference: dict[str, float]) -> str:
    return f"{difference['difference']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})"


def _decision(result: BlendResult) -> str:
    """Which way to find weights was taken."""
    used = [part["model"] for part in result.parts if part["weight"] > 0]
    if result.chosen.endswith("alone"):
        return f"{used[0]} alone, as no sum is clearly better than it"
    return f"{result.chosen} ({', '.join(used)})"


def _table(result: BlendResult) -> "Table":
    """A row for each part and the blend, a column for each protocol."""
    from linguarec.evaluation.report import Table

    def cells(found: dict[str, dict[str, float]]) -> list[str]:
        means = [found.get(protocol, {}) for protocol in result.test]
        return [" / ".join(f"{each[metric]:.4f}" for metric in TESTED) if each else "" for each in means]

    rows = [
        [part["model"], f"{part['weight']:.4g}", f"{part['share']:.0%}", *cells(part["test_protocols"])]
        for part in result.parts
    ]
    return Table(["test", "weight", "share", *result.test], [*rows, ["blend", "", "", *cells(result.test)]])
