"""Demo: the whole pipeline on the built-in synthetic world, whose best possible score is known."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.durations import duration_text
from linguarec.errors import OutputError
from linguarec.files import one_writer

if TYPE_CHECKING:
    from rich.console import Console

    from linguarec.commands.evaluate import EvaluateResult
    from linguarec.data.synthetic import Shop
    from linguarec.evaluation.report import Table
    from linguarec.runs.results import FinetuneResult

ENCODER = "all-MiniLM-L6-v2"
MODELS = {"sasrec": "SASRec (item IDs)", "unisrec": "UniSRec (text vectors)", "vqrec": "VQ-Rec (text codes)"}
SERVED = "unisrec"
METRICS = ("recall@10", "ndcg@10")
STEPS = 7
NOTE = (
    "of best: share of the best possible ndcg@10. new items: recall@10 of targets that occur in no training sequence."
)


@one_writer
def demo(
    output: Path = Path("linguarec-demo"),
    size: Literal["demo", "tiny"] = "demo",
    seed: int = 0,
    overwrite: bool = False,
    serve: bool = False,
    port: int = 8000,
) -> dict[str, Any]:
    """Run the whole pipeline on a synthetic world of three shops, from raw logs to recommendations.

    Three models are trained on the first shop and compared with popularity and with the best possible score.
    The two that read text are then used in the other shops without any training, and rank a new item by its
    text. Needs no network. Writes all folders and a report that can be opened in a browser. With --serve, one of them is served
    in the end, with a page to try it; a demo that was run before is served at once.

    Args:
        output: folder to write
        size: demo takes minutes, tiny takes seconds (too little data for good results)
        seed: of the world, the models and the training
        overwrite: replace the output folder if it exists
        serve: serve a model when all is done
        port: port of the service
    """
    import time

    from linguarec.data.synthetic import DEMO, TINY, generate_world
    from linguarec.evaluation.report import write_report
    from linguarec.runs.tables import plain_console, show_table

    if serve and not overwrite and (output / "report.html").exists():
        return {"output": str(output), "served": _serve(output, port)}
    started = time.perf_counter()
    console = plain_console()
    _make_room(output, overwrite)
    _step(console, 1, "A made-up world: three shops, one law of taste")
    world = generate_world(seed, domains=3, size=DEMO if size == "demo" else TINY)
    for domain in world:
        domain.write(output / "logs" / domain.name)
        console.print(f"{domain}, for example {domain.items[0].text!r}")
    data = _prepare(console, world, output)
    _encode_and_quantize(console, data)
    _step(console, 4, "Train " + ", ".join(MODELS.values()))
    trained = {name: _train(name, data[0], output / "runs" / name, size, seed) for name in MODELS}

    _step(console, 5, "Evaluate on the shop of the training, then in shops that no model has seen")
    home = {name: _evaluate(output / "runs" / name, None, False) for name in MODELS}
    away = {
        domain.name: {name: _evaluate(output / "runs" / name, folder, True) for name in ("unisrec", "vqrec")}
        for domain, folder in zip(world[1:], data[1:], strict=True)
    }
    _step(console, 6, "Recommend, with a new item that is known by its text alone")
    newcomer = _recommend_new_item(console, world[0], output)

    _step(console, STEPS, "Results")
    tables = {
        f"{world[0].name}: trained and tested here": _home_table(world[0], home, trained),
        "Other shops: no training there, items read by their text": _away_table(world[1:], away),
    }
    for title, table in tables.items():
        show_table(console, table, title)
    console.print(NOTE, style="dim")
    commands = _next_commands(output)
    seconds = time.perf_counter() - started
    report = output / "report.html"
    write_report(
        report,
        "linguarec demo",
        _sections(world, tables, home, output, newcomer, _next_commands(Path())),
        f"A synthetic world of {len(world)} shops, from raw logs to recommendations in {duration_text(seconds)}.",
    )
    console.print(f"Done in {duration_text(seconds)}. Open the report: {report}\n", style="bold")
    console.print("What to try next:", *(f"  {command}" for command in commands), sep="\n", soft_wrap=True)
    result = {
        "output": str(output),
        "report": str(report),
        "seconds": round(seconds, 1),
        "best_possible": {domain.name: domain.best_possible(10) for domain in world},
        "trained_on": world[0].name,
        "results": {name: _means(summary, name) for name, summary in home.items()}
        | {"popularity": _means(home["sasrec"], "popularity")},
        "zero_shot": {
            shop: {name: _means(summary, name) for name, summary in found.items()}
            | {"popularity": _means(found["unisrec"], "popularity")}
            for shop, found in away.items()
        },
        "new_item": newcomer,
        "next": commands,
    }
    return result | {"served": _serve(output, port)} if serve else result


def _serve(output: Path, port: int) -> dict[str, Any]:
    """Serve the model that reads text vectors, until it is ended."""
    from linguarec.commands.serve import serve

    return serve(output / "runs" / SERVED, port=port, users=output / "data" / "kitchen", log_requests=False)


def _make_room(output: Path, overwrite: bool) -> None:
    """Remove the subfolders of an earlier demo with `overwrite`; other files in `output` are never removed."""
    import shutil

    parts = [output / name for name in ("logs", "data", "runs", "plots")]
    found = [part for part in parts if part.exists()]
    if found and not overwrite:
        raise OutputError(f"{found[0]} exists already; choose another folder by -o, or replace it by --overwrite.")
    for part in found:
        shutil.rmtree(part)


def _step(console: "Console", number: int, title: str) -> None:
    from rich.text import Text

    console.rule(Text(f"{number} of {STEPS}: {title}", style="bold"), align="left")


def _prepare(console: "Console", world: "list[Shop]", output: Path) -> list[Path]:
    from linguarec.commands.describe import describe
    from linguarec.commands.prepare import prepare_table

    _step(console, 2, "Prepare: logs and catalogues to folders")
    folders = []
    for domain in world:
        logs = output / "logs" / domain.name
        folders.append(output / "data" / domain.name)
        prepare_table(
            logs / "interactions.csv", folders[-1], items=logs / "items.csv", k_core=0, catalogue="all", seed=0
        )
    describe(folders[0])
    return folders


def _encode_and_quantize(console: "Console", data: list[Path]) -> None:
    from linguarec.commands.encode import encode
    from linguarec.commands.quantize import quantize

    _step(console, 3, "Encode the texts to vectors, quantize the vectors to codes")
    for folder in data:
        encode(folder, encoder=ENCODER)
    # One codebook for all shops. A centroid is learned from the items that share it: hundreds of items need few
    # centroids (with 32, new items and other shops are lost), thousands take the default of 256.
    quantize(data, features=ENCODER, subvectors=32, centroids=8)


def _train(name: str, data: Path, run: Path, size: str, seed: int) -> "FinetuneResult":
    from linguarec.commands.finetune import finetune
    from linguarec.nn.encoders import TransformerConfig
    from linguarec.training.settings import TrainingSettings

    return finetune(
        name,
        data,
        run,
        transformer=TransformerConfig(hidden_size=64, inner_size=128, dropout=0.2, max_length=20),
        training=TrainingSettings(
            learning_rate=0.003, targets_per_step=512 if size == "demo" else 64, max_epochs=15, patience=3
        ),
        seed=seed,
    )


def _evaluate(run: Path, data: Path | None, zero_shot: bool) -> "EvaluateResult":
    from linguarec.commands.evaluate import evaluate

    return evaluate(run, data, zero_shot=zero_shot, ks=[10])


def _recommend_new_item(console: "Console", domain: "Shop", output: Path) -> dict[str, Any]:
    """Add a new item to each text model, and recommend after a history after which the item's taste is most likely."""
    import csv

    import numpy as np

    from linguarec.commands.recommend import recommend
    from linguarec.data.synthetic import TASTES
    from linguarec.files import writing_file
    from linguarec.recommender import Recommender

    taste = len(domain.transition) - 1
    adjectives, brands = list(TASTES.values())[taste]
    before = int(domain.transition[:, taste].argmax())
    rows = np.flatnonzero(domain.tastes == before)[:3]
    history = [domain.items[row].raw_id for row in rows]
    item = {
        "raw_id": "new-item",
        "title": f"{adjectives[2].capitalize()} cake stand",
        "brand": brands[1],
        "category": domain.items[0].category.split(" > ")[0] + " > Tableware",
    }
    file = output / "new_items.csv"
    with writing_file(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(item))
        writer.writeheader()
        writer.writerow(item)
    recommend(output / "runs" / "unisrec", history, k=10, items=file)
    ranks = {}
    for name in ("unisrec", "vqrec"):
        recommender = Recommender.load(output / "runs" / name)
        recommender.add_items([item])
        best = recommender.recommend([history], k=len(domain.items) + 1)[0]
        ranks[name] = 1 + [found.raw_id for found in best].index(item["raw_id"])
        console.print(
            f"{MODELS[name]}: the new item has rank {ranks[name]} of {len(best)} (by chance {len(best) // 2})"
        )
    return {"item": item, "history": history, "rank": ranks, "candidates": len(domain.items) + 1 - len(history)}


def _means(summary: Mapping[str, Any], system: str) -> dict[str, float]:
    return {metric: summary["systems"][system][metric]["mean"] for metric in METRICS}


def _of_new_items(summary: Mapping[str, Any], system: str) -> str:
    for part in summary["slices"]:
        if part["group"] == "target" and part["name"].startswith("new"):
            return f"{part['systems'][system]['recall@10']['mean']:.4f}"
    return "none"


def _row(name: str, found: dict[str, float], best: dict[str, float], *more: str) -> list[str]:
    share = found["ndcg@10"] / best["ndcg@10"]
    return [name, f"{found['recall@10']:.4f}", f"{found['ndcg@10']:.4f}", f"{share:.0%}", *more]


def _home_table(domain: "Shop", home: dict[str, Any], trained: dict[str, Any]) -> "Table":
    from linguarec.evaluation.report import Table

    best = domain.best_possible(10)
    rows = [
        _row("popularity", _means(home["sasrec"], "popularity"), best, _of_new_items(home["sasrec"], "popularity"), "")
    ]
    for name, summary in home.items():
        took = duration_text(trained[name]["seconds"])
        rows.append(_row(MODELS[name], _means(summary, name), best, _of_new_items(summary, name), took))
    rows.append(_row("best possible", best, best, "", ""))
    columns = ["system", "recall@10", "ndcg@10", "of best", "new items", "training"]
    return Table(columns, rows, strong=frozenset({len(rows) - 1}))


def _away_table(domains: "list[Shop]", away: dict[str, dict[str, Any]]) -> "Table":
    from linguarec.evaluation.report import Table

    rows = []
    for domain in domains:
        best, found = domain.best_possible(10), away[domain.name]
        rows.append(_row(f"{domain.name}: popularity there", _means(found["unisrec"], "popularity"), best))
        rows += [_row(f"{domain.name}: {MODELS[name]}", _means(summary, name), best) for name, summary in found.items()]
        rows.append(_row(f"{domain.name}: best possible", best, best))
    strong = frozenset(number for number, row in enumerate(rows) if row[0].endswith("best possible"))
    return Table(["system", "recall@10", "ndcg@10", "of best"], rows, strong=strong)


def _sections(
    world: "list[Shop]",
    tables: "dict[str, Table]",
    home: dict[str, Any],
    output: Path,
    newcomer: dict[str, Any],
    commands: list[str],
) -> list[Any]:
    from linguarec.evaluation.intervals import Interval
    from linguarec.evaluation.plots import plot_learning_curves, plot_systems
    from linguarec.evaluation.report import Figure, Section
    from linguarec.runs.results import learning_curve

    best = world[0].best_possible(10)["ndcg@10"]
    users = len(world[0].sequences)
    measured = {"popularity": Interval(**home["sasrec"]["systems"]["popularity"]["ndcg@10"])}
    measured |= {MODELS[name]: Interval(**summary["systems"][name]["ndcg@10"]) for name, summary in home.items()}
    measured["best possible"] = Interval(best, best, best, users)
    picture = output / "plots" / "systems.png"
    plot_systems(picture, f"{world[0].name}: test ndcg@10", "ndcg@10", {"measured": measured}, {})
    curves = output / "plots" / "learning_curves.png"
    plot_learning_curves(
        curves,
        f"{world[0].name}: learning",
        "valid ndcg@10",
        {title: learning_curve(output / "runs" / name) for name, title in MODELS.items()},
    )
    titles = list(tables)
    item = newcomer["item"]
    ranks = ", ".join(f"rank {rank} by {MODELS[name]}" for name, rank in newcomer["rank"].items())
    by_length = [file for file in home["unisrec"]["files"] if file.endswith("history-length.png")]
    figures = [
        Figure(picture, "Test ndcg@10 with 95 % intervals; on average nothing can be better than the last row."),
        *(Figure(Path(file), "UniSRec by length of the history.") for file in by_length),
        Figure(curves, "Valid ndcg@10 after each epoch; the marked epoch is kept."),
    ]
    return [
        Section(
            "The world",
            "Each item belongs to a taste that shows only in its text. Users move from taste to taste by a Markov "
            "chain that all shops share, so the best possible score is known exactly. Some items are new: they occur "
            "in no training sequence.",
            note=" | ".join(str(domain) for domain in world),
        ),
        Section(titles[0], table=tables[titles[0]], note=NOTE, figures=figures),
        Section(titles[1], table=tables[titles[1]]),
        Section(
            "A new item",
            f"{item['title']}, {item['brand']}, {item['category']}: in no catalogue, known by its text alone. "
            f"After the history {', '.join(newcomer['history'])} it comes {ranks} "
            f"among {newcomer['candidates']} items.",
        ),
        Section("What to try next, in the folder of this report", commands=commands),
    ]


def _next_commands(output: Path) -> list[str]:
    return [
        f"linguarec describe {output}/data/garden",
        f"linguarec recommend {output}/runs/unisrec --history K0001,K0002 -k 5",
        f"linguarec serve {output}/runs/unisrec",
        f"linguarec finetune unisrec {output}/data/garden -o {output}/runs/garden --transformer.hidden_size 64",
        "linguarec prepare table --interactions YOUR_LOG.csv --items YOUR_CATALOGUE.csv -o data/yours",
    ]
