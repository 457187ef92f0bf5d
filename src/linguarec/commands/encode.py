"""Encode: item texts to vectors with a language model."""

from dataclasses import dataclass
from typing import Literal

from linguarec.arrays import save_array
from linguarec.checks import name_problems, seed_problems
from linguarec.durations import duration_text
from linguarec.files import AnyPath
from linguarec.result import Result


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EncodeResult(Result):
    """Figures of an encoding.

    `features`: name of the vectors. `items_`: number of items, of which `kept_items` had vectors before. The other
    figures are of the items that were encoded. Of their distinct texts `cut_texts` are longer than `max_tokens`;
    `resumed_texts` were encoded by an earlier run. `seconds`: of the encoding, word-drop draws included. `items_per_second`
    counts an item once, whatever the number of its draws; None if all texts were resumed.
    """

    data: str
    features: str
    items_: int
    kept_items: int
    distinct_texts: int
    empty_texts: int
    cut_texts: int
    resumed_texts: int
    width: int
    pooling: str
    max_tokens: int | None
    precision: str
    weights_sha256: str | None
    word_drop_draws: int
    seconds: float
    items_per_second: float | None

    def _lines(self) -> list[str]:
        if self.kept_items == self.items_:
            return [
                f"{self.data} has vectors {self.features!r} of all its {self.items_:,} items, by this encoder with these "
                "settings: nothing to do"
            ]
        return [
            f"vectors {self.features!r} of width {self.width} in {self.data}",
            f"{self.items_:,} items, {self.distinct_texts:,} distinct texts "
            f"({self.empty_texts:,} empty, {self.cut_texts:,} cut)",
            duration_text(self.seconds),
        ]


def encode(
    data: AnyPath,
    encoder: str = "all-MiniLM-L6-v2",
    pooling: Literal["auto", "cls", "mean"] = "auto",
    precision: Literal["auto", "bf16", "fp32"] = "auto",
    name: str | None = None,
    max_tokens: int | None = None,
    word_drop_draws: int = 0,
    word_drop: float = 0.2,
    seed: int = 0,
    device: str | None = None,
    overwrite: bool = False,
) -> EncodeResult:
    """Encode the item texts of a prepared folder and store the vectors in it.

    A run that was killed is resumed by the same command. Where items were appended to the folder since, only these are encoded;
    where there are none, the command says so and does nothing. Behind torchrun the processes share the texts out.

    Args:
        data: a prepared folder
        encoder: name of an encoder (built in or in the hub cache), or a transformers or sentence-transformers folder
        pooling: how token vectors become one; auto = as the encoder declares, else its first token (CLS)
        precision: auto = bf16 if the processor supports it natively, else fp32
        name: name of the stored vectors; by default the last part of the encoder's name
        max_tokens: longer texts are cut to this length; by default the encoder's own limit
        word_drop_draws: also store this many vectors of each text with random words left out, for augmentation
        word_drop: fraction of the words that a draw leaves out
        seed: seed of the draws
        device: cpu or cuda; by default a GPU if there is one
        overwrite: replace vectors of that name
    """
    import contextlib
    import time
    from dataclasses import asdict

    import numpy as np

    from linguarec.data.dataset import PATIENCE, PreparedDataset
    from linguarec.data.features import FeatureInfo
    from linguarec.errors import DataFormatError, OutputError, SettingsError
    from linguarec.files import clear_up, owned, writing_file
    from linguarec.processes import Processes, is_main_process
    from linguarec.text.encoders import TextEncoder
    from linguarec.text.references import stored_name
    from linguarec.text.shards import EncodedTexts, encode_in_shards, remove_shards
    from linguarec.text.word_drop import drop_words

    problems = seed_problems(seed)
    if word_drop_draws < 0:
        problems.append(f"word_drop_draws is {word_drop_draws}; expected 0 or more.")
    if not 0 < word_drop < 1:
        problems.append(f"word_drop is {word_drop}; expected a share between 0 and 1.")
    if max_tokens is not None and max_tokens < 3:
        problems.append(f"max_tokens is {max_tokens}; expected 3 or more (two are special tokens).")
    name = name or stored_name(encoder)
    problems += name_problems(name)
    if problems:
        raise SettingsError(problems)
    dataset = PreparedDataset.open(data)
    scratch = dataset.path / f".{name}.shards"
    another = "pass --overwrite to replace them, or --name another."
    stored = dataset.feature_info(name) if name in dataset.feature_names and not overwrite else None
    known = None if stored is None else dataset.vectors_so_far(name)
    if stored is not None and known is None:
        if is_main_process():  # after an encoding that was killed when its vectors were stored
            clear_up(dataset.feature_path(name).parent, PATIENCE)
            clear_up(scratch)
            remove_shards(scratch)
        if stored.weights_sha256 is None or stored.texts_fingerprint != dataset.texts_fingerprint:
            raise OutputError(f"{data} has vectors {name!r} already; {another}")
    if not any(text.strip() for text in dataset.texts):
        raise DataFormatError(
            f"No item of {data} has a text, so all would get one vector; prepare it with a catalogue that has texts (--items)."
        )
    model = TextEncoder.load(encoder, pooling, precision, max_tokens, dataset.manifest.text_rules, device)
    reference = model.reference
    info = FeatureInfo(**asdict(reference), texts_fingerprint=dataset.texts_fingerprint)
    processes = Processes.here()

    def result_of(found: EncodedTexts, kept: int, seconds: float) -> EncodeResult:
        encoded = found.distinct - found.resumed
        return EncodeResult(
            data=str(data),
            features=name,
            items_=dataset.num_items,
            kept_items=kept,
            distinct_texts=found.distinct,
            empty_texts=found.empty,
            cut_texts=found.cut,
            resumed_texts=found.resumed,
            width=reference.width,
            pooling=reference.pooling,
            max_tokens=reference.max_tokens,
            precision=model.precision,
            weights_sha256=reference.weights_sha256,
            word_drop_draws=word_drop_draws,
            seconds=round(seconds, 3),
            items_per_second=round((dataset.num_items - kept) / seconds, 1) if encoded else None,
        )

    if stored is not None:
        differences = stored.differences(info)
        # Neither the fraction nor the seed of stored draws is known.
        if word_drop_draws or (known is None and dataset.word_drop_draws(name)):
            differences.append("word-drop draws")
        if differences and known is not None:
            raise OutputError(
                f"{data} has vectors {name!r} of all but the last {dataset.num_items - len(known):,} items, which cannot be "
                f"added with {', '.join(differences)}; pass --overwrite to encode all, or --name another."
            )
        if differences:
            raise OutputError(
                f"{data} has vectors {name!r} already; {another} They differ in {', '.join(differences)}."
            )
        if known is None:
            whole = np.asarray(dataset.features(name))  # refuses a damaged file
            if not processes.is_writer:
                return EncodeResult.of_later_process()
            result = result_of(EncodedTexts(whole, distinct=0, cut=0, empty=0, resumed=0), len(whole), 0.0)
            _show(result)
            return result
    texts = dataset.texts[0 if known is None else len(known) :]
    started = time.perf_counter()
    with owned(scratch) if processes.is_writer else contextlib.nullcontext():
        found = encode_in_shards(model, texts, scratch, f"Encoding by {name}", processes)
        generator = np.random.default_rng(seed)
        drawn = []
        for draw in range(word_drop_draws):
            dropped = [drop_words(text, word_drop, generator) for text in dataset.texts]
            title = f"Word-drop draw {draw + 1} of {word_drop_draws}"
            of_draw = encode_in_shards(model, dropped, scratch, title, processes)
            if of_draw is None:
                continue
            drawn.append(scratch / f"drop{draw}.npy")
            with writing_file(drawn[-1], of_draw.vectors.nbytes) as temporary:
                save_array(temporary, of_draw.vectors)
        seconds = time.perf_counter() - started
        if found is None:
            return EncodeResult.of_later_process()
        all_vectors = found.vectors if known is None else np.concatenate([known, found.vectors])
        dataset.write_features(name, all_vectors, info, drawn)
        remove_shards(scratch)

    result = result_of(found, 0 if known is None else len(known), seconds)
    _show(result)
    return result


def _show(result: EncodeResult) -> None:
    from linguarec.runs.tables import plain_console, show_result

    if result.kept_items == result.items_:
        for line in result._lines():
            plain_console().print(line)
        return
    notes = {
        "kept_items": "had vectors before",
        "empty_texts": "encoded as the empty string",
        "cut_texts": f"longer than {result['max_tokens']} tokens",
        "resumed_texts": "from an earlier run that was stopped",
        "word_drop_draws": "further vectors of each text, with words left out",
    }
    if result.word_drop_draws:
        notes |= {"seconds": "draws included", "items_per_second": "each with its draws"}
    shown = {key: value for key, value in result.items() if key not in ("data", "features", "weights_sha256")}
    show_result(f"Vectors {result.features}", shown, notes)
