"""Checks whether item vectors of prepared folders come from the same encoder (see `FeatureInfo.differences`)."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import UNKNOWN, FeatureInfo
from linguarec.errors import StaleFeaturesError


def check_same_encoder(vectors: Sequence[tuple[PreparedDataset, str]]) -> FeatureInfo:
    """The common encoder of vectors given as (folder, name): the first description with a hash of the weights, or the first.

    Raises:
        StaleFeaturesError: two encoders differ; both folders and the differences are named.
    """
    infos = [dataset.feature_info(name) for dataset, name in vectors]
    for (first, second), (left, right) in zip(combinations(vectors, 2), combinations(infos, 2), strict=True):
        found = right.differences(left)
        if found:
            (first_folder, _), (folder, name) = first, second
            raise StaleFeaturesError(
                f"The item vectors {name} of {folder.path} and of {first_folder.path} differ in {', '.join(found)}. "
                f"{encode_again(folder, left, name)}"
            )
    return next((info for info in infos if info.weights_sha256 is not None), infos[0])


def differing_vectors(dataset: PreparedDataset, encoder: FeatureInfo) -> dict[str, list[str]]:
    """Differences between `encoder` and the encoder of each of the folder's vectors, by name; an empty list = the same.

    If `encoder` has no hash, its name may also be the name of the stored vectors.
    """
    found = {}
    for name in dataset.feature_names:
        info = dataset.feature_info(name)
        found[name] = info.differences(replace(encoder, encoder=info.encoder) if name == encoder.encoder else encoder)
    return found


def encode_again(dataset: PreparedDataset, wanted: FeatureInfo, name: str | None = None) -> str:
    """A sentence that says how to make the folder's vectors with the encoder `wanted`, stored as `name` if it is set."""
    encoder = "ENCODER" if wanted.encoder == UNKNOWN else wanted.encoder
    flags = f" --encoder {encoder}"
    rules = dataset.manifest.text_rules
    if wanted.weights_sha256 is not None:  # else the settings of the encoding are not known
        flags += f" --pooling {wanted.pooling}" if wanted.pooling in ("cls", "mean") else ""
        flags += "" if wanted.max_tokens is None else f" --max-tokens {wanted.max_tokens}"
        rules = rules if wanted.text_rules == UNKNOWN else wanted.text_rules
    flags += "" if name is None else f" --name {name}"
    flags += " --overwrite" if (name or Path(encoder.rstrip("/")).name) in dataset.feature_names else ""
    first = "" if rules == dataset.manifest.text_rules else f"Prepare it again with --text-rules {rules}. "
    return f"{first}Encode its texts as there: `linguarec encode {dataset.path}{flags}`."
