"""Word drop: an item's text with some of its words left out, an augmentation for pre-training (UniSRec)."""

import numpy as np

WORD_DROP = 0.2  # fraction of the words; UniSRec's value


def drop_words(text: str, share: float, generator: np.random.Generator) -> str:
    """`text` with each word left out with probability `share`; at least one word stays.

    >>> drop_words("steel ruler 30 cm", 0.5, np.random.default_rng(0))
    'steel'
    """
    words = text.split()
    if not words:
        return text
    kept = generator.random(len(words)) >= share
    if not kept.any():
        kept[generator.integers(len(words))] = True
    return " ".join(word for word, keep in zip(words, kept, strict=True) if keep)
