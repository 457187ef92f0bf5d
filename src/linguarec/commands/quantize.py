"""Quantize: item vectors to discrete codes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from linguarec.checks import seed_problems, twice_problems
from linguarec.files import AnyPath, paths_of
from linguarec.result import Result

if TYPE_CHECKING:
    from linguarec.codes.quantisation import CodeStatistics
    from linguarec.data.dataset import PreparedDataset


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class QuantizeResult(Result):
    """Figures of a quantisation.

    `codes`: name of the codes. `fitted_items`: number of items that the codebook was fitted on. `folders`: path of each and the
    figures of its codes (`linguarec.codes.quantisation.CodeStatistics`).
    """

    codes: str
    method: str
    subvectors: int
    centroids: int
    seed: int
    fit_on: str
    fitted_items: int
    book_sha256: str
    folders: list[dict[str, Any]]

    def _lines(self) -> list[str]:
        return [
            f"codes {self.codes!r}: {self.method}, {self.subvectors} x {self.centroids}, fitted on {self.fitted_items:,} items",
            *(
                f"{each['data']}: {each['distinct_codes']:,} distinct codes, {each['colliding_items']:,} colliding items"
                for each in self.folders
            ),
        ]


def quantize(
    data: Sequence[AnyPath],
    features: str | None = None,
    subvectors: int = 32,
    centroids: int = 256,
    method: Literal["opq", "pq", "residual", "random"] = "opq",
    fit_on: Literal["train", "all"] = "train",
    split: str = "leave-one-out",
    name: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> QuantizeResult:
    """Fit one codebook on the item vectors of one or more folders and store each folder's codes in it.

    Args:
        data: prepared folders; several share one codebook
        features: name of the item vectors (see `linguarec encode`), the same in all folders (default: the only ones)
        subvectors: numbers in a code (M)
        centroids: values that each number can take (K)
        method: opq (rotated product quantisation), pq, residual, or random (codes without meaning, for comparison)
        fit_on: fit on the items that occur in training sequences, or on all
        split: the split that defines the training items
        name: name of the stored codes; by default built from the vectors' name, method and size
        seed: seed of the clustering
        overwrite: replace codes of that name
    """
    import numpy as np

    from linguarec.codes.codebook import ItemCodes
    from linguarec.codes.quantisation import QuantisationSettings, code_statistics, fit_code_book
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.same_encoder import check_same_encoder
    from linguarec.errors import OutputError, SettingsError
    from linguarec.sources.choosing import choose_for_all

    data = paths_of(data)
    problems = [*seed_problems(seed), *twice_problems(data)]
    if not data:
        problems.append("data is empty; name at least one prepared folder.")
    if problems:
        raise SettingsError(problems)
    datasets = [PreparedDataset.open(folder) for folder in data]
    stored = [dataset.feature_names for dataset in datasets]
    if lacking := [dataset.path for dataset, names in zip(datasets, stored, strict=True) if not names]:
        raise SettingsError(
            [f"{path} has no item vectors; make them with `linguarec encode {path}`." for path in lacking]
        )
    features = choose_for_all("vectors", features, datasets, stored, "encode")
    name = name or f"{features}.{method}{subvectors}x{centroids}"
    for dataset in datasets:
        if name in dataset.code_names and not overwrite:
            raise OutputError(f"{dataset.path} has codes {name!r} already; pass --overwrite, or --name another.")
    encoder = check_same_encoder([(dataset, features) for dataset in datasets])
    vectors = [dataset.features(features) for dataset in datasets]
    fitted = [
        np.asarray(matrix[training_items(dataset, split)] if fit_on == "train" else matrix, dtype=np.float32)
        for dataset, matrix in zip(datasets, vectors, strict=True)
    ]
    settings = QuantisationSettings(method, subvectors, centroids, seed)
    book = fit_code_book(np.concatenate(fitted), settings, features, encoder.weights_sha256, vectors)
    folders = []
    for dataset, matrix, points in zip(datasets, vectors, fitted, strict=True):
        codes = ItemCodes(book.encode(matrix), book, dataset.feature_info(features).texts_fingerprint)
        codes.save(dataset.codes_path(name))
        statistics = code_statistics(codes.codes, matrix, book)
        folders.append({"data": str(dataset.path), "fitted_items": len(points), **statistics.as_dict()})
        _show(f"Codes {name} of {dataset.name}", statistics, centroids)
    return QuantizeResult(
        codes=name,
        method=method,
        subvectors=subvectors,
        centroids=centroids,
        seed=seed,
        fit_on=fit_on,
        fitted_items=sum(map(len, fitted)),
        book_sha256=book.fingerprint,
        folders=folders,
    )


def training_items(dataset: "PreparedDataset", split: str) -> Any:
    """Rows of the items that occur in the training sequences of `split`, ascending, [n] int."""
    import numpy as np

    from linguarec.data.splits import training_sequences

    return np.unique(training_sequences(dataset.sequences, dataset.roles(split)).values)


def _show(title: str, statistics: "CodeStatistics", centroids: int) -> None:
    from linguarec.runs.tables import show_figures

    distortion = "none" if statistics.distortion is None else f"{statistics.distortion:.4f}"
    rows = [
        ("items", f"{statistics.items:,}", f"{statistics.distinct_vectors:,} distinct vectors"),
        ("distinct codes", f"{statistics.distinct_codes:,}", ""),
        ("colliding items", f"{statistics.colliding_items:,}", "share their code with an item of another vector"),
        (
            "centroids used",
            f"{statistics.centroids_used:.1%}",
            f"perplexity {statistics.perplexity:.1f} of {centroids}",
        ),
        ("distortion", distortion, "share of the vectors' variance that the codes lose"),
    ]
    show_figures(title, rows)
