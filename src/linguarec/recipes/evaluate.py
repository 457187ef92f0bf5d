"""Evaluate: rank the targets of a split with a trained run, beside popularity and chance."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from linguarec.errors import CheckpointMismatchError, DataFormatError, SettingsError
from linguarec.recipes.runs import SETTINGS_FILE, check_seed

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.splits import EvaluationCases
    from linguarec.evaluation.evaluate import EvaluationResult
    from linguarec.recommender import Recommender
    from linguarec.text.attributes import ItemTokens

log = logging.getLogger(__name__)


def evaluate(
    run: Path,
    data: Path | None = None,
    split: Literal["test", "valid"] = "test",
    protocol: str | None = None,
    zero_shot: bool = False,
    features: str | None = None,
    tokens: str | None = None,
    exclude_history: bool = False,
    ks: list[int] | None = None,
    plots: bool = True,
    device: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Rank each target among the whole catalogue and report recall, ndcg and mrr, beside popularity and chance.

    Means are over users, with 95 % bootstrap intervals; with equal scores a metric is the mean over the tied ranks. The
    same for new and known targets, by their popularity and by history length. Results and plots go into the run folder.

    With --zero-shot the model may be one that was never tuned on the data, as a pre-training leaves it, and all items are
    read by their text: by the data's vectors of the model's encoder, or by codes of the model's own code book.

    Args:
        run: run folder of a trained model; with --zero-shot also a pre-training run or a converted checkpoint
        data: prepared dataset folder; by default the one that the run was trained on
        split: which targets are ranked
        protocol: how the folder was split (leave-one-out, temporal, held-out-items); by default as in the training
        zero_shot: items are read by their text; without this, items that the run does not know are an error
        features: with --zero-shot: name of the vectors to read; by default those of the model's encoder
        tokens: with --zero-shot: name of the item tokens to read, for models that read them; by default those of the model's
            tokenizer
        exclude_history: items of the history are no candidates (the published protocol keeps them)
        ks: list lengths of recall and ndcg; 10 and 50 by default
        plots: write plots by history length and popularity
        device: cpu or cuda; by default a GPU where there is one
        seed: of the bootstrap
    """
    import time

    import numpy as np

    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.splits import ROLE_OF_PART, draw_users, evaluation_cases, training_sequences
    from linguarec.devices import device_for
    from linguarec.evaluation import baselines
    from linguarec.evaluation.evaluate import rank_cases
    from linguarec.evaluation.slices import slices, training_counts
    from linguarec.evaluation.summary import slices_table, summarise, systems_table
    from linguarec.files import write_json
    from linguarec.hub.pretrained import read_description
    from linguarec.models.recformer import Recformer
    from linguarec.recipes.tables import plain_console, show_table
    from linguarec.recipes.truncation import count_cut, log_cut
    from linguarec.text.attributes import ItemTokens

    check_seed(seed)
    ks = sorted(ks or [10, 50])
    if ks[0] < 1:
        raise SettingsError([f"ks holds {ks[0]}; each must be at least 1"])
    place = device_for(device)
    settings = read_settings(run)
    model_name = read_description(run).name
    if data is None and "data_fingerprint" not in settings:
        raise SettingsError([f"{run} was trained on no folder of its own; name one: `linguarec evaluate {run} DATA`"])
    dataset = PreparedDataset.open(data or _trained_on(run, settings))
    own_data = dataset.fingerprint == settings.get("data_fingerprint")
    if data is None and not own_data:
        raise DataFormatError(
            f"{dataset.path} was prepared anew since {run} was trained on it: the fingerprint of its content is now "
            f"{dataset.fingerprint[:12]}, the run has {settings['data_fingerprint'][:12]}. Train again, or name the "
            "folder, to evaluate the run on it as on any other data."
        )
    protocol = protocol or settings.get("split", "leave-one-out")
    roles = dataset.roles(protocol)
    cases = evaluation_cases(dataset.sequences, roles, split)
    if len(cases) == 0:
        raise DataFormatError(
            f"{dataset.path}: split {protocol!r} has no {split} target with a history before it; prepare it with more data, or "
            "name another split with --protocol."
        )
    trained = training_sequences(dataset.sequences, roles)
    if own_data and settings.get("users", 1.0) < 1:  # what the run learned from, and not what others did
        trained = trained.select(draw_users(dataset.num_users, settings["users"], settings["seed"]))
    counts = training_counts(trained.values, dataset.num_items)
    if own_data and protocol != settings["split"]:
        log.warning(
            "%s was trained on the split %s of these data: targets of %s may be among what it learned from, and then its "
            "figures are too high",
            run,
            settings["split"],
            protocol,
        )
    model, inputs, keys, new_items = read_items(run, dataset, zero_shot, features, tokens, place)
    cut = None
    if isinstance(inputs, ItemTokens):
        cut = count_cut(cast(Recformer, model).config, [inputs], {split: [(inputs, cases.histories)]})
        log_cut(cut)
    started = time.perf_counter()
    result = rank_cases(model, inputs, keys, cases, exclude_history=exclude_history)
    seconds = time.perf_counter() - started
    systems = {
        model_name: result,
        "popularity": baselines.popularity(cases, counts, exclude_history),
        "chance": baselines.chance(cases, dataset.num_items, exclude_history),
    }
    summary = {
        "run": str(run),
        "model": model_name,
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "trained_on_this_data": own_data,
        "trained_on_split": settings.get("split") if own_data else None,
        "zero_shot": zero_shot,
        "protocol": protocol,
        "split": split,
        "exclude_history": exclude_history,
        "items": dataset.num_items,
        "items_read_by_text": new_items,
        "targets": len(cases),
        "targets_without_history": int((np.asarray(roles) == ROLE_OF_PART[split]).sum()) - len(cases),
        "users": len(np.unique(cases.users)),
        **({} if cut is None else {"cut": cut}),
        "seconds": round(seconds, 3),
        **summarise(systems, slices(cases, counts), ks, seed),
    }
    folder = run / "evaluation"
    name = _result_name(split, settings, dataset, protocol, own_data, zero_shot, exclude_history)
    summary["files"] = [str(path) for path in _write(folder, name, summary, result, cases, plots)]
    write_json(folder / f"{name}.json", summary)

    console = plain_console()
    size = f"{len(cases):,} targets among {dataset.num_items:,} items in {seconds:.1f} s"
    what = f"{model_name} on {dataset.name}, {protocol}, {split}: {size}"
    show_table(console, systems_table(summary), what)
    show_table(console, slices_table(summary, f"ndcg@{ks[0]}"), f"ndcg@{ks[0]} by slice")
    if summary["targets_without_history"]:
        console.print(f"left out: {summary['targets_without_history']:,} targets without a history before them")
    console.print(f"written: {folder / f'{name}.json'}")
    return summary


def read_settings(run: Path) -> dict[str, Any]:
    """The settings that a run was trained with.

    Raises:
        CheckpointMismatchError: the folder is not one of a trained run.
    """
    from linguarec.hub.pretrained import AGAIN
    from linguarec.stored import read_json

    file = run / SETTINGS_FILE
    if not file.is_file():
        raise CheckpointMismatchError(
            f"{run} is not a run folder: {f'it has no {SETTINGS_FILE}' if run.exists() else 'it does not exist'}. Make one by "
            "`linguarec finetune`."
        )
    return read_json(file, CheckpointMismatchError, AGAIN)


def read_items(
    run: Path,
    dataset: "PreparedDataset",
    zero_shot: bool,
    features: str | None,
    tokens: str | None,
    device: "torch.device",
) -> "tuple[nn.Module, Tensor | ItemTokens, Tensor, int]":
    """The model, inputs and keys of the dataset's items, and how many of them were read by their text."""
    from linguarec.hub.pretrained import read_description
    from linguarec.models import MODELS
    from linguarec.recipes.starting import Start
    from linguarec.recipes.zero_shot import read_by_text
    from linguarec.recommender import CATALOGUE_FILE, Recommender

    has_catalogue = (run / CATALOGUE_FILE).exists()
    # A model that reads text and ID keeps the IDs that it knows: only the items that are new to it are read by text alone.
    if zero_shot and not (has_catalogue and MODELS[read_description(run).name].reads == "ids+features"):
        start = Start.read(run)
        start.network.to(device)
        return start.network, *read_by_text(start, dataset, features, tokens), dataset.num_items
    named = [f"--{flag}" for flag, name in (("features", features), ("tokens", tokens)) if name is not None]
    if named:
        raise SettingsError(
            [f"{flag} names what --zero-shot reads of the data, here the run's own keys are used" for flag in named]
        )
    if not has_catalogue and read_settings(run).get("data_fingerprint") is None:
        raise SettingsError(
            [f"{run} has no catalogue, so it knows no item; pass --zero-shot to read all by their text"]
        )
    recommender = Recommender.load(run)
    return recommender.model.to(device), *_on(device, item_tensors(recommender, dataset, zero_shot))


def ranked(
    run: Path, dataset: "PreparedDataset", cases: "EvaluationCases", exclude_history: bool = False
) -> "EvaluationResult":
    """The targets of `cases` of the folder that the run was trained on, ranked by the run, on a GPU where there is one."""
    from linguarec.devices import device_for
    from linguarec.evaluation.evaluate import rank_cases
    from linguarec.recommender import Recommender

    recommender, device = Recommender.load(run), device_for(None)
    inputs, keys, _ = _on(device, item_tensors(recommender, dataset, zero_shot=False))
    return rank_cases(recommender.model.to(device), inputs, keys, cases, exclude_history=exclude_history)


def _on(
    device: "torch.device", items: "tuple[Tensor | ItemTokens, Tensor, int]"
) -> "tuple[Tensor | ItemTokens, Tensor, int]":
    """Vectors and keys there; tokens move batch by batch."""
    from linguarec.text.attributes import ItemTokens

    inputs, keys, unknown = items
    return inputs if isinstance(inputs, ItemTokens) else inputs.to(device), keys.to(device), unknown


def item_tensors(
    recommender: "Recommender", dataset: "PreparedDataset", zero_shot: bool
) -> "tuple[Tensor | ItemTokens, Tensor, int]":
    """Inputs and keys of the dataset's items in its row order, and how many of them the run did not know.

    Known items are found by raw id. Unknown ones are read by their text: by the dataset's vectors of the run's encoder,
    or, if it has none, they are encoded now.

    Raises:
        DataFormatError: items are unknown and `zero_shot` is false.
        SettingsError: all items are unknown.
    """
    import numpy as np
    import torch

    from linguarec.data.same_encoder import differing_vectors
    from linguarec.models import MODELS

    position = recommender.catalogue.position
    entries = np.array([position.get(raw_id, -1) for raw_id in dataset.raw_item_ids], dtype=np.int64)
    unknown = np.flatnonzero(entries < 0)
    held = recommender.inputs
    if np.array_equal(entries, np.arange(len(held))):  # not copied: tokens are memory-mapped, and may be large
        return held, recommender.keys, 0
    known = np.where(entries < 0, 0, entries)
    keys = recommender.keys[torch.from_numpy(known)]
    inputs = held[torch.from_numpy(known)] if isinstance(held, torch.Tensor) else held.select(known)
    if len(unknown) == 0:
        return inputs, keys, 0
    if not zero_shot:
        name = recommender.description.name
        mend = f"A {name} knows items by ID only; take a model that reads text"
        if MODELS[name].reads != "ids":
            mend = "Pass --zero-shot to read them by their text"
        raise DataFormatError(
            f"{len(unknown):,} of the {dataset.num_items:,} items of {dataset.path} are unknown to the run, such as "
            f"{dataset.raw_item_ids[unknown[0]]!r}. {mend}."
        )
    if len(unknown) == dataset.num_items:
        name = recommender.description.name
        raise SettingsError(
            [
                f"the run is a {name}, which knows items by text and ID, and none of the items of {dataset.path} is in its "
                "catalogue; take a model that reads text alone, such as unisrec (--mode inductive) or vqrec"
            ]
        )
    rules = recommender.catalogue.text_rules
    if dataset.manifest.text_rules != rules:
        raise DataFormatError(
            f"{dataset.path}: its texts were cleaned by the rules {dataset.manifest.text_rules!r}, those of the run by "
            f"{rules!r}; prepare it again with --text-rules {rules}."
        )
    vectors = None
    differing = {} if recommender.encoder is None else differing_vectors(dataset, recommender.encoder)
    fitting = [name for name, found in differing.items() if not found]
    if fitting:
        vectors = np.asarray(dataset.features(fitting[0])[unknown], dtype=np.float32)
    new_inputs, new_keys, _ = recommender.encode([dataset.texts[row] for row in unknown], vectors)
    place = torch.from_numpy(unknown)
    assert isinstance(inputs, torch.Tensor)  # models of tokens read all items anew
    inputs[place], keys[place] = new_inputs, new_keys
    return inputs, keys, len(unknown)


def _trained_on(run: Path, settings: dict[str, Any]) -> Path:
    path = Path(settings["data"])
    if not path.exists():
        raise DataFormatError(
            f"{run} was trained on {path}, which is not there; name the folder: `linguarec evaluate {run} DATA`."
        )
    return path


def _result_name(
    split: str,
    settings: dict[str, Any],
    dataset: "PreparedDataset",
    protocol: str,
    own_data: bool,
    zero_shot: bool,
    exclude_history: bool,
) -> str:
    parts = [split]
    if not own_data:
        parts.append(dataset.name)
    if not own_data or protocol != settings.get("split", protocol):
        parts.append(protocol)
    if zero_shot:
        parts.append("zero-shot")
    if exclude_history:
        parts.append("without-history")
    return "-".join(parts)


def _write(
    folder: Path, name: str, summary: dict[str, Any], result: "EvaluationResult", cases: "EvaluationCases", plots: bool
) -> list[Path]:
    """The ranks of every case, and the plots; the paths written."""
    import numpy as np

    from linguarec.evaluation.plots import plot_by_slice
    from linguarec.evaluation.summary import slice_series
    from linguarec.files import writing_file

    ranks = folder / f"{name}.ranks.npz"
    with writing_file(ranks) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file, users=result.users, targets=cases.targets, greater=result.ranks.greater, ties=result.ranks.ties
        )
    written = [ranks]
    metric = next(metric for metric in summary["systems"]["chance"] if metric.startswith("ndcg"))
    for group, file_name in (("history length", "history-length"), ("popularity of the target", "popularity")):
        series = slice_series(summary, group, metric)
        if plots and len(series["chance"]) > 1:
            path = folder / f"{name}.{file_name}.png"
            plot_by_slice(path, f"{summary['data']}, {summary['split']}: {metric} by {group}", group, metric, series)
            written.append(path)
    return written
