"""Ways to train on a new shop, for `linguarec transfer`: from scratch, pre-trained with frozen encoder, fully fine-tuned."""

from collections.abc import Mapping
from typing import Any

from linguarec.families.family import Start
from linguarec.nn.encoders import encoder_kind


def ways_with_encoder(start: Start, asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The ways of a family with a sequence encoder, whose options hold in each of them.

    Scratch is the same model as the pre-trained one, with weights drawn anew.
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
        of_scratch: options asked for, by flag, that training from scratch reads.
        of_tuned: those that fine-tuning from the start reads.
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
