"""The rules of the house that import-linter cannot check: CONTRIBUTING.md names them."""

import ast
from collections.abc import Iterator
from pathlib import Path

from linguarec.families import FAMILIES

SOURCE = Path(__file__).parents[1] / "src" / "linguarec"
FILES = sorted(SOURCE.rglob("*.py"))
# Where the names of models or of the formats of their released files stand for something else than a family.
ALLOWED = {
    "commands/demo.py",  # trains three of them, by name
    "evaluation/published.py",  # the published tables
}
FORMATS = {"recformer", "blend"}  # also the name of a file format or of a command
MODEL_CLASSES = {
    "SASRec",
    "SASRecText",
    "FDSA",
    "ZESRec",
    "BERT4Rec",
    "S3Rec",
    "UniSRec",
    "UniSRecTransductive",
    "VQRec",
    "Recformer",
    "RecGURU",
    "EASE",
}


def trees(outside_families: bool) -> Iterator[tuple[str, ast.Module]]:
    for file in FILES:
        name = file.relative_to(SOURCE).as_posix()
        if not (outside_families and name.startswith("families/")):
            yield name, ast.parse(file.read_text(encoding="utf-8"))


def docstrings(tree: ast.Module) -> set[int]:
    """Ids of the nodes that are docstrings."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                found.add(id(first.value))
    return found


def test_no_family_is_named_outside_the_families() -> None:
    found = []
    for name, tree in trees(outside_families=True):
        if name in ALLOWED:
            continue
        prose = docstrings(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                if node.value in FAMILIES and node.value not in FORMATS:
                    found.append(f"{name}:{node.lineno} {node.value!r}")
            elif isinstance(node, ast.Name | ast.Attribute):
                word = node.id if isinstance(node, ast.Name) else node.attr
                if word in MODEL_CLASSES:
                    found.append(f"{name}:{node.lineno} {word}")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("linguarec.families."):
                found += [f"{name}:{node.lineno} {node.module}"] if str(node.module).count(".") > 2 else []
    assert found == []


def test_nothing_outside_the_families_asks_what_a_model_reads() -> None:
    """No `reads`, and no isinstance of a source or a scorer: their methods answer."""
    found = []
    kinds = ("Source", "Scorer", "Inputs")
    for name, tree in trees(outside_families=True):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr == "reads":
                found.append(f"{name}:{node.lineno} .reads")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = ast.unparse(node.args[1])
                if any(asked.endswith(kind) for kind in kinds):
                    found.append(f"{name}:{node.lineno} isinstance of {asked}")
    assert found == []


def test_functions_outside_the_commands_have_at_most_eight_parameters() -> None:
    found = []
    for name, tree in trees(outside_families=False):
        if name.startswith("commands/"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(argument.arg not in ("self", "cls") for argument in every)
                if count > 8:
                    found.append(f"{name}:{node.lineno} {node.name} has {count}")
    assert found == []


def test_no_file_is_longer_than_450_lines() -> None:
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    long = [f"{file.relative_to(SOURCE)}: {length}" for file, length in lengths.items() if length > 450]
    assert long == []
