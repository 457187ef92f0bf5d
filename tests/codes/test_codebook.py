from pathlib import Path

import numpy as np
import pytest

from linguarec.codes.codebook import CodeBook, ItemCodes
from linguarec.errors import DataFormatError, SettingsError, StaleFeaturesError

CENTROIDS = np.array([[[0.0, 0.0], [1.0, 1.0], [4.0, 0.0]], [[0.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]], dtype=np.float32)


def pq_book(**changes: object) -> CodeBook:
    settings: dict[str, object] = {
        "method": "pq",
        "centroids": CENTROIDS,
        "rotation": None,
        "mean": None,
        "encoder": "enc",
    }
    return CodeBook(**(settings | changes))  # type: ignore[arg-type]


def random_rotation(width: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0].astype(np.float32)


def test_each_part_takes_its_nearest_centroid() -> None:
    codes = pq_book().encode(
        np.array([[0.1, 0.0, 0.1, 1.8], [3.0, 0.2, -2.0, 0.1], [0.9, 0.8, 0.0, 0.2]], dtype=np.float32)
    )
    assert codes.tolist() == [[0, 1], [2, 2], [1, 0]]
    assert codes.dtype == np.uint8


def test_decode_joins_the_centroids() -> None:
    assert pq_book().decode(np.array([[2, 1]], dtype=np.uint8)).tolist() == [[4.0, 0.0, 0.0, 2.0]]


def test_rotation_and_mean_are_undone_by_decode() -> None:
    book = pq_book(method="opq", rotation=random_rotation(4), mean=np.array([1, 2, 3, 4], dtype=np.float32))
    codes = np.array([[0, 1], [2, 0], [1, 2]], dtype=np.uint8)
    assert book.encode(book.decode(codes)).tolist() == codes.tolist()


def test_residual_codes_what_is_left() -> None:
    centroids = np.array([[[0.0, 0.0], [10.0, 0.0]], [[0.0, 1.0], [0.0, -1.0]]], dtype=np.float32)
    book = pq_book(method="residual", centroids=centroids)
    codes = book.encode(np.array([[9.0, -0.8], [1.0, 0.7]], dtype=np.float32))
    assert codes.tolist() == [[1, 1], [0, 0]]
    assert book.decode(codes).tolist() == [[10.0, -1.0], [0.0, 1.0]]


def test_more_than_256_centroids_need_two_bytes() -> None:
    centroids = np.arange(300, dtype=np.float32).reshape(1, 300, 1)
    codes = pq_book(centroids=centroids).encode(np.array([[299.2], [256.0]], dtype=np.float32))
    assert codes.dtype == np.uint16
    assert codes.tolist() == [[299], [256]]


def random_book(seed: int = 3) -> CodeBook:
    planes = np.random.default_rng(1).normal(size=(8, 256)).astype(np.float32)
    return CodeBook("random", np.empty((4, 16, 0), np.float32), planes, None, "enc", seed=seed)


def test_random_codes_depend_on_vector_and_seed_alone() -> None:
    vectors = np.random.default_rng(2).normal(size=(50, 8))
    codes = random_book().encode(vectors)
    assert np.array_equal(codes[7:8], random_book().encode(vectors[7:8]))
    assert np.array_equal(codes, random_book().encode(vectors * (1 + 1e-7)))
    assert not np.array_equal(codes, random_book(seed=4).encode(vectors))
    assert np.unique(codes).tolist() == list(range(16))
    with pytest.raises(SettingsError, match="cannot be decoded"):
        random_book().decode(codes)


def test_an_item_alone_has_the_code_it_has_among_others() -> None:
    generator = np.random.default_rng(5)
    book = pq_book(
        method="opq", rotation=random_rotation(64), centroids=generator.normal(size=(8, 256, 8)).astype(np.float32)
    )
    vectors = generator.normal(size=(5000, 64)).astype(np.float32)
    together = book.encode(vectors)
    assert all(np.array_equal(book.encode(vectors[row : row + 1])[0], together[row]) for row in range(0, 5000, 50))


@pytest.mark.parametrize("shape", [(2, 5), (4,)])
def test_vectors_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(StaleFeaturesError, match="width 4"):
        pq_book().encode(np.zeros(shape))


def test_nan_is_named_by_row() -> None:
    vectors = np.zeros((5, 4))
    vectors[3, 1] = np.nan
    with pytest.raises(DataFormatError, match="Vector 3"):
        pq_book().encode(vectors)


def test_codes_beyond_the_centroids_are_refused() -> None:
    with pytest.raises(DataFormatError, match="below 3"):
        pq_book().decode(np.array([[0, 3]], dtype=np.uint8))


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataFormatError, match="centroids cover 4"):
        pq_book(rotation=random_rotation(5))
    with pytest.raises(DataFormatError, match="mean"):
        pq_book(mean=np.zeros(3, np.float32))
    with pytest.raises(DataFormatError, match="uint8"):
        ItemCodes(np.zeros((2, 2), np.uint16), pq_book())


def test_saved_codes_come_back_whole(tmp_path: Path) -> None:
    rotation, mean = random_rotation(4), np.arange(4, dtype=np.float32)
    book = pq_book(method="opq", rotation=rotation, mean=mean, encoder_fingerprint="ab", seed=9)
    codes = ItemCodes(np.array([[0, 1], [2, 2]], dtype=np.uint8), book, texts_fingerprint="cd")
    codes.save(tmp_path / "deep" / "codes.npz")
    loaded = ItemCodes.load(tmp_path / "deep" / "codes.npz")
    assert np.array_equal(loaded.codes, codes.codes)
    assert loaded.book.fingerprint == book.fingerprint
    assert (loaded.book.encoder, loaded.book.encoder_fingerprint, loaded.book.seed) == ("enc", "ab", 9)
    assert loaded.texts_fingerprint == "cd"
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["codes.npz"]


def test_codes_of_another_catalogue_are_refused() -> None:
    codes = ItemCodes(np.zeros((2, 2), np.uint8), pq_book(), texts_fingerprint="a")
    codes.check(2, "a")
    with pytest.raises(StaleFeaturesError, match="3"):
        codes.check(3, "a")
    with pytest.raises(StaleFeaturesError, match="other item texts"):
        codes.check(2, "b")


def test_missing_or_broken_file(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match="no codes"):
        ItemCodes.load(tmp_path / "absent.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(DataFormatError, match="broken"):
        ItemCodes.load(tmp_path / "broken.npz")
