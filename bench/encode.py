"""Items encoded a second: ours beside the released way (batches of 4 in catalogue order, float32), same model, same run.

    python bench/encode.py DATA [--encoder all-MiniLM-L6-v2] [--sample 400] [--output bench/results/encode.json]

DATA is a prepared folder. Ours encodes all its texts, start of the model excluded on both sides; the released way is
measured on consecutive batches spread over the catalogue, `--sample` items in all. Both by the clock and by processor
time, which other programs on the machine disturb less. The last line is the bound: the ratio if ours did nothing but the
matrix products of the model, at the rate that this processor reaches in a long product of that precision.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

import linguarec
from linguarec.text.encoders import TextEncoder
from linguarec.text.references import find_encoder
from linguarec.text.shards import encode_in_shards, remove_shards


@dataclass(frozen=True)
class Rates:
    """Items done, seconds by the clock, seconds of processor time over all threads."""

    items: int
    seconds: float
    processor_seconds: float

    @property
    def by_clock(self) -> float:
        return self.items / self.seconds

    @property
    def by_processor(self) -> float:
        return self.items / self.processor_seconds


def matrix_rate(precision: str, width: int) -> float:
    """Multiplications and additions a second of processor time in a long product of the model's widest shape."""
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    states, weight = torch.randn(1024, width).to(kind), torch.randn(4 * width, width).to(kind)
    with torch.inference_mode():
        torch.nn.functional.linear(states, weight)
        started = time.process_time()
        for _ in range(200):
            torch.nn.functional.linear(states, weight)
        seconds = time.process_time() - started
    return 200 * 2 * 1024 * width * 4 * width / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", default="all-MiniLM-L6-v2")
    parser.add_argument("--sample", type=int, default=400)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "encode.json")
    arguments = parser.parse_args()

    texts = linguarec.load_dataset(arguments.data).texts
    folder = find_encoder(arguments.encoder)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    encoder = TextEncoder.load(arguments.encoder, precision="auto", device="cpu")
    limit = encoder.reference.max_tokens

    blocks = np.array_split(np.arange(len(texts) // 4), max(1, arguments.sample // 40))
    starts = [4 * int(number) for block in blocks for number in block[:10]]
    started, worked = time.perf_counter(), time.process_time()
    with torch.no_grad():
        for start in starts:
            batch = tokenizer(
                texts[start : start + 4], padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
            model(**batch).last_hidden_state[:, 0]
    released = Rates(4 * len(starts), time.perf_counter() - started, time.process_time() - worked)

    scratch = arguments.output.parent / ".encode-bench"
    remove_shards(scratch)
    started, worked = time.perf_counter(), time.process_time()
    found = encode_in_shards(encoder, texts, scratch)
    assert found is not None
    ours = Rates(len(texts), time.perf_counter() - started, time.process_time() - worked)
    remove_shards(scratch)

    distinct = list(dict.fromkeys(texts))
    weights = sum(layer.weight.numel() for layer in model.encoder.modules() if isinstance(layer, torch.nn.Linear))
    products = 2 * weights * int(encoder.tokenize(distinct).lengths.sum())
    bound = len(texts) / (products / matrix_rate(encoder.precision, model.config.hidden_size))

    result = {
        "items": len(texts),
        "distinct_texts": found.distinct,
        "precision": encoder.precision,
        "released": asdict(released),
        "linguarec": asdict(ours),
        "ratio_by_clock": ours.by_clock / released.by_clock,
        "ratio_by_processor": ours.by_processor / released.by_processor,
        "bound_of_the_ratio": bound / released.by_processor,
        "threads": torch.get_num_threads(),
    }
    print(
        f"{len(texts):,} items, {found.distinct:,} distinct texts, {encoder.precision}, {torch.get_num_threads()} threads"
    )
    print("\n| items/s | released way | linguarec | ratio |\n|---|---|---|---|")
    for label, mine, theirs in (
        ("by the clock", ours.by_clock, released.by_clock),
        ("by processor time", ours.by_processor, released.by_processor),
        ("matrix products alone", bound, released.by_processor),
    ):
        print(f"| {label} | {theirs:.1f} | {mine:.1f} | {mine / theirs:.1f} |")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
