"""Update: take newer data of a run's own shop in, judge the new model on the newest of them, and keep it unless it is worse."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linguarec.errors import CheckpointMismatchError, SettingsError, WorseModelError
from linguarec.files import AnyPath, followed, one_writer
from linguarec.result import Result

if TYPE_CHECKING:
    from linguarec.data.dataset import PreparedDataset
    from linguarec.evaluation.evaluate import Protocols
    from linguarec.families.family import Start
    from linguarec.runs.updating import NewPart
    from linguarec.training.settings import TrainingSettings

log = logging.getLogger(__name__)
METRIC = "ndcg@10"
LEAST_USERS = 30  # with fewer, intervals over users say too little to refuse a model
SPLIT = "leave-one-out"  # of the final model: the split that leaves out the fewest interactions
RESULT_FILE = "update.json"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class UpdateResult(Result):
    """Figures of an update.

    `run`: the new run; `from_`: the run that was updated. `items_`: number of items of the data, `new_items` of which the old
    run did not know; `gone_items`: items of the old run that the data do not have. `interactions`: those of the data that are
    later than what the old run was trained on. `how`: what was done with the model. `judged`: `split` and its cuts, `targets`,
    `users`, `old` and `new` (protocol -> metrics), and the paired `difference` of `metric` under `protocol`. `verdict`: better,
    no difference, worse, or too few (users to tell). `asked`: times, settings and names that were given. `refitted`: whether
    the run was trained again on all of the data after the judgement.
    """

    run: str
    from_: str
    model: str
    data: str
    data_fingerprint: str
    weights_sha256: str
    items_: int
    new_items: int
    gone_items: int
    interactions: int
    how: str
    judged: dict[str, Any]
    verdict: str
    refitted: bool
    asked: dict[str, Any]
    epochs: int | None = None
    seconds: float

    def _lines(self) -> list[str]:
        return [
            f"{self.model} on {self.data}: {self.interactions:,} new interactions, {self.new_items:,} new items, {self.how}",
            _judgement(self.judged, self.verdict),
            f"run folder: {self.run}{' (trained again on all data)' if self.refitted else ''}",
        ]


@one_writer
def update(
    run: AnyPath,
    data: AnyPath,
    output: AnyPath,
    epochs: int | None = None,
    training: "TrainingSettings | None" = None,
    since: str | None = None,
    refit: bool = True,
    accept_worse: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> UpdateResult:
    """Make a run anew from newer data of its shop, and refuse it if it is significantly worse than the old one.

    The data is a prepared folder of the same shop; items are the same if their raw ids are, in whatever rows. What needs no
    gradient steps is solved anew from the data, what carries over is trained on from the run, the rest is trained anew, all
    with the settings of the run; new items are read by their text, and the repeat term is fitted again.

    Judged is on the newest interactions, which are later than everything that the old run was trained on: the new model is
    trained without them. If it is not significantly worse, it is trained once more, on the split leave-one-out of all data.

    Args:
        run: run folder to update
        data: prepared folder with newer interactions of the same shop, the old ones among them
        output: run folder to write; not written if the new model is refused
        epochs: most epochs of a training; by default as many as the run had
        training: training settings that differ from those of the run
        since: up to when the run was trained, such as 2024-05-31T23:59:59; by default what the run recorded
        refit: train once more with the newest interactions, after the judgement; --no-refit keeps the judged model
        accept_worse: take the new model though it is significantly worse
        resume: continue an update that was interrupted or refused
        overwrite: replace the run folder if it exists; the old one stays until the new one is complete
        options: names of the vectors, codes or tokens to read; by default those that the run read
    """
    import time

    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.splits import evaluation_cases
    from linguarec.data.splitting import add_temporal_split
    from linguarec.families.opening import open_start
    from linguarec.families.start import weights_sha256
    from linguarec.families.updating import arguments_of_update, goes_on, how_updated
    from linguarec.files import check_free, put_in_place, updating_folder, write_json
    from linguarec.given import given
    from linguarec.portable import portable_values
    from linguarec.recommender import Recommender
    from linguarec.run_items import rank_on_newer_data
    from linguarec.runs.settings import SETTINGS_MARKER, read_settings
    from linguarec.runs.updating import new_part, shared_items, trained_until

    started = time.perf_counter()
    run, data, output = Path(run), Path(data), Path(output)
    settings = read_settings(run)
    _check(run, settings, output, epochs, 1 if training is None else training.devices)
    start, dataset = open_start(run), PreparedDataset.open(data)
    old = Recommender.load(run)
    shared = shared_items(run, old.catalogue, dataset)
    how = how_updated(start.family)
    new = new_part(run, dataset, trained_until(run, settings, since), goes_on(start.family))
    facts = {
        "run": str(output),
        "from": str(run),
        "model": start.family.name,
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "weights_sha256": weights_sha256(start),
        "refitted": refit,
        "asked": {"since": since, "training": {} if training is None else given(training), **options},
        **({} if epochs is None else {"epochs": epochs}),
    }
    place = _judged_place(output)
    # With --overwrite a judged model beside the run says that a replacement of it was interrupted.
    if resume and not (overwrite and place.exists()) and (done := _finished(output, facts)) is not None:
        shutil.rmtree(place, ignore_errors=True)  # it may have been killed before it did that
        return done
    if not (resume and refit):  # what is resumed lies in OUTPUT only while it is trained again
        check_free(output, overwrite, SETTINGS_MARKER)
    dataset.roles(SPLIT)
    arguments = {
        **arguments_of_update(start, dataset, options),
        "training": _training(start, training, epochs),
        "users": settings.get("users", 1.0),
        "seed": settings.get("seed", 0),
    }
    log.info(
        "%s: %s new interactions since the run was trained, %s new items; %s is %s",
        dataset.path,
        f"{new.number:,}",
        f"{shared.new:,}",
        start.family.name,
        how,
    )
    if not resume:
        shutil.rmtree(place, ignore_errors=True)
    split = add_temporal_split(dataset, new.cuts)
    cases = evaluation_cases(dataset.sequences, dataset.roles(split), "test")
    if not len(cases):
        raise SettingsError([f"the split {split} has no test target with a history before it; prepare more new data"])
    _train(start, dataset, place, split, arguments, resume=True)
    results = {"old": rank_on_newer_data(old, dataset, cases)}
    results["new"] = rank_on_newer_data(Recommender.load(place), dataset, cases)
    judged, verdict = _judge(new, results)
    _show(judged, verdict)
    if verdict == "worse" and not accept_worse:
        raise WorseModelError(
            f"{output} is not written: {_judgement(judged, verdict)}. The judged model stays in {place}: take it with --resume "
            "--accept-worse, or delete it.",
            judged,
        )
    result = UpdateResult.of_dict(
        {
            **facts,
            "items": dataset.num_items,
            "new_items": shared.new,
            "gone_items": shared.gone,
            "interactions": new.number,
            "how": how,
            "judged": judged,
            "verdict": verdict,
            "seconds": 0.0,
        }
    )
    if refit:
        _train(start, dataset, output, SPLIT, arguments, resume, overwrite)
    written = output if refit else place
    result = replace(result, seconds=round(time.perf_counter() - started, 1))
    with updating_folder(written / "evaluation") as folder:
        write_json(folder / RESULT_FILE, portable_values(result.to_dict(), output / "evaluation", ("run", "from")))
    if refit:
        shutil.rmtree(place, ignore_errors=True)
    else:
        put_in_place(place, output)
        log.info("run folder: %s", output)
    return result


def _check(run: Path, settings: Mapping[str, Any], output: Path, epochs: int | None, devices: int) -> None:
    """Refuse what cannot be updated.

    Raises:
        SettingsError: an argument is impossible.
        CheckpointMismatchError: the run was not fine-tuned on one folder.
    """
    from linguarec.processes import started_together

    if run.resolve() == output.resolve():
        raise SettingsError([f"--output {output} is the run to update; write the new run into another folder"])
    if devices > 1 or started_together() > 1:
        raise SettingsError(["update trains and judges in one process; run it without torchrun and --training.devices"])
    if epochs is not None and epochs < 1:
        raise SettingsError([f"--epochs is {epochs}; it must be at least 1"])
    if settings.get("command") == "blend":
        raise SettingsError(
            [
                f"{run} is a blend of {', '.join(settings['parts'])}; update the runs that it was made of with the same data, "
                "then blend the new runs: `linguarec blend RUN RUN ... -o BLEND`"
            ]
        )
    if settings.get("command") != "finetune":
        raise CheckpointMismatchError(
            f"{run} was not fine-tuned on a shop, so there is nothing to update; train it on the data with `linguarec finetune "
            f"{settings.get('model', 'MODEL')} DATA --from {run} -o RUN`."
        )


def _training(start: "Start", asked: "TrainingSettings | None", epochs: int | None) -> "TrainingSettings":
    """The training settings of the run, with those that are asked for; in one process."""
    from linguarec.given import given
    from linguarec.records import record_of
    from linguarec.training.settings import TrainingSettings

    settings = record_of(TrainingSettings, start.settings["training"])
    changes = {} if asked is None else given(asked)
    changes |= {} if epochs is None else {"max_epochs": epochs}
    return replace(settings, **{"devices": 1, **changes})


def _judged_place(output: Path) -> Path:
    """Where the model is trained that is judged: a hidden folder beside the output."""
    named = followed(output)
    return named.with_name(f".{named.name}.judged")


def _train(
    start: "Start",
    dataset: "PreparedDataset",
    output: Path,
    split: str,
    arguments: Mapping[str, Any],
    resume: bool,
    overwrite: bool = False,
) -> None:
    """Train the model of the run on a split of the newer data."""
    from linguarec.commands.finetune import finetune

    log.info(
        "%s: training on %s of %s",
        output,
        "all interactions"
        if split == SPLIT
        else f"the older interactions, to be judged on the newest ones (split {split}),",
        dataset.path,
    )
    finetune(
        start.family.name, dataset.path, output, split=split, resume=resume, overwrite=overwrite, **dict(arguments)
    )


def _judge(new: "NewPart", results: "Mapping[str, Protocols]") -> tuple[dict[str, Any], str]:
    """The figures of both models on the test targets, and the verdict."""
    from linguarec.data.moments import moment_text
    from linguarec.evaluation.intervals import paired_difference

    # The figure of a shop, where both have a repeat term (docs/evaluation.md); else as `recommend` works by default.
    protocol = "learned" if all("learned" in found for found in results.values()) else "excluded"
    values = {name: found[protocol].per_user((10,))[METRIC] for name, found in results.items()}
    difference = paired_difference(values["new"], values["old"])
    verdict = "worse" if difference.high < 0 else "better" if difference.low > 0 else "no difference"
    if len(values["new"]) < LEAST_USERS:
        verdict = "too few"
    judged = {
        "split": new.split,
        "trained_until": moment_text(new.after),
        "valid_from": moment_text(new.cuts.valid),
        "test_from": moment_text(new.cuts.test),
        "targets": len(results["new"][protocol]),
        "users": len(values["new"]),
        "metric": METRIC,
        "protocol": protocol,
        **{name: {key: of.means() for key, of in found.items()} for name, found in results.items()},
        "difference": asdict(difference),
    }
    return judged, verdict


def _judgement(judged: Mapping[str, Any], verdict: str) -> str:
    """The verdict with its figures, in a sentence."""
    metric, protocol, found = judged["metric"], judged["protocol"], judged["difference"]
    old, new = (judged[name][protocol][metric] for name in ("old", "new"))
    what = {
        "better": "better than",
        "worse": "significantly worse than",
        "no difference": "not significantly different from",
        "too few": "not judged, for want of users, beside",
    }
    return (
        f"the new model is {what[verdict]} the old one on {judged['targets']:,} targets of {judged['users']:,} users from "
        f"{judged['test_from']} on: {metric} {protocol} {new:.4f}, old {old:.4f}, difference {found['difference']:+.4f} "
        f"({found['low']:+.4f} to {found['high']:+.4f}, p {found['p_value']:.3f})"
    )


def _show(judged: Mapping[str, Any], verdict: str) -> None:
    """Show both models side by side."""
    from linguarec.evaluation.report import Table
    from linguarec.runs.tables import plain_console, show_table

    rows = [
        [f"{metric}, {protocol}", f"{value:.4f}", f"{judged['new'][protocol][metric]:.4f}"]
        for protocol, found in judged["old"].items()
        if protocol in judged["new"]
        for metric, value in found.items()
    ]
    title = f"{judged['targets']:,} targets from {judged['test_from']} on, on which neither was trained"
    console = plain_console()
    show_table(console, Table(["mean over users", "old run", "new model"], rows), title)
    console.print(_judgement(judged, verdict))


def _finished(output: Path, facts: Mapping[str, Any]) -> UpdateResult | None:
    """The result of an update that is complete already; None if there is none of this run and these data.

    Raises:
        SettingsError: it was made with other settings.
    """
    from linguarec.portable import located_values
    from linguarec.stored import AGAIN, read_json

    file = output / "evaluation" / RESULT_FILE
    if not file.exists():
        return None
    stored = located_values(read_json(file, CheckpointMismatchError, AGAIN), file.parent, ("run", "from"))
    if any(stored.get(key) != facts[key] for key in ("data_fingerprint", "weights_sha256", "model")):
        return None
    for key in ("refitted", "epochs", "asked"):
        if stored.get(key) != facts.get(key):
            raise SettingsError(
                [
                    f"{output} was updated with {key} {stored.get(key)}, now it is {facts.get(key)}; name another --output"
                ]
            )
    log.info("%s: updated before; nothing left to do", output)
    return UpdateResult.of_dict({**stored, "run": str(output)})
