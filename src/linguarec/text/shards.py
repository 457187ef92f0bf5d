"""Encode a catalogue in shards on disk, so that a killed run can be resumed.

A shard is a sequence of batches in the order of encoding (longest texts first). It is written atomically, so each is complete
or absent. Its folder is named by a fingerprint of encoder, texts and plan, so shards of other encodings are never read.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linguarec.arrays import save_array
from linguarec.files import writing_file
from linguarec.progress import progress_bar
from linguarec.text.encoders import TOKENS_A_BATCH, TextEncoder, Vectors, batches_by_length

Rows = npt.NDArray[np.int64]

TOKENS_A_SHARD = 1 << 18  # about a quarter of a minute on two cores


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """`vectors` [N, D], with counts.

    `distinct`: distinct texts; `cut`: how many of them were cut at the limit; `resumed`: how many came from an earlier run;
    `empty`: texts without a word, of all texts.
    """

    vectors: Vectors
    distinct: int
    cut: int
    empty: int
    resumed: int


def encode_in_shards(
    encoder: TextEncoder,
    texts: Sequence[str],
    scratch: Path,
    description: str = "Encoding",
    tokens_a_shard: int = TOKENS_A_SHARD,
) -> EncodedTexts:
    """Vectors of all texts; the shards under `scratch` are removed by `remove_shards` once the result is stored.

    Args:
        encoder: The encoder.
        texts: Texts in row order.
        scratch: Folder for the shards; made if absent.
        description: Label of the progress bar.
        tokens_a_shard: Tokens after which a shard is written.
    """
    distinct = list(dict.fromkeys(texts))
    row_of = {text: row for row, text in enumerate(distinct)}
    tokens = encoder.tokenize(distinct)
    batches = list(batches_by_length(tokens.lengths, TOKENS_A_BATCH[encoder.device.type]))
    plan = [asdict(encoder.reference), encoder.precision, [len(batch) for batch in batches], tokens_a_shard]
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode())
    for text in distinct:
        digest.update(text.encode("utf-8") + b"\0")
    folder = scratch / digest.hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.empty((len(distinct), encoder.reference.width), np.float32)
    resumed = 0
    with progress_bar(description, len(distinct), "items") as advance:
        for number, shard in enumerate(_shards(batches, tokens.lengths, tokens_a_shard)):
            file = folder / f"{number:06d}.npy"
            rows = np.concatenate(shard)
            if file.is_file():
                vectors[rows] = np.load(file)
                resumed += len(rows)
                advance(len(rows))
                continue
            for batch in shard:
                vectors[batch] = encoder.encode_tokens(tokens, batch)
                advance(len(batch))
            with writing_file(file) as temporary:
                save_array(temporary, vectors[rows])
    empty = sum(not text.strip() for text in texts)
    every = vectors[[row_of[text] for text in texts]]
    return EncodedTexts(every, len(distinct), tokens.num_cut, empty, resumed)


def remove_shards(scratch: Path) -> None:
    """Remove the shards after their vectors were stored."""
    shutil.rmtree(scratch, ignore_errors=True)


def _shards(batches: list[Rows], lengths: npt.NDArray[np.int64], size: int) -> list[list[Rows]]:
    shards: list[list[Rows]] = []
    filled = size
    for batch in batches:
        if filled >= size:
            shards.append([])
            filled = 0
        shards[-1].append(batch)
        filled += int(lengths[batch].sum())
    return shards
