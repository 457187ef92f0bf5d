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
from linguarec.processes import ALONE, Processes
from linguarec.progress import progress_bar
from linguarec.text.encoders import TOKENS_A_BATCH, TextEncoder, Vectors, batches_by_length

Rows = npt.NDArray[np.int64]

TOKENS_A_SHARD = {"cpu": 1 << 14, "cuda": 1 << 20}  # a few seconds; processes share the shards out


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
    processes: Processes = ALONE,
) -> EncodedTexts | None:
    """Vectors of all texts; the shards under `scratch` are removed by `remove_shards` once the result is stored.

    On a CPU the vectors are those of one process to the bit, because processes share batches of the same texts out. The writer
    alone gets the result, the others None.

    Args:
        encoder: The encoder.
        texts: Texts in row order.
        scratch: Folder for the shards; made if absent.
        description: Label of the progress bar.
        processes: Share the shards that are not there yet; the writer stores them.
    """
    distinct = list(dict.fromkeys(texts))
    row_of = {text: row for row, text in enumerate(distinct)}
    tokens = encoder.tokenize(distinct)
    kind = encoder.device.type
    batches = list(batches_by_length(tokens.lengths, TOKENS_A_BATCH[kind]))
    plan = [asdict(encoder.reference), encoder.precision, [len(batch) for batch in batches], TOKENS_A_SHARD[kind]]
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode())
    for text in distinct:
        digest.update(text.encode("utf-8") + b"\0")
    folder = scratch / digest.hexdigest()[:24]
    shards = _shards(batches, tokens.lengths, TOKENS_A_SHARD[kind])
    files = [folder / f"{number:06d}.npy" for number in range(len(shards))]
    missing = processes.of_writer(lambda: [number for number, file in enumerate(files) if not file.is_file()])

    def encoded(number: int) -> tuple[int, Vectors]:
        return number, np.concatenate([encoder.encode_tokens(tokens, batch) for batch in shards[number]])

    made = processes.gathered(map(encoded, processes.share(missing)))
    if not processes.is_writer:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    resumed = len(distinct) - sum(len(batch) for number in missing for batch in shards[number])
    with progress_bar(description, len(distinct), "items") as advance:
        advance(resumed)
        for number, of_shard in made:
            with writing_file(files[number]) as temporary:
                save_array(temporary, of_shard)
            advance(len(of_shard))
    vectors = np.empty((len(distinct), encoder.reference.width), np.float32)
    for shard, file in zip(shards, files, strict=True):
        vectors[np.concatenate(shard)] = np.load(file)
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
