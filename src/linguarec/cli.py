"""The command line: a table from command to function.

A function's signature and docstring are its command line: positional arguments are named in the table, every other
parameter is a flag, a dataclass parameter is a group of flags (parsing: `linguarec.arguments`). A command's module is
imported only when that command is called, so that `linguarec --help` answers at once.
"""

import contextlib
import difflib
import errno
import importlib
import inspect
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from linguarec.arguments import parse
from linguarec.errors import LinguarecError, SettingsError
from linguarec.parameters import Command
from linguarec.processes import is_main_process, place_on_machine, started_together
from linguarec.screen import VisibleFormatter, visible_lines

PREPARE = "linguarec.commands.prepare"
_NO_MEMORY = re.compile("can't allocate memory|out of memory|Storage size calculation overflowed")  # of torch
# Errors without a file's name: those of standard output, since writers of files name them.
_OUTPUT_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
PATIENCE = 10.0  # seconds that the later processes of a command wait before they print an error

COMMANDS: dict[str, Command] = {
    "demo": Command("linguarec.commands.demo", "demo", "The whole pipeline on a built-in synthetic world, offline."),
    "prepare amazon-2014": Command(
        PREPARE, "prepare_amazon", "Amazon 2014: ratings or reviews, and metadata.", given={"edition": "2014"}
    ),
    "prepare amazon-2018": Command(
        PREPARE, "prepare_amazon", "Amazon 2018: ratings or reviews, and metadata.", given={"edition": "2018"}
    ),
    "prepare amazon-2023": Command(
        PREPARE, "prepare_amazon", "Amazon 2023: reviews and metadata.", given={"edition": "2023"}
    ),
    "prepare online-retail": Command(PREPARE, "prepare_online_retail", "UCI Online Retail."),
    "prepare table": Command(PREPARE, "prepare_table", "Your own log and catalogue, as CSV or Parquet."),
    "prepare append": Command(
        PREPARE, "prepare_append", "A day's log, and new items, into a folder that is prepared already.", ("data",)
    ),
    "prepare atomic": Command(
        PREPARE, "prepare_atomic", "RecBole's atomic files, or UniSRec's benchmark or pre-training files.", ("source",)
    ),
    "prepare recformer": Command(
        PREPARE, "prepare_recformer", "The JSON files that Recformer fine-tunes on.", ("source",)
    ),
    "describe": Command(
        "linguarec.commands.describe",
        "describe",
        "Counts, lengths, texts and problems of a prepared folder.",
        ("data",),
    ),
    "export": Command(
        "linguarec.commands.export",
        "export",
        "Prepared folders as benchmark or pre-training files; a run for onnxruntime.",
        ("data",),
    ),
    "encode": Command(
        "linguarec.commands.encode",
        "encode",
        "Item texts to vectors, by a language model.",
        ("data",),
        shared=True,
        goes_on=True,
    ),
    "tokenize": Command(
        "linguarec.commands.tokenize",
        "tokenize",
        "Item attributes to key-value tokens, for Recformer.",
        ("data",),
        shared=True,
    ),
    "quantize": Command("linguarec.commands.quantize", "quantize", "Item vectors to discrete codes.", ("data",)),
    "import-codes": Command(
        "linguarec.commands.import_codes",
        "import_codes",
        "Codes and vectors of a published faiss index.",
        ("data", "index"),
    ),
    "pretrain": Command(
        "linguarec.commands.pretrain",
        "pretrain",
        "Train a model on several domains at once.",
        ("model", "data"),
        model="model",
        options="pretraining",
        shared=True,
    ),
    "finetune": Command(
        "linguarec.commands.finetune",
        "finetune",
        "Train a model on one folder.",
        ("model", "data"),
        model="model",
        options="finetuning",
        shared=True,
    ),
    "tune": Command(
        "linguarec.commands.tune",
        "tune",
        "Search a model's settings on one folder, judged by valid.",
        ("model", "data"),
        model="model",
        options="finetuning",
        goes_on=True,
    ),
    "update": Command(
        "linguarec.commands.update",
        "update",
        "A run made anew from newer data of its shop, unless that is worse.",
        ("run", "data"),
        options="reading",
    ),
    "blend": Command(
        "linguarec.commands.blend", "blend", "Several trained runs as one, weights fitted on valid.", ("runs",)
    ),
    "evaluate": Command(
        "linguarec.commands.evaluate",
        "evaluate",
        "Full-ranking metrics of a trained run.",
        ("run", "data"),
        options="reading",
        shared=True,
    ),
    "recommend": Command(
        "linguarec.commands.recommend", "recommend", "The next items for a history.", ("run",), shared=True
    ),
    "serve": Command("linguarec.commands.serve", "serve", "An HTTP API and a page over a trained run.", ("run",)),
    "convert": Command(
        "linguarec.commands.convert",
        "convert",
        "A checkpoint of the released code as a model folder, and back.",
        ("source",),
    ),
    "transfer": Command(
        "linguarec.commands.transfer",
        "transfer",
        "What a pre-trained model is worth on a folder: against scratch, by share of its users.",
        ("data",),
        options="finetuning",
        goes_on=True,
    ),
    "compare": Command(
        "linguarec.commands.compare",
        "compare",
        "Several models, several seeds, one table.",
        ("data",),
        options="finetuning",
        goes_on=True,
    ),
}

GROUPS = {"prepare": "A log and a catalogue to a prepared dataset folder."}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 = done, 2 = bad input, 130 = interrupted, 143 = ended by SIGTERM."""
    words = list(sys.argv[1:] if argv is None else argv)
    # OpenMP threads wait for each other by spinning; beside another busy process that costs more than the work itself.
    # Both must be set before torch is imported; a value set by the user is kept. Figures: docs/decisions.md.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # oneDNN caches the kernels of the last 1,024 shapes, and ragged steps keep making new shapes: 0.5 GB after ten epochs.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    if sys.stdout is None:  # closed by the caller: `linguarec ... >&-`
        _say_error("standard output is closed; direct it to a file or to /dev/null.")
        sys.exit(1)
    try:
        with _ended_in_order():
            code = _run(words)
        sys.stdout.flush()
    except LinguarecError as error:
        _say_error(str(error))
        code = 2
    except BrokenPipeError:  # the reader of the output has closed it, as in `linguarec describe DATA | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if error.filename is not None:
            missing = isinstance(error, FileNotFoundError)
            _say_error(
                f"{error.filename} does not exist; check the path."
                if missing
                else f"{error.filename}: {error.strerror}"
            )
            code = 2
        elif error.errno in _OUTPUT_FAILS:
            _say_error(f"the output cannot be written ({error.strerror}); direct it elsewhere, or free some space.")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        else:
            raise
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        reason = str(error).split("\n")[0]
        _say_error(f"there is not enough memory ({reason}); make the model, the step or the list smaller.")
        code = 2
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns an interrupt of a training into an exit with code 1 and no message, and a SIGTERM into an exit
        # without a code, which would look like success.
        code = 130
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            if stop.code is not None:
                raise
            code = 143
        if not _is_later_process():  # all processes are interrupted at once
            how = "interrupted" if code == 130 else "ended by SIGTERM"
            print(f"\n{how}; no half-written file is left behind{_advice(words)}.", file=sys.stderr)  # noqa: T201
    sys.exit(code)


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM ends the command by an exception, so that it removes its temporary files; Lightning does so in trainings."""

    def stop(number: int, frame: object) -> NoReturn:
        raise SystemExit

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if in_main_thread else None
    try:
        yield
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def _advice(words: Sequence[str]) -> str:
    """How an interrupted command goes on, as the end of a sentence; empty = it begins anew."""
    command = COMMANDS.get(words[0]) if words else None
    if command is None:  # as of a group, whose commands begin anew
        return ""
    if command.goes_on:
        return "; repeat the same command to go on"
    function = getattr(importlib.import_module(command.module), command.function)
    return "; repeat it with --resume to go on" if "resume" in inspect.signature(function).parameters else ""


def _say_error(message: str) -> None:
    """Print the message of an error only once, though every process of a command raises it.

    Later processes wait first. If the first process fails with the same error, its launcher ends them before they print.
    """
    if _is_later_process():
        time.sleep(PATIENCE)
    with contextlib.suppress(OSError):
        print(f"error: {visible_lines(message)}", file=sys.stderr or sys.stdout, flush=True)


def _is_later_process() -> bool:
    """Whether torchrun or Lightning started this process, and it is not the first one on this machine."""
    return place_on_machine() > 0


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview(), end="")  # noqa: T201
        return 0 if words else 2
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"linguarec {version('linguarec')}")  # noqa: T201
        return 0
    if words[0] in GROUPS and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(_overview(words[0]), end="")  # noqa: T201
        return 0 if len(words) > 1 else 2
    name, rest = _find(words)
    command = COMMANDS[name]

    function = getattr(importlib.import_module(command.module), command.function)
    call = parse(function, rest, f"linguarec {name}", command)
    if call is None:  # help was requested and shown
        return 0
    if not command.shared:
        _check_alone(name)
    # What the later processes of a command say, the first one says, too.
    logging.basicConfig(level=logging.INFO if is_main_process() else logging.ERROR, stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(VisibleFormatter("%(message)s"))
    for chatty in ("lightning", "sentence_transformers", "transformers", "matplotlib", "httpx", "faiss"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    result = function(**call.arguments)
    if call.json and result:  # only the first of several processes has a result
        print(_as_json(dict(result)), flush=True)  # noqa: T201
    return 0


def _check_alone(name: str) -> None:
    """Refuse several processes for a command that works in one: they would do the same work and write the same output."""
    if (count := started_together()) > 1:
        sharing = ", ".join(name for name, command in COMMANDS.items() if command.shared)
        raise SettingsError(
            [
                f"torchrun started {count} processes, and `linguarec {name}` works in one: start it without torchrun. "
                f"Commands whose work processes share: {sharing}."
            ]
        )


def _as_json(result: dict[str, Any]) -> str:
    """The result in one line of JSON; text that is not UTF-8, such as the name of a folder, is escaped."""
    text = json.dumps(result, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(result)
    return text


def _find(words: list[str]) -> tuple[str, list[str]]:
    """The command that `words` begin with, and the rest of them."""
    size = 2 if words[0] in GROUPS else 1
    name = " ".join(words[:size])
    if name in COMMANDS:
        return name, words[size:]
    kind = "option" if words[0].startswith("-") else "command"
    known = ["--help", "--version"] if kind == "option" else [*COMMANDS, *GROUPS]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean `linguarec {near[0]}`?" if near else "`linguarec --help` lists the commands."
    raise SettingsError([f"unknown {kind} {name!r}; {hint}"])


def _overview(group: str | None = None) -> str:
    """Help of the whole program, or of one group of commands."""
    prefix = "linguarec" if group is None else f"linguarec {group}"
    rows: dict[str, str] = {}
    for name, command in COMMANDS.items():
        first, _, second = name.partition(" ")
        if group is None:
            rows.setdefault(first, GROUPS[first] if second else command.help)
        elif first == group:
            rows[second] = command.help
    width = max(map(len, rows))
    title = (
        "Recommenders that read: text-based, transferable sequential recommendation."
        if group is None
        else GROUPS[group]
    )
    lines = [f"usage: {prefix} {'COMMAND' if group is None else 'SOURCE'} ...", "", title, ""]
    lines += [f"  {name:<{width}}  {text}" for name, text in rows.items()]
    lines += ["", f"`{prefix} {'COMMAND' if group is None else 'SOURCE'} --help` shows its arguments."]
    if group is None:
        lines += ["`linguarec --version` shows the version. Begin with `linguarec demo`."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
