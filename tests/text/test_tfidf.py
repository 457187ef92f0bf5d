import numpy as np
import pytest

from linguarec.text.tfidf import nearest_texts


def test_rare_words_in_common_weigh_more() -> None:
    candidates = ["steel ruler", "steel bolt", "steel caliper digital", "tea towel"]
    nearest = nearest_texts(["Digital ruler? no: a DIGITAL thermometer of steel", "towel"], candidates)
    assert nearest.rows.tolist() == [2, 3]
    assert nearest.similarities[1] == pytest.approx(1 / np.sqrt(2), abs=0.1)


def test_equal_texts_have_similarity_one_and_the_first_wins() -> None:
    nearest = nearest_texts(["tea towel"], ["mug", "tea towel", "towel, tea"])
    assert nearest.rows.tolist() == [1]
    assert nearest.similarities[0] == pytest.approx(1.0)


def test_a_text_without_known_words_takes_the_first() -> None:
    nearest = nearest_texts(["", "zebra"], ["mug", "towel"])
    assert nearest.rows.tolist() == [0, 0]
    assert nearest.similarities.tolist() == [0.0, 0.0]
