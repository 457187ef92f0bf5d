"""What counts as the same text encoder, everywhere: pre-training, quantising, --from, zero-shot."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from linguarec.commands.quantize import quantize
from linguarec.data.features import UNKNOWN, FeatureInfo
from linguarec.data.same_encoder import check_same_encoder, differing_vectors, encode_again
from linguarec.errors import StaleFeaturesError

OWN = FeatureInfo("org/mini", 16, "mean", "0" * 64, None, "default", 256, True)


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({"encoder": "/models/mini"}, []),  # one hash, named twice
        (
            {"weights_sha256": "1" * 64},
            ["encoder org/mini (weights 111111111111) against org/mini (weights 000000000000)"],
        ),
        ({"weights_sha256": None}, []),
        ({"weights_sha256": None, "encoder": "other"}, ["encoder other against org/mini (weights 000000000000)"]),
        ({"weights_sha256": None, "encoder": UNKNOWN}, []),
        ({"width": 32, "pooling": "cls"}, ["width 32 against 16", "pooling cls against mean"]),
        ({"normalised": False}, ["length any against 1"]),
        ({"normalised": False, "pooling": UNKNOWN}, []),
        ({"text_rules": "released"}, ["text rules released against default"]),
        ({"max_tokens": 64}, ["token limit 64 against 256"]),
        ({"max_tokens": None, "text_rules": UNKNOWN}, []),
        ({"weights_sha256": None, "text_rules": "released", "max_tokens": 64}, []),  # imported: nobody saw the encoder
    ],
)
def test_what_differs(changes: dict[str, Any], differences: list[str]) -> None:
    other = replace(OWN, **changes)
    assert other.differences(OWN) == differences
    assert len(OWN.differences(other)) == len(differences)


def test_folders_of_other_cleaning_or_limit_get_no_common_book(make_dataset: Any) -> None:
    vectors = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    one, two = (make_dataset([list(range(40))], num_items=40, name=name) for name in ("one", "two"))
    one.write_features("mini", vectors, OWN)
    for changes, difference in (
        ({"text_rules": "released"}, "text rules released against default"),
        ({"max_tokens": 64}, "token limit 64 against 256"),
    ):
        two.write_features("mini", vectors, replace(OWN, **changes))
        with pytest.raises(StaleFeaturesError, match=rf"mini of {two.path} and of {one.path} differ in {difference}"):
            quantize([one.path, two.path], "mini", subvectors=4, centroids=8, fit_on="all")
    two.write_features("mini", vectors, replace(OWN, encoder="/models/mini"))
    quantize([one.path, two.path], "mini", subvectors=4, centroids=8, fit_on="all")
    assert (one.code_names, two.code_names) == (["mini.opq4x8"],) * 2


def test_every_two_folders_are_compared(make_dataset: Any) -> None:
    """The first does not know its weights, so that it differs from neither of the others; these differ."""
    vectors = np.zeros((3, 16), np.float32)
    folders = [make_dataset([[0, 1, 2]], name=name) for name in ("a", "b", "c")]
    for folder, sha256 in zip(folders, (None, "0" * 64, "1" * 64), strict=True):
        folder.write_features("mini", vectors, replace(OWN, weights_sha256=sha256))
    assert check_same_encoder([(folder, "mini") for folder in folders[:2]]) == OWN
    with pytest.raises(
        StaleFeaturesError, match=f"mini of {folders[2].path} and of {folders[1].path} differ in encoder"
    ):
        check_same_encoder([(folder, "mini") for folder in folders])


def test_vectors_are_found_by_hash_or_by_their_name_and_made_as_there(make_dataset: Any) -> None:
    vectors, folder = np.zeros((3, 16), np.float32), make_dataset([[0, 1, 2]])
    folder.write_features("mini", vectors, replace(OWN, encoder="/models/x", weights_sha256=None))
    folder.write_features("same", vectors, replace(OWN, encoder="/models/y"))
    named = replace(OWN, encoder="mini", weights_sha256=None)
    assert differing_vectors(folder, named) == {
        "mini": [],
        "same": ["encoder /models/y (weights 000000000000) against mini"],
    }
    assert differing_vectors(folder, OWN) == {
        "mini": ["encoder /models/x against org/mini (weights 000000000000)"],
        "same": [],
    }
    command = f"`linguarec encode {folder.path} --encoder org/mini --pooling mean --max-tokens 256"
    assert encode_again(folder, OWN) == f"Encode its texts as there: {command} --overwrite`."
    assert encode_again(folder, replace(OWN, text_rules="released"), "new") == (
        f"Prepare it again with --text-rules released. Encode its texts as there: {command} --name new`."
    )
