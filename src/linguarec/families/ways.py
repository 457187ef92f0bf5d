"""Ways to train on a new shop, for `linguarec transfer`: from scratch, pre-trained with frozen encoder, fully fine-tuned."""

from collections.abc import Mapping
from typing import Any

from linguarec.families.family import Start
from linguarec.nn.encoders import encoder_kind


def ways_with_encoder(start: Start, asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The ways of a family with a sequence encoder whose options apply to all of them.

    Training from scratch uses the same model as the pre-trained one, with new random weights.
    """
    return ways_of(start, asked, asked)


def ways_of(
    start: Start,
    of_scratch: Mapping[str, Any],
    of_tuned: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """The ways of a family with a sequence encoder.

    Args:
        start: the pre-trained model.
        of_scratch: requested options, by flag, for training from scratch.
        of_tuned: requested options, by flag, for fine-tuning from the start.
    """
    encoder = start.description.encoder
    assert encoder is not None
    kind = encoder_kind(encoder)
    scratch = {"config": start.description.config, kind: encoder, "sequence_encoder": kind, **of_scratch}
    tuned = {"from_": start.folder, **of_tuned}
    return {
        "scratch": scratch,
        "frozen": {**tuned, "frozen": "encoder"},
        "full": {**tuned, "frozen": "none"},
    }
