"""Codebooks: item vectors to short discrete codes and back, without faiss.

A codebook maps a text vector x [D] to M numbers below K. Product quantisation (Jegou et al., 2011) cuts the vector
into M sub-vectors and replaces each by the nearest of K centroids; OPQ (Ge et al., 2013) rotates it first; residual
quantisation codes the residual of the earlier centroids. A new item needs only the codebook: nothing is fitted again.

Distances are computed in float64, so that the code of an item does not depend on the other items of a batch.
"""

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from linguarec.errors import DataFormatError, SettingsError, StaleFeaturesError
from linguarec.files import writing_file
from linguarec.records import record_of
from linguarec.regular import check_regular
from linguarec.stored import NOT_AN_ARRAY, array_problem, finite_problem

Method = Literal["opq", "pq", "residual", "random"]
Vectors = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.unsignedinteger[Any]]

CHUNK = 4096  # items coded at once: 4096 x 256 distances in float64 are 8 MiB


@dataclass(frozen=True, eq=False)
class CodeBook:
    """Codes vectors of one encoder.

    `centroids` [M, K, d] float32: d = D'/M for "opq" and "pq", d = D' for "residual", d = 0 for "random".
    `rotation` [D, D'] float32: applied first (None = none). `mean` [D'] float32: subtracted after it (None = none).
    `encoder`, `encoder_fingerprint`: the encoder whose vectors the codebook was fitted on, and the hash of its weights (None =
    not known).

    "random" codes are drawn uniformly by a hash of the vector and the seed (`rotation` holds the hash's hyperplanes):
    equal vectors have equal codes, everything else is noise. So a new item also gets a code, but one without meaning.

    Raises:
        DataFormatError: the arrays do not fit together.
    """

    method: Method
    centroids: npt.NDArray[np.float32]
    rotation: npt.NDArray[np.float32] | None
    mean: npt.NDArray[np.float32] | None
    encoder: str
    encoder_fingerprint: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.centroids.ndim != 3:
            raise DataFormatError(f"A codebook needs centroids [M, K, d], found the shape {self.centroids.shape}.")
        if self.method == "random" and self.rotation is None:
            raise DataFormatError("A random codebook needs the hyperplanes of its hash, found none.")
        inner = self._inner_width
        if self.method != "random":
            expected = (
                self.subvectors * self.centroids.shape[2] if self.method in ("opq", "pq") else self.centroids.shape[2]
            )
            if inner != expected:
                raise DataFormatError(f"The rotation gives {inner} dimensions, the centroids cover {expected}.")
        if self.mean is not None and self.mean.shape != (inner,):
            raise DataFormatError(f"The codebook's mean has the shape {self.mean.shape}, expected ({inner},).")

    def __repr__(self) -> str:
        size = f"{self.subvectors} x {self.num_centroids}"
        return f"CodeBook({self.method}, {size}, {self.width} dimensions of {self.encoder})"

    @property
    def subvectors(self) -> int:
        """M, the length of a code."""
        return len(self.centroids)

    @property
    def num_centroids(self) -> int:
        """K, the number of values that each part of a code can take."""
        return int(self.centroids.shape[1])

    @property
    def width(self) -> int:
        """D, the width of the vectors that are coded."""
        return self._inner_width if self.rotation is None else len(self.rotation)

    @property
    def _inner_width(self) -> int:
        if self.rotation is not None:
            return int(self.rotation.shape[1])
        subvectors, _, width = self.centroids.shape
        return int(subvectors * width if self.method in ("opq", "pq") else width)

    @property
    def code_type(self) -> type[np.uint8] | type[np.uint16]:
        """The NumPy type of a code: one byte if K is at most 256."""
        return np.uint8 if self.num_centroids <= 256 else np.uint16

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides a code, hexadecimal."""
        digest = hashlib.sha256(f"{self.method} {self.seed} {self.centroids.shape}".encode())
        for array in (self.centroids, self.rotation, self.mean):
            digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def encode(self, vectors: Vectors) -> Codes:
        """Codes [N, M] uint8 (uint16 beyond 256 centroids) of vectors [N, D].

        Raises:
            StaleFeaturesError: the vectors are not D wide, so they come from another encoder.
            DataFormatError: a vector holds NaN or an infinity.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            raise StaleFeaturesError(
                f"This codebook codes vectors of width {self.width} (encoder {self.encoder}), found the shape "
                f"{vectors.shape}; encode the texts with that encoder, or fit a new codebook."
            )
        code_one_chunk = {
            "opq": self._nearest_parts,
            "pq": self._nearest_parts,
            "residual": self._greedy,
            "random": self._draw,
        }
        codes = np.empty((len(vectors), self.subvectors), dtype=self.code_type)
        for start in range(0, len(vectors), CHUNK):
            chunk = np.asarray(vectors[start : start + CHUNK], dtype=np.float64)
            if not np.isfinite(chunk).all():
                row = start + int(np.flatnonzero(~np.isfinite(chunk).all(axis=1))[0])
                raise DataFormatError(f"Vector {row} holds NaN or an infinity; encode the texts again.")
            codes[start : start + CHUNK] = code_one_chunk[self.method](self._transform(chunk))
        return codes

    def decode(self, codes: Codes) -> npt.NDArray[np.float32]:
        """Decode codes [N, M] to vectors [N, D] float32.

        The rotation is inverted by its transpose, as faiss does, so it must be orthonormal (OPQ's is).

        Raises:
            SettingsError: the codes are random, so they cannot be decoded.
            DataFormatError: the codes are not M wide or contain a number that is not below K.
        """
        if self.method == "random":
            raise SettingsError(
                ["Random codes stand for no vector and cannot be decoded; use the encoder's own vectors."]
            )
        if (
            codes.ndim != 2
            or codes.shape[1] != self.subvectors
            or (codes.size and int(codes.max()) >= self.num_centroids)
        ):
            raise DataFormatError(
                f"Expected codes [N, {self.subvectors}] below {self.num_centroids}, found the shape {codes.shape}"
                f"{f' with values up to {codes.max()}' if codes.size else ''}."
            )
        parts = self.centroids[np.arange(self.subvectors), codes]  # [N, M, d]
        inner = parts.sum(axis=1) if self.method == "residual" else parts.reshape(len(codes), self._inner_width)
        if self.mean is not None:
            inner = inner + self.mean
        decoded = inner if self.rotation is None else inner @ self.rotation.T
        return decoded.astype(np.float32)

    def save(self, path: Path) -> None:
        """Write the codebook without codes as one `.npz`, atomically."""
        _save(path, self, {}, {})

    @classmethod
    def load(cls, path: Path) -> "CodeBook":
        """Read a codebook: a file of `save`, or of stored item codes.

        Raises:
            DataFormatError: the file is missing or holds no codebook.
        """
        return _load(path)[0]

    def _transform(self, chunk: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        inner = chunk if self.rotation is None else chunk @ self.rotation.astype(np.float64)
        return inner if self.mean is None else inner - self.mean

    def _nearest_parts(self, inner: npt.NDArray[np.float64]) -> Codes:
        parts = inner.reshape(len(inner), self.subvectors, -1)
        nearest = [_nearest(parts[:, m], self.centroids[m]) for m in range(self.subvectors)]
        return np.stack(nearest, axis=1).astype(self.code_type)

    def _greedy(self, inner: npt.NDArray[np.float64]) -> Codes:
        rest = inner.copy()
        codes = np.empty((len(inner), self.subvectors), dtype=self.code_type)
        for m in range(self.subvectors):
            codes[:, m] = _nearest(rest, self.centroids[m])
            rest -= self.centroids[m][codes[:, m]]
        return codes

    def _draw(self, inner: npt.NDArray[np.float64]) -> Codes:
        # The signs of the projections identify the vector; rounding of its last bits does not change them.
        names = np.packbits(inner > 0, axis=1)
        shape = (len(inner), self.subvectors)
        codes = np.empty(shape, dtype=self.code_type)
        for row, name in enumerate(names):
            entropy = int.from_bytes(hashlib.sha256(name.tobytes()).digest(), "big")
            codes[row] = np.random.default_rng([self.seed, entropy]).integers(self.num_centroids, size=self.subvectors)
        return codes


@dataclass(frozen=True, eq=False)
class ItemCodes:
    """The codes [N, M] of a catalogue's items and the codebook that made them.

    `texts_fingerprint`: of the item texts whose vectors were coded (None = not known).

    Raises:
        DataFormatError: codes and codebook do not fit together.
    """

    codes: Codes
    book: CodeBook
    texts_fingerprint: str | None = None

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.shape[1] != self.book.subvectors:
            raise DataFormatError(
                f"Codes of shape {self.codes.shape} do not fit a book of {self.book.subvectors} sub-vectors."
            )
        if self.codes.dtype != self.book.code_type:
            raise DataFormatError(f"Codes are {self.codes.dtype}, expected {np.dtype(self.book.code_type)}.")

    def __len__(self) -> int:
        return len(self.codes)

    def __repr__(self) -> str:
        return f"ItemCodes({len(self):,} items, {self.book})"

    def check(self, num_items: int, texts_fingerprint: str | None = None) -> None:
        """Refuse codes of another catalogue.

        Raises:
            StaleFeaturesError: the number of items or the texts differ.
        """
        if len(self) != num_items:
            raise StaleFeaturesError(
                f"The codes are of {len(self):,} items, the catalogue has {num_items:,}; quantize again."
            )
        if None not in (self.texts_fingerprint, texts_fingerprint) and self.texts_fingerprint != texts_fingerprint:
            raise StaleFeaturesError(
                "The codes were made from other item texts than the folder has now; encode and quantize again."
            )

    def save(self, path: Path) -> None:
        """Write codes and codebook as one `.npz`, atomically."""
        _save(path, self.book, {"texts_fingerprint": self.texts_fingerprint}, {"codes": self.codes})

    @classmethod
    def load(cls, path: Path) -> "ItemCodes":
        """Read what `save` wrote.

        Raises:
            DataFormatError: the file is missing or was not written by `save`.
        """
        if not path.exists():
            known = ", ".join(sorted(file.stem for file in path.parent.glob("*.npz"))) or "none"
            raise DataFormatError(
                f"There are no codes {path}; codes there: {known}. Make them with `linguarec quantize`."
            )
        book, texts_fingerprint, codes = _load(path)
        if codes is None:
            raise DataFormatError(f"{path} holds a codebook, but no item codes; quantize again.")
        try:
            return cls(codes, book, texts_fingerprint)
        except DataFormatError as error:
            raise DataFormatError(f"{path}: {error} Quantize again.") from error


@dataclass(frozen=True)
class _Header:
    """What a file says of a codebook beside its arrays, as JSON."""

    method: Method
    encoder: str
    encoder_fingerprint: str | None = None
    seed: int = 0
    texts_fingerprint: str | None = None


def _save(path: Path, book: CodeBook, header: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
    header = {
        "method": book.method,
        "encoder": book.encoder,
        "encoder_fingerprint": book.encoder_fingerprint,
        "seed": book.seed,
        **header,
    }
    parts = {"centroids": book.centroids, "rotation": book.rotation, "mean": book.mean, **arrays}
    present = {name: array for name, array in parts.items() if array is not None}
    with writing_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, header=np.array(json.dumps(header)), **present)


def _load(path: Path) -> tuple[CodeBook, str | None, Codes | None]:
    """The codebook, the fingerprint of the texts and the codes; the last two are None if the file holds only a codebook."""
    check_regular(path, DataFormatError)
    try:
        with np.load(path, allow_pickle=False) as stored:
            header = record_of(_Header, json.loads(str(stored["header"])))
            arrays = {name: stored.get(name) for name in ("centroids", "rotation", "mean")}
            for name, array in arrays.items():
                if array is not None and (wrong := array_problem(array, np.float32, None) or finite_problem(array)):
                    raise ValueError(f"its {name} {wrong}")
            if arrays["centroids"] is None:
                raise ValueError("it lacks centroids")
            about = {name: value for name, value in vars(header).items() if name != "texts_fingerprint"}
            book = CodeBook(**arrays, **about)
            codes = stored.get("codes")
            if codes is not None and codes.dtype.kind == "u" and codes.size and codes.max() >= book.num_centroids:
                raise ValueError(f"a code is {codes.max()}, there are {book.num_centroids} centroids")
            return book, header.texts_fingerprint, codes
    except (*NOT_AN_ARRAY, NotImplementedError, DataFormatError, zlib.error) as error:
        raise DataFormatError(
            f"{path} does not hold a codebook of linguarec ({error}): it is cut short or foreign. Make it anew by "
            "`linguarec quantize`, or copy the folder that it came in again."
        ) from error


def _nearest(vectors: npt.NDArray[np.float64], centroids: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Index [N] of the centroid nearest to each vector; the first one of ties."""
    exact = centroids.astype(np.float64)
    # |x - c|^2 without |x|^2, which is the same for all centroids.
    nearest: npt.NDArray[np.intp] = ((exact * exact).sum(axis=1) - 2.0 * vectors @ exact.T).argmin(axis=1)
    return nearest
