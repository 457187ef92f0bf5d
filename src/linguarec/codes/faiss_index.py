"""Converts a published faiss index (VQ-Rec: `OPQ32,IVF1,PQ32x8`) to codes and a codebook, and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linguarec.codes.codebook import CodeBook, Codes, Method, Vectors
from linguarec.errors import DataFormatError, SettingsError
from linguarec.regular import check_regular

IMPORTED_CODES = "official"  # name of the stored codes of a published index


@dataclass(frozen=True, eq=False)
class IndexContent:
    """`codes` [R, M] uint8 of the R indexed items, in the order in which they were added, and their `book`."""

    codes: Codes
    book: CodeBook

    def of_catalogue(self, indexed: npt.NDArray[np.integer[Any]], vectors: Vectors) -> tuple[Codes, int]:
        """Codes [N, M] of a whole catalogue, and how many indexed items have vectors whose codes differ from the index.

        Args:
            indexed: [R] the item rows that the index holds, in its order.
            vectors: [N, D] of all items; items that are not in the index are coded from them.
        """
        codes = self.book.encode(vectors)
        different = int((codes[indexed] != self.codes).any(axis=1).sum())
        codes[indexed] = self.codes
        return codes, different


def write_faiss_index(path: Path, content: IndexContent) -> None:
    """Write an index of the type `OPQ<M>,IVF1,PQ<M>x8`, as VQ-Rec reads it; `read_faiss_index` returns the same content.

    Raises:
        SettingsError: the codebook is of another type.
    """
    import faiss

    book = content.book
    if book.method != "opq" or book.rotation is None or book.num_centroids != 256:
        raise SettingsError(
            [f"{book} cannot be written as a faiss index for VQ-Rec; use codes of method opq with 256 centroids."]
        )
    width, inner_width = book.rotation.shape
    rotation = faiss.LinearTransform(width, inner_width, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(book.rotation.T).ravel(), rotation.A)
    rotation.is_trained = rotation.is_orthonormal = True
    quantizer = faiss.IndexFlatIP(inner_width)
    quantizer.add(np.zeros((1, inner_width), np.float32) if book.mean is None else book.mean[None])
    inner: Any = faiss.IndexIVFPQ(quantizer, inner_width, 1, book.subvectors, 8, faiss.METRIC_INNER_PRODUCT)
    inner.by_residual = book.mean is not None
    faiss.copy_array_to_vector(np.ascontiguousarray(book.centroids).ravel(), inner.pq.centroids)
    inner.is_trained = True
    codes, ids = np.ascontiguousarray(content.codes, np.uint8), np.arange(len(content.codes), dtype=np.int64)
    inner.invlists.add_entries(0, len(codes), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
    inner.ntotal = len(codes)
    faiss.write_index(faiss.IndexPreTransform(rotation, inner), str(path))


def read_faiss_index(path: Path, encoder: str) -> IndexContent:
    """Read an index of product codes: an optional rotation, at most one coarse cell, M sub-vectors of 8 bits.

    Args:
        path: The `.index` file.
        encoder: Name of the encoder whose vectors the index holds; the file does not store it.

    Raises:
        DataFormatError: the file is missing, is not a faiss index, or is an index of another type.
    """
    import faiss

    check_regular(path, DataFormatError)
    if not path.is_file():
        raise DataFormatError(f"There is no faiss index {path}.")
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise DataFormatError(f"{path} is not a faiss index, or is cut short: {str(error).splitlines()[0]}") from error
    rotation, bias, inner = _split_transform(faiss, path, index)
    if isinstance(inner, faiss.IndexIVFPQ):
        codes, mean = _read_single_cell(faiss, path, inner)
    elif isinstance(inner, faiss.IndexPQ):
        codes, mean = faiss.vector_to_array(inner.codes).reshape(inner.ntotal, -1), None
    else:
        raise DataFormatError(f"{path} is a {type(inner).__name__}; expected product codes, as of `OPQ32,IVF1,PQ32x8`.")
    pq = inner.pq
    if pq.nbits != 8:
        raise DataFormatError(f"{path} has codes of {pq.nbits} bits; only 8 bits (256 centroids) can be read.")
    if bias is not None:
        mean = -bias if mean is None else mean - bias
    centroids = faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub).copy()
    method: Method = "pq" if rotation is None else "opq"
    return IndexContent(codes.copy(), CodeBook(method, centroids, rotation, mean, encoder))


def _split_transform(faiss: Any, path: Path, index: Any) -> tuple[npt.NDArray[np.float32] | None, Any, Any]:
    """Rotation [D, D'], bias [D'] and the index after them."""
    if not isinstance(index, faiss.IndexPreTransform):
        return None, None, index
    inner = faiss.downcast_index(index.index)
    if index.chain.size() != 1:
        raise DataFormatError(f"{path} chains {index.chain.size()} transforms before its codes; expected one rotation.")
    transform = faiss.downcast_VectorTransform(index.chain.at(0))
    if not isinstance(transform, faiss.LinearTransform) or not transform.is_orthonormal:
        raise DataFormatError(
            f"{path} transforms its vectors by a {type(transform).__name__}; expected a rotation (OPQ)."
        )
    matrix = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in)
    bias = faiss.vector_to_array(transform.b).copy() if transform.have_bias else None
    return np.ascontiguousarray(matrix.T), bias, inner


def _read_single_cell(faiss: Any, path: Path, index: Any) -> tuple[Codes, npt.NDArray[np.float32] | None]:
    """Codes in the order of their ids, and the coarse centroid that was subtracted."""
    if index.nlist != 1:
        raise DataFormatError(
            f"{path} has {index.nlist} coarse cells; a code is only comparable across items with one (IVF1)."
        )
    cell, count = index.invlists, index.invlists.list_size(0)
    codes = faiss.rev_swig_ptr(cell.get_codes(0), count * cell.code_size).reshape(count, cell.code_size)
    ids = faiss.rev_swig_ptr(cell.get_ids(0), count)
    mean = index.quantizer.reconstruct_n(0, 1)[0].copy() if index.by_residual else None
    return codes[np.argsort(ids, kind="stable")], mean
