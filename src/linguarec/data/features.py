"""Item vectors on disk: `features/NAME.npy`, and beside it `NAME.json`, which tells their origin."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from linguarec.arrays import save_array
from linguarec.files import write_json, writing_file
from linguarec.portable import located, portable
from linguarec.seals import digest_of
from linguarec.stored import Error, read_record

UNKNOWN = "unknown"


@dataclass(frozen=True)
class FeatureInfo:
    """Origin of item vectors: encoder, pooling, a hash of its weights, and the fingerprint of the texts that it read.

    `texts_fingerprint` is None for imported vectors, which cannot be checked against texts. `encoder` and `pooling` may be
    `UNKNOWN`. Without a hash, the text rules and the token limit count as unknown; with unknown pooling, so does the
    normalisation of the vectors. `vectors_digest` ties the description to its file of vectors (`linguarec.seals.digest_of`).
    """

    encoder: str
    width: int
    pooling: str
    weights_sha256: str | None
    texts_fingerprint: str | None
    text_rules: str
    max_tokens: int | None = None
    normalised: bool = False
    vectors_digest: str | None = field(default=None, compare=False)

    def differences(self, other: "FeatureInfo") -> list[str]:
        """Differences to the encoder of `other`, such as "width 32 against 16"; empty = the same encoder.

        Weights are compared by their hash, or, if a side has none, encoders by their name. Facts that one side does not know
        are not differences.
        """
        hashes = self.weights_sha256, other.weights_sha256
        names = self.encoder, other.encoder
        differ = hashes[0] != hashes[1] if None not in hashes else names[0] != names[1] and UNKNOWN not in names
        found = [f"encoder {self._named} against {other._named}"] if differ else []
        theirs = other._told
        return found + [
            f"{what} {value} against {theirs[what]}"
            for what, value in self._told.items()
            if theirs.get(what, value) != value
        ]

    @property
    def described(self) -> str:
        """The known facts about the encoder, for messages."""
        return ", ".join([self._named, *(f"{what} {value}" for what, value in self._told.items())])

    @property
    def _named(self) -> str:
        name = "an unknown encoder" if self.encoder == UNKNOWN else self.encoder
        return name if self.weights_sha256 is None else f"{name} (weights {self.weights_sha256[:12]})"

    @property
    def _told(self) -> dict[str, str]:
        """The known facts beside the encoder's name and weights."""
        told = {"width": str(self.width)}
        if self.pooling != UNKNOWN:
            told |= {"pooling": self.pooling, "length": "1" if self.normalised else "any"}
        if self.weights_sha256 is not None and self.text_rules != UNKNOWN:
            told["text rules"] = self.text_rules
        if self.weights_sha256 is not None and self.max_tokens is not None:
            told["token limit"] = str(self.max_tokens)
        return told


def write_vectors(folder: Path, name: str, vectors: npt.NDArray[Any], info: FeatureInfo) -> None:
    """Write item vectors and the description that belongs to them into a folder of features."""
    file = folder / f"{name}.npy"
    with writing_file(file, vectors.nbytes) as temporary:
        save_array(temporary, vectors)
    write_feature_info(file.with_suffix(".json"), replace(info, vectors_digest=digest_of(file)))


def read_feature_info(file: Path, error: Error, mend: str) -> FeatureInfo:
    """The description of item vectors in a JSON file; `error` and `mend` as in `linguarec.stored`."""
    info = read_record(FeatureInfo, file, "a text encoder", error, mend)
    return replace(info, encoder=located(info.encoder, file.parent))


def write_feature_info(file: Path, info: FeatureInfo) -> None:
    """Write the description of item vectors; the path of an encoder's folder becomes relative to that of `file`."""
    write_json(file, asdict(replace(info, encoder=portable(info.encoder, file.parent))))
