import numpy as np
import pytest

from linguarec.codes.codebook import Method
from linguarec.codes.quantisation import QuantisationSettings, code_statistics, fit_code_book
from linguarec.errors import SettingsError

METHODS: list[Method] = ["opq", "pq", "residual", "random"]


def correlated_vectors(rows: int = 400, width: int = 16, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    spread = np.diag(2.0 ** -np.arange(width)) @ np.linalg.qr(generator.normal(size=(width, width)))[0]
    return (generator.normal(size=(rows, width)) @ spread + 1).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_equal_seeds_give_equal_books(method: Method) -> None:
    vectors = correlated_vectors()
    first, second = (fit_code_book(vectors, QuantisationSettings(method, 4, 16, seed=7), "enc", "ab") for _ in range(2))
    other = fit_code_book(vectors, QuantisationSettings(method, 4, 16, seed=8), "enc", "ab")
    assert first.fingerprint == second.fingerprint != other.fingerprint
    assert (first.method, first.encoder, first.encoder_fingerprint, first.seed) == (method, "enc", "ab", 7)
    codes = first.encode(vectors)
    assert codes.shape == (400, 4)
    assert codes.max() == 15


def test_opq_distorts_less_than_pq() -> None:
    vectors = correlated_vectors()
    distortion = {}
    for method in ("opq", "pq"):
        book = fit_code_book(vectors, QuantisationSettings(method, 4, 16), "enc")  # type: ignore[arg-type]
        distortion[method] = code_statistics(book.encode(vectors), vectors, book).distortion
    assert distortion["opq"] < 0.6 * distortion["pq"]  # type: ignore[operator]


def test_the_rotation_is_one() -> None:
    book = fit_code_book(correlated_vectors(), QuantisationSettings("opq", 4, 16), "enc")
    assert book.rotation is not None
    assert np.allclose(book.rotation.T @ book.rotation, np.eye(16), atol=1e-5)


def test_residual_levels_lower_the_distortion() -> None:
    vectors = correlated_vectors()
    by_levels = []
    for levels in (1, 2, 4):
        book = fit_code_book(vectors, QuantisationSettings("residual", levels, 16), "enc")
        by_levels.append(code_statistics(book.encode(vectors), vectors, book).distortion)
    assert by_levels == sorted(by_levels, reverse=True)  # type: ignore[type-var]
    assert by_levels[2] < 0.5 * by_levels[0]  # type: ignore[operator]


def test_new_items_are_coded_about_as_well_as_fitted_ones() -> None:
    vectors = correlated_vectors(rows=4000)
    book = fit_code_book(vectors[:3000], QuantisationSettings("opq", 4, 16), "enc")
    fitted = code_statistics(book.encode(vectors[:3000]), vectors[:3000], book).distortion
    new = code_statistics(book.encode(vectors[3000:]), vectors[3000:], book).distortion
    assert new < 1.1 * fitted  # type: ignore[operator]


def test_random_codes_use_all_centroids_evenly() -> None:
    vectors = correlated_vectors(rows=4000)
    book = fit_code_book(vectors, QuantisationSettings("random", 4, 16), "enc")
    statistics = code_statistics(book.encode(vectors), vectors, book)
    assert statistics.perplexity > 15.8
    assert statistics.distortion is None


def test_as_many_distinct_vectors_as_centroids_are_coded_without_loss() -> None:
    vectors = correlated_vectors(rows=20)
    book = fit_code_book(np.repeat(vectors, 3, axis=0), QuantisationSettings("pq", 4, 20), "enc")
    statistics = code_statistics(book.encode(vectors), vectors, book)
    assert statistics.distinct_codes == 20
    assert statistics.colliding_items == 0


def test_statistics_by_hand() -> None:
    from linguarec.codes.codebook import CodeBook

    book = CodeBook("pq", np.array([[[0.0], [2.0]], [[0.0], [4.0]]], np.float32), None, None, "enc")
    vectors = np.array([[0.0, 0.0], [0.0, 1.0], [2.0, 0.0], [2.0, 0.0]], dtype=np.float32)
    statistics = code_statistics(book.encode(vectors), vectors, book)
    assert (statistics.items, statistics.distinct_vectors, statistics.distinct_codes) == (4, 3, 2)
    assert statistics.colliding_items == 2  # the first two share a code, the last two are the same vector
    assert statistics.centroids_used == 0.75
    assert statistics.perplexity == pytest.approx(1.5)  # 2 of the first part, 1 of the second
    assert statistics.distortion == pytest.approx(1.0 / 4.75)


def test_all_bad_settings_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        fit_code_book(correlated_vectors(rows=100), QuantisationSettings("pq", 5, 256, rotation_rounds=-1), "enc")
    assert len(caught.value.problems) == 3
    assert "does not divide the vectors' width 16" in caught.value.problems[0]
    assert "2, 4, 8" in caught.value.problems[0]
    assert "only 100 distinct" in caught.value.problems[1]


def test_a_large_catalogue_is_sampled() -> None:
    vectors = correlated_vectors(rows=2000)
    settings = QuantisationSettings("pq", 4, 16, max_points=500)
    assert fit_code_book(vectors, settings, "enc").fingerprint == fit_code_book(vectors, settings, "enc").fingerprint
