from pathlib import Path

import faiss
import numpy as np
import pytest

from linguarec.codes.faiss_index import read_faiss_index, write_faiss_index
from linguarec.errors import DataFormatError, SettingsError


def build(
    description: str, metric: int = faiss.METRIC_INNER_PRODUCT, rows: int = 600
) -> tuple[faiss.Index, np.ndarray]:
    vectors = np.random.default_rng(0).normal(size=(rows, 16)).astype(np.float32) + 0.5
    index = faiss.index_factory(16, description, metric)
    if description.startswith("OPQ"):
        faiss.downcast_VectorTransform(index.chain.at(0)).niter = 2  # quick rather than good
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    if "PQ" in description:
        inner.do_polysemous_training = False  # it only renumbers the centroids, for seconds
    index.train(vectors)
    index.add(vectors)
    return index, vectors


@pytest.mark.parametrize("description", ["OPQ4,IVF1,PQ4x8", "IVF1,PQ4x8", "OPQ4,PQ4x8", "PCA8,PQ4x8", "PQ4x8"])
def test_codes_and_new_items_equal_faiss(description: str, tmp_path: Path) -> None:
    index, vectors = build(description)
    faiss.write_index(index, str(tmp_path / "x.index"))
    content = read_faiss_index(tmp_path / "x.index", "enc")
    assert np.array_equal(content.codes, content.book.encode(vectors))
    new = np.random.default_rng(1).normal(size=(300, 16)).astype(np.float32)
    assert np.array_equal(content.book.encode(new), index.sa_encode(new))
    assert np.allclose(content.book.decode(content.codes), index.sa_decode(index.sa_encode(vectors)), atol=1e-5)


@pytest.mark.parametrize(
    ("description", "message"),
    [("Flat", "IndexFlat"), ("IVF2,PQ4x8", "2 coarse cells"), ("PQ4x6", "6 bits")],
)
def test_other_kinds_of_index_are_refused(description: str, message: str, tmp_path: Path) -> None:
    index, _ = build(description)
    faiss.write_index(index, str(tmp_path / "x.index"))
    with pytest.raises(DataFormatError, match=message):
        read_faiss_index(tmp_path / "x.index", "enc")


def test_missing_or_broken_file(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="no faiss index"):
        read_faiss_index(tmp_path / "x.index", "enc")
    (tmp_path / "x.index").write_bytes(b"not an index at all")
    with pytest.raises(DataFormatError, match="not a faiss index"):
        read_faiss_index(tmp_path / "x.index", "enc")


def test_official_index_codes_its_own_vectors_exactly(shared: Path) -> None:
    folder = shared / "data" / "scientific"
    content = read_faiss_index(folder / "Scientific.OPQ32,IVF1,PQ32x8.strict.index", "bert-base-uncased")
    assert content.codes.shape == (4373, 32)
    train = set()
    for line in (folder / "Scientific.train.inter").read_text().splitlines()[1:]:
        _, history, target = line.split("\t")
        train.update(map(int, [*history.split(), target]))
    vectors = np.fromfile(folder / "Scientific.feat1CLS", dtype=np.float32).reshape(-1, 768)
    assert np.array_equal(content.book.encode(vectors[sorted(train)]), content.codes)
    assert np.allclose(content.book.decode(content.codes), vectors[sorted(train)], atol=1e-5)


def test_official_index_comes_back_byte_by_byte(shared: Path, tmp_path: Path) -> None:
    official = shared / "data/scientific/Scientific.OPQ32,IVF1,PQ32x8.strict.index"
    write_faiss_index(tmp_path / "x.index", read_faiss_index(official, "bert-base-uncased"))
    assert (tmp_path / "x.index").read_bytes() == official.read_bytes()


def test_books_of_another_kind_cannot_be_written(tmp_path: Path) -> None:
    index, _ = build("PQ4x8")
    faiss.write_index(index, str(tmp_path / "x.index"))
    content = read_faiss_index(tmp_path / "x.index", "enc")
    with pytest.raises(SettingsError, match=r"CodeBook\(pq, 4 x 256, .*cannot be written.*method opq with 256"):
        write_faiss_index(tmp_path / "y.index", content)
