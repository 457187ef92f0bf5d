"""Which settings of a training are searched, and the arguments that their values become."""

from dataclasses import is_dataclass, replace
from typing import Any

import pytest

from linguarec.errors import SettingsError
from linguarec.families import FAMILIES
from linguarec.families.family import ModelDescription, Start
from linguarec.given import given, note_given
from linguarec.nn.encoders import GRUConfig, TransformerConfig
from linguarec.ranges import Between, Choice
from linguarec.runs.search_space import SearchSpace, TrainingArguments
from linguarec.training.settings import TrainingSettings

TRAINED = [name for name, family in FAMILIES.items() if family.trained]


def base(name: str, config: Any = None, training: TrainingSettings | None = None, **options: Any) -> TrainingArguments:
    if training is None:
        note_given(training := TrainingSettings(**FAMILIES[name].training), [])
    return TrainingArguments(config, training, options)


def space(name: str, *ranges: str, only: tuple[str, ...] = (), **set_by_user: Any) -> SearchSpace:
    return SearchSpace.of(FAMILIES[name], base(name, **set_by_user), None, only, ranges)


def flags(found: SearchSpace) -> list[str]:
    return [each.flag for each in found.searched]


@pytest.mark.parametrize("name", TRAINED)
def test_every_model_declares_ranges_that_hold_its_defaults(name: str) -> None:
    found = space(name)
    assert found.searched
    assert all(each.range.holds(each.default) for each in found.searched)
    defaults = found.arguments({each.flag: each.default for each in found.searched})
    assert defaults.training == found.base.training
    assert (defaults.config or FAMILIES[name].config()) == FAMILIES[name].config()
    assert all(value == type(value)() for value in defaults.options.values() if is_dataclass(value))
    assert all("training." not in flag for flag in flags(found)) == FAMILIES[name].closed_form


def test_what_is_searched() -> None:
    assert flags(space("ease-text")) == [
        "model.regularisation",
        "model.decay",
        "model.length_damping",
        "model.text_weight",
    ]
    assert set(flags(space("unisrec"))) == {
        "model.adaptor_dropout",
        "model.temperature",
        "transformer.dropout",
        "transformer.positions",
        "history_in_softmax",
        "training.learning_rate",
        "training.weight_decay",
    }
    [rate] = [each for each in space("recformer").searched if each.flag == "training.learning_rate"]
    assert rate.range == Between(1e-5, 2e-4, log=True) and rate.default == 5e-5


def test_what_the_user_sets_is_not_searched() -> None:
    config = FAMILIES["unisrec"].config(temperature=0.1)
    found = space(
        "unisrec",
        config=config,
        training=TrainingSettings(learning_rate=0.003),
        sequence_encoder="gru",
        gru=GRUConfig(hidden_size=16),
        history_in_softmax="kept",
    )
    assert flags(found) == ["model.adaptor_dropout", "gru.dropout", "training.weight_decay"]
    changed = found.arguments({"model.adaptor_dropout": 0.5, "gru.dropout": 0.25, "training.weight_decay": 0.01})
    assert changed.config == replace(config, adaptor_dropout=0.5)
    assert changed.options["gru"] == GRUConfig(hidden_size=16, dropout=0.25)
    assert changed.training == TrainingSettings(learning_rate=0.003, weight_decay=0.01)
    assert set(given(changed.options["gru"])) == {"hidden_size", "dropout"}  # so that a start's do not take their place


def test_only_and_own_ranges() -> None:
    found = space("sasrec", "transformer.hidden-size=16|32", "transformer.dropout=0:0.5", only=("transformer.dropout",))
    assert [(each.flag, each.range) for each in found.searched] == [("transformer.dropout", Between(0.0, 0.5))]
    found = space("sasrec", "transformer.hidden-size=16|32", "training.warmup_steps=0:100")
    by_flag = {each.flag: each.range for each in found.searched}
    assert by_flag["transformer.hidden_size"] == Choice((16, 32))
    assert by_flag["training.warmup_steps"] == Between(0, 100)
    assert found.arguments({"transformer.hidden_size": 16}).options["transformer"] == TransformerConfig(hidden_size=16)


def test_a_default_that_depends_on_the_data_is_not_the_first_of_own_choices() -> None:
    by_flag = {each.flag: each for each in space("sasrec", "ties=shuffled|fixed").searched}
    assert by_flag["ties"].default is None and not by_flag["ties"].range.holds(None)
    assert by_flag["history_in_softmax"].default == "kept"  # a declared range begins with what None stands for


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model.decay=0.5:2", "decay is 2.0; it must be at most 1"),
        ("model.decay=0.9:0.5", "is empty"),
        ("model.decay=small", "is no range"),
        ("model.decay", "is no range"),
        ("model.deacy=0.1:0.2", "no such setting to search. Did you mean model.decay"),
        ("model=0.1:0.2", "no such setting"),
        ("training.learning_rate=0.1:0.2", "no such setting"),  # a closed form has no training steps
        ("model.decay=a|b", "expected values of the type float"),
    ],
)
def test_bad_ranges_are_refused(text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        space("ease-text", text)
    assert reason in str(caught.value) and text.partition("=")[0] in str(caught.value)


def test_more_bad_ranges_all_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        space(
            "sasrec",
            "transformer.layers=1:2.5",
            "transformer.positions=1:2",
            "transformer.positions=learned|rotary",
            "transformer.heads=2|7",
            "training.weight_decay=0:0.1",
            "sequence_encoder=gru|pooling",
            only=("transformer.dorpout", "transformer.heads"),
            training=TrainingSettings(weight_decay=0.5),
        )
    reasons = (
        "begins and ends with whole ones",
        "expected choices, such as learned|none",
        "rotary is none of its values, learned, none",
        "not divisible by heads 7",
        "--training.weight_decay is set as well",
        "--ranges sequence_encoder=gru|pooling: there is no such setting",
        "Did you mean transformer.dropout?",
    )
    assert [reason for reason in reasons if reason not in str(caught.value)] == []


def test_nothing_left_to_search_is_refused() -> None:
    config = FAMILIES["textknn"].config(decay=0.5)
    with pytest.raises(SettingsError, match="all settings that have a range are set"):
        space("textknn", config=config)


def test_a_start_fixes_the_sizes_of_weights() -> None:
    family = FAMILIES["unisrec"]
    own = TransformerConfig(hidden_size=16, dropout=0.3)
    description = ModelDescription(family, family.config(experts=2), own, None)  # type: ignore[arg-type]
    start = Start(None, None, description, None)  # type: ignore[arg-type]
    found = SearchSpace.of(family, base("unisrec"), start)
    assert "transformer.positions" not in flags(found) and "transformer.dropout" in flags(found)
    assert {each.flag: each.default for each in found.searched}["transformer.dropout"] == 0.3
    assert found.arguments({"model.temperature": 0.1}).config == family.config(experts=2, temperature=0.1)
    with pytest.raises(SettingsError, match="decides the sizes of weights"):
        SearchSpace.of(family, base("unisrec"), start, ranges=["transformer.layers=1:2"])
