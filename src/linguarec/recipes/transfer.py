"""Transfer: what a pre-trained model is worth on a folder, against training from scratch, by how many users train."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.errors import CheckpointMismatchError, SettingsError
from linguarec.recipes.runs import check_report_folder, log_own_training, refuse, seed_problems

if TYPE_CHECKING:
    from linguarec.data.dataset import PreparedDataset
    from linguarec.evaluation.comparison import ComparedSystem
    from linguarec.evaluation.evaluate import EvaluationResult
    from linguarec.evaluation.report import Table
    from linguarec.recipes.starting import Start
    from linguarec.training.settings import TrainingSettings

Way = Literal["scratch", "frozen", "full", "zero-shot"]
WAYS: tuple[Way, ...] = ("scratch", "frozen", "full", "zero-shot")
log = logging.getLogger(__name__)
KS = (10, 50)
TESTED = ("recall@10", "ndcg@10")
Results = dict[int, dict[str, "list[EvaluationResult]"]]


def transfer(
    data: Path,
    from_: Path,
    output: Path,
    ways: list[Way] | None = None,
    shares: list[int] | None = None,
    seeds: int = 3,
    first_seed: int = 0,
    mode: Literal["inductive", "transductive", "permutation", "direct", "reuse"] | None = None,
    training: "TrainingSettings | None" = None,
    features: str | None = None,
    codes: str | None = None,
    tokens: str | None = None,
    split: str = "leave-one-out",
) -> dict[str, Any]:
    """Train from scratch and from a pre-trained model with growing shares of the users, and say whether pre-training helps.

    Every way is tested on all users, with several seeds; each is compared with scratch user by user. Finished runs are
    taken as they are and interrupted ones go on, so the command can be repeated, also with more ways, shares or seeds.

    Args:
        data: prepared folder of the target domain
        from_: pre-training run or converted checkpoint
        output: folder for the runs, transfer.json, the plot and report.html
        ways: scratch, frozen (the sequence encoder stays as pre-trained; not for recformer, which is all encoder), full
            (everything is tuned), zero-shot; all by default
        shares: percentages of the users who train; 5, 20, 50 and 100 by default
        seeds: how many runs of each
        first_seed: the first of them
        mode: as of `linguarec finetune --from`
        training: settings of all trainings; where nothing is asked for, the model's own. With a share of the users a step
            takes that share of targets_per_step, so that an epoch has as many steps as with all of them
        features: name of the item text vectors, for models that read them, and for --mode reuse to code the items
        codes: name of the item codes, for models that read them; with --mode reuse those that scratch reads; the data's own
            by default
        tokens: name of the item tokens, for models that read them
        split: which interactions train, validate and test
    """
    import numpy as np

    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.splits import evaluation_cases
    from linguarec.devices import device_for
    from linguarec.evaluation.comparison import compared, differences, median_of
    from linguarec.evaluation.evaluate import rank_cases
    from linguarec.evaluation.intervals import Interval
    from linguarec.evaluation.plots import plot_by_share
    from linguarec.evaluation.report import Figure, Section, write_report
    from linguarec.files import write_json
    from linguarec.models import MODELS
    from linguarec.recipes.evaluate import ranked, read_settings
    from linguarec.recipes.finetune import finetune
    from linguarec.recipes.starting import Start
    from linguarec.recipes.tables import plain_console, show_table
    from linguarec.recipes.zero_shot import names_by_text, read_by_text
    from linguarec.training.settings import TrainingSettings

    shares = sorted(set(shares or [5, 20, 50, 100]))
    training = training or TrainingSettings()
    _check(shares, seeds, first_seed, training.devices)
    check_report_folder(output)
    start = Start.read(from_)
    start.network.to(device_for(None))
    training = training.or_else(MODELS[start.name].training)
    training.check()
    log_own_training(start.name)
    dataset = PreparedDataset.open(data)
    cases = evaluation_cases(dataset.sequences, dataset.roles(split), "test")
    of_tokens = MODELS[start.name].reads == "tokens"
    kinds = ("tokens",) if of_tokens else ("features", "codes")
    if of_tokens:
        refuse(start.name, {"mode": mode, "features": features, "codes": codes})
        flags = _of_tokens(start, dataset, tokens, ways)
    else:
        refuse(start.name, {"tokens": tokens})
        flags = _of_vectors_or_codes(start, dataset, mode, features, codes, ways or WAYS)
    ways = [way for way in (*flags, "zero-shot") if way in (ways or WAYS)]
    encoder = start.description.encoder
    smallest_step = training.accumulate * (1 if encoder is None else 2 * encoder.max_length)
    read = read_by_text(start, dataset, features, tokens) if "zero-shot" in ways else None
    inputs: dict[str, dict[str, str | None]] = {}
    if read is not None and not of_tokens:
        inputs["zero-shot"] = dict(zip(kinds, names_by_text(start, dataset, features), strict=True))

    def trained(way: Way, share: int, seed: int) -> "EvaluationResult":
        log.info("%s, %d %% of the users, seed %d", way, share, seed)
        per_step = max(smallest_step, round(training.targets_per_step * share / 100))
        run = finetune(
            model=start.name,
            data=data,
            output=output / "runs" / way / f"{share}" / f"seed{seed}",
            training=replace(training, targets_per_step=per_step),
            split=split,
            users=share / 100,
            seed=seed,
            resume=True,
            **flags[way],
        )
        recorded = read_settings(Path(run["run"]))
        inputs[way] = {kind: recorded.get(kind) for kind in kinds}
        return ranked(Path(run["run"]), dataset, cases)

    results: Results = {share: {} for share in shares}
    for way in ways:
        if read is not None and way == "zero-shot":
            untrained = rank_cases(start.network, *read, cases)
            for share in shares:
                results[share][way] = [untrained] * seeds
            continue
        for share in shares:
            results[share][way] = [trained(way, share, seed) for seed in range(first_seed, first_seed + seeds)]

    systems = {share: {way: compared(found, KS) for way, found in of.items()} for share, of in results.items()}
    tests = {
        share: differences(of, "scratch", TESTED) if "scratch" in of and len(of) > 1 else {}
        for share, of in results.items()
    }
    table = _table(systems, tests)
    summary: dict[str, Any] = {
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "from": str(from_),
        "weights_sha256": start.weights_sha256,
        "model": start.name,
        "mode": flags["full"].get("mode"),
        "inputs": inputs,
        "split": split,
        "seeds": list(range(first_seed, first_seed + seeds)),
        "users": len(np.unique(cases.users)),
        "systems": {share: {way: found.to_dict() for way, found in of.items()} for share, of in systems.items()},
        "differences": tests,
        "verdicts": {share: {way: verdict(test["ndcg@10"]) for way, test in of.items()} for share, of in tests.items()},
        "report": str(output / "report.html"),
    }
    plot = output / "plots" / "shares.png"
    lines: dict[str, list[tuple[str, Interval]]] = {
        way: [(f"{share} %", of[way].intervals["ndcg@10"]) for share, of in systems.items()] for way in ways
    }
    plot_by_share(plot, f"{dataset.name}: {start.name} from {from_.name}", "test ndcg@10", lines)
    caption = "Test ndcg@10 by the share of the users who train: mean of the seeds with its 95 % interval over users."
    note = (
        f"Test targets of {summary['users']:,} users, each ranked among all {dataset.num_items:,} items; {median_of(seeds)} "
        "± half the 95 % interval over users. The difference to scratch is user by user; pre-training helps or hurts "
        "where the interval leaves 0 out."
    )
    write_report(
        output / "report.html",
        f"{dataset.name}: {start.name} pre-trained and from scratch",
        [Section("Results", table=table, note=note, figures=[Figure(plot, caption)])],
    )
    write_json(output / "transfer.json", summary)
    console = plain_console()
    show_table(console, table, f"{dataset.name}, {start.name} from {from_}: {median_of(seeds)}")
    console.print(f"report: {output / 'report.html'}")
    return summary


def _of_tokens(
    start: "Start", dataset: "PreparedDataset", tokens: str | None, ways: list[Way] | None
) -> dict[Way, dict[str, Any]]:
    """What `finetune` is given for each way of a model that reads tokens."""
    from linguarec.recipes.sentence_inputs import from_scratch, tokens_for

    if "frozen" in (ways or ()):
        raise SettingsError(
            [f"--ways frozen: a {start.name} is one encoder, nothing is left to learn; leave it out, zero-shot is that"]
        )
    tokens_for(start, dataset, tokens)  # refuses what does not fit before anything is trained
    flags: dict[Way, dict[str, Any]] = {}
    if ways is None or "scratch" in ways:
        try:
            flags["scratch"] = {**from_scratch(start), "tokens": tokens}
        except CheckpointMismatchError as error:
            raise SettingsError([f"--ways scratch: {error} Compare the others: --ways full,zero-shot"]) from error
    flags["full"] = {"from_": start.folder, "tokens": tokens}
    return flags


def _of_vectors_or_codes(
    start: "Start",
    dataset: "PreparedDataset",
    mode: str | None,
    features: str | None,
    codes: str | None,
    ways: Sequence[Way],
) -> dict[Way, dict[str, Any]]:
    """What `finetune` is given for each way of a model that reads text vectors or codes.

    What a way needs is refused here, before anything is trained, if it is not there or does not fit.
    """
    from linguarec.hub.pretrained import encoder_kind
    from linguarec.models import MODELS
    from linguarec.recipes.finetune import model_and_mode
    from linguarec.recipes.matching import training_inputs
    from linguarec.recipes.starting import settings_of

    name, mode = model_and_mode(start.name, mode, start.folder)
    reads_vectors, reuse = "features" in MODELS[name].reads, mode == "reuse"
    own_mode = mode if mode in ("inductive", "transductive") else None
    from_scratch, tuned = "scratch" in ways, bool({"frozen", "full"} & set(ways))
    who = f"{name} with --ways {','.join(ways)}" + (f" --mode {mode}" if mode else "")
    if not ("codes" in MODELS[name].reads and (from_scratch or (tuned and not reuse))):
        refuse(who, {"codes": codes})
    if not (reads_vectors or "zero-shot" in ways or (tuned and reuse)):
        refuse(who, {"features": features})
    of_scratch = {"features": features if reads_vectors else None, "codes": codes}
    of_tuned = {"features": features if reads_vectors or reuse else None, "codes": None if reuse else codes}
    # Scratch first: the others may store codes.
    if from_scratch:
        training_inputs(name, own_mode, dataset, None, **of_scratch)
    if tuned:
        settings_of(start, name, None, None, None, None)
        training_inputs(name, mode, dataset, start, **of_tuned)
    encoder = start.description.encoder
    assert encoder is not None  # models of tokens alone have none
    kind = encoder_kind(encoder)
    # Scratch is the same model as the pre-trained one, with weights drawn anew.
    scratch: dict[str, Any] = {
        "config": start.description.config,
        kind: encoder,
        "sequence_encoder": kind,
        "mode": own_mode,
        **of_scratch,
    }
    pretrained = {"from_": start.folder, "mode": mode, **of_tuned}
    return {
        "scratch": scratch,
        "frozen": {**pretrained, "frozen": "encoder"},
        "full": {**pretrained, "frozen": "none"},
    }


def verdict(difference: Mapping[str, float]) -> str:
    """What a paired difference to scratch says, by its 95 % interval."""
    if difference["low"] > 0:
        return "helps"
    return "hurts" if difference["high"] < 0 else "no difference"


def _check(shares: Sequence[int], seeds: int, first_seed: int, devices: int) -> None:
    problems = [f"shares holds {share}; each is a percentage, 1 to 100" for share in shares if not 1 <= share <= 100]
    if seeds < 1:
        problems.append(f"seeds is {seeds}; it must be at least 1")
    problems += seed_problems(first_seed, "--first-seed")
    if devices > 1:
        problems.append(f"training.devices is {devices}; transfer trains in one process, one run after the other")
    if problems:
        raise SettingsError(problems)


def _table(
    systems: "Mapping[int, Mapping[str, ComparedSystem]]",
    tests: Mapping[int, Mapping[str, Mapping[str, Mapping[str, float]]]],
) -> "Table":
    """A row a share and way; the best ndcg@10 of a share strong."""
    from linguarec.evaluation.report import Table

    rows: list[list[str]] = []
    strong = set()
    for share, of in systems.items():
        best = max(of, key=lambda way: of[way].median("ndcg@10"))
        for way, found in of.items():
            if way == best:
                strong.add(len(rows))
            cells = [str(replace(found.intervals[metric], mean=found.median(metric))) for metric in TESTED]
            difference, says = "", ""
            if way in tests[share]:
                test = tests[share][way]["ndcg@10"]
                difference = f"{test['difference']:+.4f} ({test['low']:+.4f} to {test['high']:+.4f})"
                says = verdict(test)
            rows.append([f"{share} %, {way}", *cells, difference, says])
    return Table(["users, way", *TESTED, "ndcg@10 minus scratch", "pre-training"], rows, frozenset(strong))
