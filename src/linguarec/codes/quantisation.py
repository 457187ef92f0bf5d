"""Fit a codebook on item vectors, and measure the quality of its codes.

k-means is faiss's. The rotation of OPQ is fitted here (Ge et al., "Optimized Product Quantization", 2013): it starts
at their parametric solution (principal axes allocated so that every sub-vector has about the same product of eigenvalues)
and then alternates with the codebook. faiss's own OPQ starts at a random rotation of a fixed seed: after 50 rounds
its distortion is still higher than that of the parametric start after 5. Fitting runs on one thread: a sum that is split
over threads differs in its last bits, and equal seeds must give equal codebooks.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from linguarec.codes.codebook import CodeBook, Codes, Method, Vectors
from linguarec.errors import SettingsError
from linguarec.progress import progress_bar

HASH_BITS = 256  # hyperplanes of the hash behind random codes
MAX_CENTROIDS = 65_536  # a part of a code is at most two bytes


@dataclass(frozen=True)
class QuantisationSettings:
    """M `subvectors` of K `centroids` each; the defaults are VQ-Rec's 32 x 256.

    `rotation_rounds`: alternations of OPQ after its parametric start. `max_points`: most vectors to fit on; from more,
    a seeded sample is drawn.
    """

    method: Method = "opq"
    subvectors: int = 32
    centroids: int = 256
    seed: int = 0
    rotation_rounds: int = 10
    max_points: int = 65_536

    def problems(self, width: int, num_points: int, num_distinct: int, num_in_all: int) -> list[str]:
        """Settings that cannot work on `num_points` vectors of `width` dimensions, each with how to fix it.

        Args:
            width: D.
            num_points: vectors to fit on.
            num_distinct: how many of them differ.
            num_in_all: distinct vectors of the whole catalogues, of which the points may be a part.
        """
        found = []
        if self.method not in get_args(Method):
            found.append(f"method is {self.method!r}; expected one of {', '.join(get_args(Method))}.")
        if self.subvectors < 1:
            found.append(f"subvectors is {self.subvectors}; expected at least 1.")
        elif self.method in ("opq", "pq") and width % self.subvectors:
            near = sorted((d for d in range(1, width + 1) if width % d == 0), key=lambda d: abs(d - self.subvectors))[
                :4
            ]
            found.append(
                f"subvectors is {self.subvectors}, which does not divide the vectors' width {width}; "
                f"choose for example {', '.join(map(str, sorted(near)))}, or method residual."
            )
        if not 2 <= self.centroids <= MAX_CENTROIDS:
            found.append(f"centroids is {self.centroids}; expected 2 to {MAX_CENTROIDS}.")
        elif self.method != "random" and num_distinct < self.centroids:
            enough = f", pass --fit-on all ({num_in_all:,} distinct vectors)" if num_in_all >= self.centroids else ""
            found.append(
                f"centroids is {self.centroids}, but the {num_points} items to fit on have only {num_distinct} "
                f"distinct vectors; ask for fewer (--centroids {max(num_distinct // 4, 2)} or so){enough}, or fit on more "
                "folders together."
            )
        if self.rotation_rounds < 0:
            found.append(f"rotation_rounds is {self.rotation_rounds}; expected 0 or more.")
        return found


@dataclass(frozen=True)
class CodeStatistics:
    """Quality of the codes of N items.

    `distinct_codes`: different codes among the items. `colliding_items`: items that share their code with an item of *another*
    vector, so that the model cannot distinguish them. `centroids_used`: mean fraction of the K centroids that at least one
    item uses. `perplexity`: mean over the sub-vectors of exp(entropy of the centroid frequencies), at most K. `distortion`:
    squared error of the decoded vectors over their variance (0 = lossless, 1 = the mean alone; None for random codes).
    """

    items: int
    distinct_vectors: int
    distinct_codes: int
    colliding_items: int
    centroids_used: float
    perplexity: float
    distortion: float | None

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON."""
        return asdict(self)


def fit_code_book(
    vectors: Vectors,
    settings: QuantisationSettings,
    encoder: str,
    encoder_fingerprint: str | None = None,
    catalogues: Sequence[Vectors] = (),
) -> CodeBook:
    """Fit a codebook on vectors [N, D].

    Args:
        vectors: The item vectors to fit on.
        settings: Method, size and seed.
        encoder: Name of the encoder that made the vectors.
        encoder_fingerprint: Hash of its weights; None = not known.
        catalogues: The vectors of all items where `vectors` are of a part of them; for the advice in an error alone.

    Raises:
        SettingsError: settings cannot work on these vectors; all of them are named.
    """
    distinct = len(np.unique(vectors, axis=0)) if len(vectors) < 4 * settings.centroids else len(vectors)
    in_all = len(np.unique(np.concatenate(catalogues), axis=0)) if catalogues and distinct < settings.centroids else 0
    problems = settings.problems(vectors.shape[1], len(vectors), distinct, in_all)
    if not np.isfinite(vectors).all():
        problems.append("The vectors hold NaN or infinities; encode the texts again.")
    if problems:
        raise SettingsError(problems)
    generator = np.random.default_rng(settings.seed)
    if len(vectors) > settings.max_points:
        vectors = vectors[np.sort(generator.choice(len(vectors), settings.max_points, replace=False))]
    points = np.ascontiguousarray(vectors, dtype=np.float32)
    fit: dict[Method, Callable[..., tuple[Any, Any, Any]]] = {
        "opq": _fit_opq,
        "pq": _fit_pq,
        "residual": _fit_residual,
        "random": _fit_random,
    }
    with _one_thread():
        centroids, rotation, mean = fit[settings.method](points, settings, generator)
    return CodeBook(settings.method, centroids, rotation, mean, encoder, encoder_fingerprint, settings.seed)


def code_statistics(codes: Codes, vectors: Vectors, book: CodeBook) -> CodeStatistics:
    """Statistics of the `codes` [N, M] that `book` gives the `vectors` [N, D]."""
    _, code_of = np.unique(codes, axis=0, return_inverse=True)
    _, vector_of = np.unique(vectors, axis=0, return_inverse=True)
    pairs = np.unique(np.stack([code_of.ravel(), vector_of.ravel()], axis=1), axis=0)
    shared = np.bincount(pairs[:, 0]) > 1
    counts = np.stack([np.bincount(codes[:, m], minlength=book.num_centroids) for m in range(book.subvectors)])
    shares = counts / max(len(codes), 1)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)
    distortion = None
    if book.method != "random":
        variance = float(np.square(vectors - vectors.mean(axis=0)).sum())
        distortion = float(np.square(book.decode(codes) - vectors).sum()) / variance if variance else 0.0
    return CodeStatistics(
        items=len(codes),
        distinct_vectors=int(vector_of.max()) + 1,
        distinct_codes=len(shared),
        colliding_items=int(shared[code_of.ravel()].sum()),
        centroids_used=float((counts > 0).mean()),
        perplexity=float(np.exp(entropy).mean()),
        distortion=distortion,
    )


Fitted = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None, npt.NDArray[np.float32] | None]


def _fit_pq(points: npt.NDArray[np.float32], settings: QuantisationSettings, _: np.random.Generator) -> Fitted:
    return _cluster_parts(points, settings, rounds=25), None, None


def _fit_opq(points: npt.NDArray[np.float32], settings: QuantisationSettings, _: np.random.Generator) -> Fitted:
    mean = points.mean(axis=0)
    centred = torch.from_numpy(points - mean)
    rotation = _parametric_rotation(centred, settings.subvectors)
    centroids = None
    with progress_bar("Fitting the rotation", settings.rotation_rounds, "rounds") as advance:
        for _round in range(settings.rotation_rounds):
            rotated = (centred @ rotation).numpy()
            # A rough codebook, started from the last one, is enough while the rotation still changes.
            centroids = _cluster_parts(rotated, settings, rounds=4, start=centroids)
            book = CodeBook("pq", centroids, None, None, encoder="")
            decoded = torch.from_numpy(book.decode(book.encode(rotated)))
            # Orthogonal Procrustes problem: the rotation that brings the points closest to their decoded codes.
            left, _, right = torch.linalg.svd(centred.T.double() @ decoded.double())
            rotation = (left @ right).float()
            advance()
    rotated_mean = (torch.from_numpy(mean) @ rotation).numpy()
    return _cluster_parts((centred @ rotation).numpy(), settings, rounds=25), rotation.numpy(), rotated_mean


def _parametric_rotation(centred: torch.Tensor, subvectors: int) -> torch.Tensor:
    """Principal axes [D, D], allocated so that the product of eigenvalues is about the same in every sub-vector."""
    values, axes = torch.linalg.eigh(torch.cov(centred.T.double()))
    logs = torch.log(values.clamp_min(float(values[-1]) * 1e-9)).tolist()
    capacity = len(values) // subvectors
    dealt: list[list[int]] = [[] for _ in range(subvectors)]
    weight = [0.0] * subvectors
    for axis in reversed(range(len(values))):  # eigh sorts ascending; the largest are allocated first
        receiver = min((m for m in range(subvectors) if len(dealt[m]) < capacity), key=lambda m: weight[m])
        dealt[receiver].append(axis)
        weight[receiver] += logs[axis] - logs[0]
    order = torch.tensor([axis for part in dealt for axis in part])
    return torch.index_select(axes, 1, order).float()


def _fit_residual(points: npt.NDArray[np.float32], settings: QuantisationSettings, _: np.random.Generator) -> Fitted:
    mean = points.mean(axis=0)
    rest = points - mean
    levels = []
    with progress_bar("Fitting residual levels", settings.subvectors, "levels") as advance:
        for level in range(settings.subvectors):
            centroids = _cluster(rest, settings.centroids, settings.seed + level, rounds=25)
            book = CodeBook("residual", centroids[None], None, None, encoder="")
            rest -= book.decode(book.encode(rest))
            levels.append(centroids)
            advance()
    return np.stack(levels), None, mean


def _fit_random(
    points: npt.NDArray[np.float32], settings: QuantisationSettings, generator: np.random.Generator
) -> Fitted:
    planes = generator.normal(size=(points.shape[1], HASH_BITS)).astype(np.float32)
    # Hyperplanes through the median split the points into the most cells.
    middle = np.median(points @ planes, axis=0).astype(np.float32)
    return np.empty((settings.subvectors, settings.centroids, 0), np.float32), planes, middle


def _cluster_parts(
    points: npt.NDArray[np.float32],
    settings: QuantisationSettings,
    rounds: int,
    start: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Centroids [M, K, D/M] of the sub-vectors of `points` [N, D]."""
    parts = np.split(points, settings.subvectors, axis=1)
    starts: Iterable[npt.NDArray[np.float32] | None] = [None] * len(parts) if start is None else start
    return np.stack(
        [
            _cluster(part, settings.centroids, settings.seed + m, rounds, begin)
            for m, (part, begin) in enumerate(zip(parts, starts, strict=True))
        ]
    )


def _cluster(
    points: npt.NDArray[np.float32], count: int, seed: int, rounds: int, start: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """`count` centroids [K, d] of `points` [N, d] by faiss's k-means."""
    import faiss

    # faiss's limits only warn and subsample; the caller has already chosen the points.
    means = faiss.Kmeans(
        points.shape[1], count, niter=rounds, seed=seed, min_points_per_centroid=1, max_points_per_centroid=len(points)
    )
    means.train(np.ascontiguousarray(points), init_centroids=start)
    return np.array(means.centroids, dtype=np.float32).reshape(count, -1)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread in the block; see the head of this file."""
    import faiss

    torch_threads, faiss_threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        faiss.omp_set_num_threads(faiss_threads)
