"""Items encoded a second: ours beside the released way (batches of 4 in catalogue order, float32), same model, same run.

    python bench/encode.py DATA [--encoder all-MiniLM-L6-v2] [--sample 400] [--output bench/results/encode.json]

DATA is a prepared folder. Ours encodes all its texts, start of the model excluded on both sides; the released way is measured
on consecutive batches spread over the catalogue, `--sample` items in all.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

import linguarec
from linguarec.text.encoders import TextEncoder
from linguarec.text.references import find_encoder
from linguarec.text.shards import encode_in_shards, remove_shards


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
    encoder = TextEncoder.load(arguments.encoder)
    limit = encoder.reference.max_tokens

    blocks = np.array_split(np.arange(len(texts) // 4), max(1, arguments.sample // 40))
    starts = [4 * int(number) for block in blocks for number in block[:10]]
    started = time.perf_counter()
    with torch.no_grad():
        for start in starts:
            batch = tokenizer(
                texts[start : start + 4], padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
            model(**batch).last_hidden_state[:, 0]
    released = 4 * len(starts) / (time.perf_counter() - started)

    scratch = arguments.output.parent / ".encode-bench"
    remove_shards(scratch)
    started = time.perf_counter()
    found = encode_in_shards(encoder, texts, scratch)
    ours = len(texts) / (time.perf_counter() - started)
    remove_shards(scratch)

    result = {
        "items": len(texts),
        "distinct_texts": found.distinct,
        "precision": encoder.precision,
        "released_items_per_second": released,
        "items_per_second": ours,
        "ratio": ours / released,
        "threads": torch.get_num_threads(),
    }
    print("| items | distinct texts | released way | linguarec | ratio |\n|---|---|---|---|---|")
    print(
        f"| {len(texts):,} | {found.distinct:,} | {released:.1f} items/s | {ours:.1f} items/s | {ours / released:.1f} |"
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
