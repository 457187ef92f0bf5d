"""Tokenize: item attributes to key-value tokens, for models that read histories as text (Recformer)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from linguarec.checks import name_problems
from linguarec.durations import duration_text
from linguarec.files import AnyPath
from linguarec.result import Result

if TYPE_CHECKING:
    from pyarrow import RecordBatch

    from linguarec.text.attributes import Counts, ItemTokens

ITEMS_A_PIECE = 16_384
HISTORY_ITEMS, HISTORY_TOKENS = 50, 1024  # Recformer's defaults; longer histories are reported


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TokenizeResult(Result):
    """Figures of a tokenization.

    `tokens`: name of the tokens. `items_`: number of items. `longest_item`: its number of tokens. `cut_values`: values that are
    longer than `attribute_tokens`. `histories_...`: how many are longer than what is read by default, or have no tokens.
    """

    data: str
    tokens: str
    items_: int
    attributes: list[str]
    attribute_tokens: int
    total_tokens: int
    mean_tokens: float
    longest_item: int
    cut_values: int
    items_without_tokens: int
    histories_over_50_items: int
    histories_over_1024_tokens: int
    histories_without_text: int
    tokenizer_sha256: str
    seconds: float
    items_per_second: float

    def _lines(self) -> list[str]:
        return [
            f"tokens {self.tokens!r} of {', '.join(self.attributes)} in {self.data}",
            f"{self.items_:,} items, {self.mean_tokens} tokens an item, {self.items_without_tokens:,} without any, "
            f"{self.cut_values:,} values cut",
            duration_text(self.seconds),
        ]


def tokenize(
    data: AnyPath,
    backbone: str = "all-MiniLM-L6-v2",
    attributes: list[str] | None = None,
    attribute_tokens: int = 32,
    name: str | None = None,
    overwrite: bool = False,
) -> TokenizeResult:
    """Turn the attributes of the items into tokens of a language model, once for the whole catalogue, and store them.

    An item becomes a sentence of attribute names and values. A model that starts from a backbone needs the tokens of this
    backbone's tokenizer. Behind torchrun the processes share the items out.

    Args:
        data: a prepared folder
        backbone: the language model whose tokenizer to use: a name (built in or in the hub cache) or a folder
        attributes: attributes of an item's sentence, in order (default: the first three of the folder; "text" = the item text)
        attribute_tokens: most tokens of an attribute, its name included; longer values are cut and counted
        name: name of the stored tokens (default: the last part of the backbone's name)
        overwrite: replace tokens of that name
    """
    import time

    import pyarrow.parquet as pq

    from linguarec.batching.tokens import cut_histories
    from linguarec.data.dataset import PreparedDataset
    from linguarec.errors import DataFormatError, SettingsError
    from linguarec.files import writing_folder
    from linguarec.processes import Processes
    from linguarec.progress import progress_bar
    from linguarec.text.attributes import AttributeTokenizer
    from linguarec.text.references import stored_name
    from linguarec.text.token_store import open_tokens, write_tokens

    dataset = PreparedDataset.open(data)
    items = pq.ParquetFile(dataset.path / "items.parquet")
    chosen = attributes if attributes is not None else dataset.manifest.attributes[:3]
    columns = [column for column in items.schema_arrow.names if column not in ("item", "raw_id")]
    problems = [
        f"there is no attribute {column!r}; {data} has: {', '.join(columns)}."
        for column in chosen
        if column not in columns
    ]
    if not chosen:
        has = (
            "no attribute columns"
            if attributes is None
            else f"the attributes {', '.join(columns)}, and none was chosen"
        )
        problems.append(f"{data} has {has}; pass --attributes text to use the item text as the only one.")
    if len(set(chosen)) < len(chosen):
        problems.append(f"attributes are {', '.join(chosen)}; each may be named once.")
    if attribute_tokens < 1:
        problems.append(f"attribute_tokens is {attribute_tokens}; expected 1 or more.")
    name = name or stored_name(backbone)
    problems += name_problems(name)
    if problems:
        raise SettingsError(problems)
    tokenizer = AttributeTokenizer.load(backbone, chosen, attribute_tokens, dataset.manifest.text_rules)
    if without_room := {key: length for key, length in tokenizer.key_lengths.items() if length >= attribute_tokens}:
        told = ", ".join(f"{key!r} alone takes {length}" for key, length in without_room.items())
        raise SettingsError([f"attribute_tokens is {attribute_tokens}, which leaves no room for values: {told}."])

    def tokenized(batch: "RecordBatch") -> "tuple[ItemTokens, Counts]":
        return tokenizer.tokenize({column: batch[column].to_pylist() for column in chosen})

    processes = Processes.here()
    started = time.perf_counter()
    pieces = processes.gathered(map(tokenized, processes.share(items.iter_batches(ITEMS_A_PIECE, columns=chosen))))
    if not processes.is_writer:
        return TokenizeResult.of_later_process()
    target = dataset.tokens_path(name)
    with (
        writing_folder(target, overwrite) as folder,
        progress_bar(f"Tokenizing for {name}", dataset.num_items, "items") as advance,
    ):
        counts = write_tokens(folder, tokenizer, pieces, dataset.fingerprint, advance)
        if counts.items_without_tokens == dataset.num_items:
            raise DataFormatError(
                f"No item of {data} has a value of {', '.join(chosen)}, so there is nothing to tokenize; choose others with "
                f"--attributes ({', '.join(columns)}), or prepare the folder with a catalogue that has some."
            )
    seconds = time.perf_counter() - started

    stored = open_tokens(target, dataset.fingerprint).tokens
    cut = cut_histories(stored.lengths, dataset.sequences, HISTORY_ITEMS, HISTORY_TOKENS)
    result = TokenizeResult(
        data=str(data),
        tokens=name,
        items_=len(stored),
        attributes=chosen,
        attribute_tokens=attribute_tokens,
        total_tokens=len(stored.ids),
        mean_tokens=round(float(stored.lengths.mean()), 2) if len(stored) else 0,
        longest_item=int(stored.lengths.max(initial=0)),
        cut_values=counts.cut_values,
        items_without_tokens=counts.items_without_tokens,
        **{f"histories_{over}": count for over, count in cut.items()},
        tokenizer_sha256=tokenizer.form.tokenizer_sha256,
        seconds=round(seconds, 3),
        items_per_second=round(len(stored) / max(seconds, 1e-9), 1),
    )
    _show(result)
    return result


def _show(result: TokenizeResult) -> None:
    from linguarec.runs.tables import show_result

    notes = {
        "cut_values": f"longer than {result['attribute_tokens']} tokens with their name",
        "items_without_tokens": "known by nothing: ranked with score 0",
        f"histories_over_{HISTORY_ITEMS}_items": f"the last {HISTORY_ITEMS} are read by default",
        f"histories_over_{HISTORY_TOKENS}_tokens": "of these the most recent items are read by default",
        "histories_without_text": "of items without tokens alone: all read alike",
    }
    shown = {key: value for key, value in result.items() if key not in ("data", "tokens", "tokenizer_sha256")}
    show_result(f"Tokens {result.tokens}", shown, notes)
