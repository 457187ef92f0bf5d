"""How a pre-trained model can be used on a new shop, for `linguarec transfer`: from scratch, with its encoder frozen, tuned."""

from collections.abc import Collection, Mapping
from typing import Any

from linguarec.families.family import Start
from linguarec.families.flags import refuse
from linguarec.nn.encoders import encoder_kind


def ways_with_encoder(start: Start, asked: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The ways of a family with a sequence encoder, whose options hold in each of them.

    Scratch is the same model as the pre-trained one, with weights drawn anew.
    """
    return ways_of(start, asked, asked, asked)


def ways_of(
    start: Start,
    asked: Mapping[str, Any],
    of_scratch: Mapping[str, Any],
    of_tuned: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """The ways of a family with a sequence encoder.

    Args:
        start: the pre-trained model.
        asked: all options asked for, by flag.
        of_scratch: those of them that training from scratch reads.
        of_tuned: those of them that fine-tuning from the start reads.

    Raises:
        SettingsError: an option says nothing in any way.
    """
    known: Collection[str] = {*of_scratch, *of_tuned}
    refuse(start.family.name, {flag: value for flag, value in asked.items() if flag not in known})
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
