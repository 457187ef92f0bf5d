import numpy as np

from linguarec.text.word_drop import drop_words


def test_about_the_share_is_dropped_and_the_order_stays() -> None:
    words = [f"w{i}" for i in range(5000)]
    kept = drop_words(" ".join(words), 0.2, np.random.default_rng(0)).split()
    assert 3900 < len(kept) < 4100
    assert kept == sorted(kept, key=lambda word: int(word[1:]))


def test_at_least_one_word_stays() -> None:
    generator = np.random.default_rng(1)
    assert all(drop_words("tea towel", 0.99, generator) in ("tea", "towel", "tea towel") for _ in range(200))


def test_empty_texts_stay_and_equal_seeds_give_equal_draws() -> None:
    assert drop_words("", 0.5, np.random.default_rng(0)) == ""
    text = "a set of steel calipers with a case"
    first, second = (drop_words(text, 0.4, np.random.default_rng(7)) for _ in range(2))
    assert first == second != text
