"""From signature and docstring to the command line: values, lists, groups, files, all bad settings named at once."""

import doctest
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

import linguarec.given
from linguarec.arguments import Call, parse
from linguarec.cli import COMMANDS
from linguarec.commands.finetune import finetune
from linguarec.errors import SettingsError
from linguarec.families import FAMILIES
from linguarec.given import given
from linguarec.parameters import Command

if TYPE_CHECKING:
    from decimal import Decimal


@dataclass(frozen=True)
class Rate:
    """How fast.

    Args:
        learning_rate: step size.
        steps: how many.
        kind: which.
        limit: at most.
    """

    learning_rate: float = 0.001
    steps: int = 3
    kind: Literal["adam", "sgd"] = "adam"
    limit: int | None = None


def recipe(
    data: Path,
    output: Path,
    history: list[str],
    other: Path | None = None,
    text_rules: Literal["default", "released"] = "default",
    training: Rate | None = None,
    cutoffs: Sequence[int] = (10, 50),
    pair: tuple[float, float] = (0.1, 0.2),
    k: int = 10,
    resume: bool = False,
    bars: bool = True,
    price: "Decimal | None" = None,
) -> dict[str, Any]:
    """Do it.

    In a second paragraph, more.

    Args:
        data: the prepared folder.
        output: where to write.
        history: raw ids.
        other: one more folder.
        text_rules: which cleaning.
        training: how to train.
        cutoffs: of the metrics.
        pair: two shares.
        k: how many.
        resume: go on.
        bars: show progress.
        price: of gold.
    """
    return {}


def several(data: list[Path], features: str) -> None:
    """Many folders.

    Args:
        data: prepared folders.
        features: which vectors.
    """


def places(
    log: "str | Path | dict[str, list[int]]", folders: Sequence[str | Path], other: "str | Path | None" = None
) -> None:
    """Paths, which from Python may be strings, one of them a table as well.

    Args:
        log: a file.
        folders: several.
        other: one more.
    """


def train(model: str, data: Path, config: object | None = None, seed: int = 0) -> None:
    """Train a model.

    Args:
        model: which model.
        data: prepared folder.
        config: the model's settings.
        seed: of everything.
    """


def keyword(data: Path, from_: Path | None = None) -> None:
    """A name that Python keeps for itself.

    Args:
        data: prepared folder.
        from_: where to start.
    """


DO = Command("tests", "recipe", "Do it.", ("data", "other"))
GO = Command("tests", "keyword", "Go there.", ("data",))
TRAIN = Command("tests", "train", "Train a model.", ("model", "data"), model="model")


def read(line: str) -> dict[str, Any]:
    call = parse(recipe, line.split(), "linguarec do", DO)
    assert isinstance(call, Call)
    return call.arguments


def problems(line: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse(recipe, line.split(), "linguarec do", DO)
    assert caught.value.problems[-1] == "`linguarec do --help` shows all arguments."
    return caught.value.problems[:-1]


def test_defaults():
    assert read("D -o O --history A") == {
        "data": Path("D"),
        "output": Path("O"),
        "history": ["A"],
        "other": None,
        "text_rules": "default",
        "training": Rate(),
        "cutoffs": [10, 50],
        "pair": (0.1, 0.2),
        "k": 10,
        "resume": False,
        "bars": True,
        "price": None,
    }


def test_values_of_every_kind():
    found = read("D E -o O --history A --text-rules released --cutoffs 5 20 -k 3 --resume --no-bars")
    assert found["other"] == Path("E")
    assert found["text_rules"] == "released"
    assert found["cutoffs"] == [5, 20]
    assert found["k"] == 3
    assert read("D -o O --history A --pair 0.5 0.25")["pair"] == (0.5, 0.25)
    assert found["resume"] is True
    assert found["bars"] is False
    assert read("D --output=O --history A")["output"] == Path("O")


def test_a_list_takes_several_words_or_one_with_commas():
    assert read("D -o O --history A,B")["history"] == ["A", "B"]
    assert read("D -o O --history A B,C")["history"] == ["A", "B", "C"]
    assert read('D -o O --history "A,1",B')["history"] == ["A,1", "B"]


def test_a_list_of_numbers_takes_commas_too():
    expected = read("D -o O --history A --cutoffs 5 20")["cutoffs"]
    assert list(expected) == [5, 20]
    for words in ("--cutoffs 5,20", "--cutoffs=5,20", "--cutoffs 5, 20"):
        assert read(f"D -o O --history A {words}")["cutoffs"] == expected
    with pytest.raises(SettingsError, match="--cutoffs 5 many: expected int, got many"):
        read("D -o O --history A --cutoffs 5,many")


def test_a_dataclass_is_a_group_of_flags():
    found = read("D -o O --history A --training.learning_rate 0.1 --training.kind sgd --training.limit 4")
    assert found["training"] == Rate(learning_rate=0.1, kind="sgd", limit=4)


def test_doctests_of_given() -> None:
    result = doctest.testmod(linguarec.given)
    assert result.attempted > 0
    assert result.failed == 0


def test_a_group_knows_what_was_asked_for(tmp_path: Path):
    file = tmp_path / "settings.yaml"
    file.write_text("training:\n  steps: 3\n")
    training = read("D -o O --history A --training.learning_rate 0.001")["training"]
    assert given(training) == {"learning_rate": 0.001}  # the default, but named
    training = read(f"D -o O --history A --config {file} --training.kind sgd")["training"]
    assert given(training) == {"steps": 3, "kind": "sgd"}
    assert given(replace(training, limit=4)) == {"kind": "sgd", "limit": 4}  # a copy: what differs from the defaults


def test_dashes_and_underscores_are_the_same():
    found = read("D -o O --history A --text_rules released --training.learning-rate 0.5")
    assert found["text_rules"] == "released"
    assert found["training"].learning_rate == 0.5


def test_settings_from_a_file_and_the_command_line_after_it_wins(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("history: [A, B]\nk: 7\ncutoffs: [1]\nresume: true\ntraining: {learning_rate: 0.5, steps: 9}\n")
    found = read(f"D -o O --config {file} -k 4 --training.steps 2")
    assert found["history"] == ["A", "B"]
    assert found["k"] == 4
    assert found["cutoffs"] == [1]
    assert found["resume"] is True
    assert found["training"] == Rate(learning_rate=0.5, steps=2)


def test_all_bad_values_are_named_at_once():
    assert problems("D -o O --history A --training.steps many -k x --text-rules none --training.limit y") == [
        "--training.steps many: expected int, got many",
        "-k x: expected int, got x",
        "--text-rules none: expected one of 'default', 'released', got none",
        "--training.limit y: expected int or null, got y",
    ]


def test_unknown_options_suggest_the_nearest():
    assert problems("D -o O --histroy A --training.steps 3 --traning.steps 4 --zzzzzz 4") == [
        "unknown option --histroy; did you mean --history?",
        "unknown option --traning.steps; did you mean --training.steps?",
        "unknown option --zzzzzz.",
    ]
    # Of a flag in a group its own name is compared, too; --gears shares too little with --bars.
    assert problems("D -o O --history A --step 3 --gears") == [
        "unknown option --step; did you mean --training.steps?",
        "unknown option --gears.",
    ]


def test_missing_arguments_are_all_named():
    assert problems("") == [
        "DATA is missing: the prepared folder.",
        "--output is missing: where to write.",
        "--history is missing: raw ids.",
    ]


def test_too_many_words_and_an_option_without_its_value():
    assert problems("D E F -o O --history") == ["--history: argument --history: expected at least one argument"]
    assert problems("D E F -o O --history A -k") == ["-k: argument -k: expected one argument"]


def test_words_that_are_too_many_are_named_with_what_the_command_takes():
    assert problems("D E F -o O -k 3") == [
        "too many arguments: F; `linguarec do` takes 2 arguments beside its options, DATA OTHER."
    ]
    none = Command("tests", "keyword", "Go there.")
    one = "takes one argument beside its options, DATA; run it once for each."
    mends = (
        (GO, keyword, ["D", "E", "F"], f"E F; `linguarec go` {one}"),
        (none, keyword, ["D"], "D; `linguarec go` takes none beside its options."),
        (GO, several, ["D", "--features", "X", "E"], "E; write all of DATA together, before the options."),
        (TRAIN, train, ["sasrec", "D", "E"], f"E; `linguarec go sasrec` {one}"),
    )
    for command, function, words, line in mends:
        with pytest.raises(SettingsError) as error:
            parse(function, words, "linguarec go", command)
        assert error.value.problems[0] == f"too many arguments: {line}"


def test_bad_settings_files_are_named(tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("k: many\n")
    assert problems(f"D -o O --history A --config {file}") == [f"--config {file}: -k: expected int, got many"]
    file.write_text("training: {learning_rat: 1}\n")
    assert "learning_rat" in problems(f"D -o O --history A --config {file}")[0]
    file.write_text("colour: blue\n")
    (strange,) = problems(f"D -o O --history A --config {file}")
    assert "'colour' is not accepted (--config is a YAML file of this command's own flags)" in strange
    assert "does not exist" in problems(f"D -o O --history A --config {tmp_path}/none.yaml")[0]


def test_help_is_made_of_the_docstring(capsys: pytest.CaptureFixture[str]):
    assert parse(recipe, ["--help"], "linguarec do", DO) is None
    shown = capsys.readouterr().out
    assert shown.startswith(
        "usage: linguarec do DATA [OTHER] -o OUTPUT --history HISTORY [options]\n\nDo it.\n\nIn a second"
    )
    assert "of the metrics. (default: 10 50)" in shown
    assert "step size. (default: 0.001)" in shown
    assert "where to write. (required)" in shown
    assert "Args:" not in shown
    assert "<class" not in shown


def test_json_is_asked_for_with_a_flag():
    call = parse(recipe, ["D", "-o", "O", "--history", "A", "--json"], "linguarec do", DO)
    assert call is not None
    assert call.json is True


def test_the_underscore_behind_a_keyword_is_no_part_of_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    call = parse(keyword, ["D", "--from", "F"], "linguarec go", GO)
    assert call is not None
    assert call.arguments == {"data": Path("D"), "from_": Path("F")}
    file = tmp_path / "run.yaml"
    file.write_text("from: G\n")
    call = parse(keyword, ["D", "--config", str(file)], "linguarec go", GO)
    assert call is not None
    assert call.arguments["from_"] == Path("G")
    assert parse(keyword, ["--help"], "linguarec go", GO) is None
    assert "--from FROM" in capsys.readouterr().out


def test_what_may_be_a_path_or_else_is_a_path():
    command = Command("tests", "places", "Go there.", ("log",))
    call = parse(places, ["L", "--folders", "A", "B", "--other", "O"], "linguarec places", command)
    assert call is not None
    assert call.arguments == {"log": Path("L"), "folders": [Path("A"), Path("B")], "other": Path("O")}


def test_several_positional_folders():
    call = parse(several, ["D", "E", "--features", "X"], "linguarec quantize", GO)
    assert call is not None
    assert call.arguments == {"data": [Path("D"), Path("E")], "features": "X"}
    with pytest.raises(SettingsError, match=r"DATA is missing: prepared folders\.\n--features is missing"):
        parse(several, [], "linguarec quantize", GO)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_named_model_brings_its_own_settings(name: str):
    call = parse(train, [name, "D"], "linguarec finetune", TRAIN)
    assert call is not None
    assert call.arguments == {"model": name, "data": Path("D"), "config": FAMILIES[name].config(), "seed": 0}


def test_model_settings_are_flags_and_go_into_the_model_group(tmp_path: Path):
    words = ["sasrec", "D", "--model.initializer_range", "0.5"]
    call = parse(train, words, "linguarec finetune", TRAIN)
    assert call is not None
    assert call.arguments["config"].initializer_range == 0.5
    file = tmp_path / "run.yaml"
    file.write_text("model: {initializer_range: 0.25}\nseed: 4\n")
    call = parse(train, ["sasrec", "D", "--config", str(file)], "linguarec finetune", TRAIN)
    assert call is not None
    assert call.arguments["config"].initializer_range == 0.25
    assert call.arguments["seed"] == 4


def test_unknown_model_suggests_the_nearest():
    with pytest.raises(SettingsError, match="unknown model 'sasrek'; did you mean sasrec"):
        parse(train, ["sasrek", "D"], "linguarec finetune", TRAIN)


def test_help_without_a_model_lists_the_models(capsys: pytest.CaptureFixture[str]):
    assert parse(train, ["--help"], "linguarec finetune", TRAIN) is None
    shown = capsys.readouterr().out
    assert "Models: sasrec, " in shown
    assert "`linguarec finetune sasrec --help` adds" in shown


def test_only_models_that_the_recipe_takes_are_named(capsys: pytest.CaptureFixture[str]):
    from linguarec.commands.pretrain import pretrain

    for name in ("nope", "sasrec"):
        with pytest.raises(SettingsError, match=r"There are: zesrec, unisrec, vqrec, recformer\."):
            parse(pretrain, [name, "DATA"], "linguarec pretrain", COMMANDS["pretrain"])
    parse(pretrain, ["--help"], "linguarec pretrain", COMMANDS["pretrain"])
    assert "Models: zesrec, unisrec, vqrec, recformer." in capsys.readouterr().out


def test_a_model_brings_defaults_of_its_training_and_flags_win_over_them(capsys: pytest.CaptureFixture[str]):
    from linguarec.training.settings import TrainingSettings

    def training(*words: str) -> TrainingSettings:
        call = parse(finetune, [*words, "-o", "R"], "linguarec finetune", COMMANDS["finetune"])
        assert call is not None
        found: TrainingSettings = call.arguments["training"]
        return found

    assert training("unisrec", "D") == TrainingSettings()
    assert training("recformer", "D") == TrainingSettings(**FAMILIES["recformer"].training)
    assert training("recformer", "D", "--training.learning_rate", "0.001").learning_rate == 0.001
    assert training("recformer", "D", "--training.learning_rate", "0.001").warmup_steps == 100
    assert parse(finetune, ["recformer", "--help"], "linguarec finetune", COMMANDS["finetune"]) is None
    assert "5e-05" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["tensorboard,wandb", "tensorboard wandb", "[tensorboard,wandb]"])
def test_a_list_in_a_group_is_written_as_any_other(words: str):
    line = f"sasrec D -o O --training.loggers {words} --seed 3"
    call = parse(finetune, line.split(), "linguarec finetune", COMMANDS["finetune"])
    assert call is not None
    assert (call.arguments["training"].loggers, call.arguments["seed"]) == (["tensorboard", "wandb"], 3)
    line = f"sasrec D -o O --training.loggers {words}"
    with pytest.raises(SettingsError, match=r"--training\.loggers=.*expected one of 'tensorboard', 'wandb', 'mlflow'"):
        parse(finetune, [*line.split()[:4], "--training.loggers=paper"], "linguarec finetune", COMMANDS["finetune"])
