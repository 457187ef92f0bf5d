"""encode, quantize, import-codes: real MiniLM vectors, resuming after SIGKILL, stale vectors, one book for all."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from linguarec.cli import main
from linguarec.codes.codebook import ItemCodes
from linguarec.commands.encode import encode
from linguarec.commands.import_codes import import_codes
from linguarec.commands.quantize import quantize
from linguarec.data.dataset import PreparedDataset
from linguarec.data.features import FeatureInfo
from linguarec.data.synthetic import TINY, generate_world
from linguarec.errors import (
    CheckpointMismatchError,
    DataFormatError,
    LinguarecError,
    OutputError,
    SettingsError,
    StaleFeaturesError,
)
from linguarec.text.encoders import TextEncoder

MINILM = "all-MiniLM-L6-v2"


@pytest.fixture
def dataset(make_dataset: Any) -> PreparedDataset:
    """The 48 readable items of the tiny world."""
    domain = generate_world(seed=0, domains=1, size=TINY)[0]
    sequences = [domain.sequences[user].tolist() for user in range(40)]
    made: PreparedDataset = make_dataset(sequences, texts=[item.text for item in domain.items])
    return made


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder.load(MINILM, precision="fp32")


def test_a_text_alone_has_the_vector_it_has_among_others(minilm: TextEncoder) -> None:
    texts = ["a tea towel", "", "a much longer text about a set of steel calipers, 150 mm, with a case", "mug", "mug"]
    together = minilm.encode(texts)
    assert together.shape == (5, 384)
    assert together.dtype == np.float32
    for row, text in enumerate(texts):
        np.testing.assert_allclose(minilm.encode([text])[0], together[row], atol=1e-5)
    np.testing.assert_allclose(together[3], together[4], atol=1e-6)
    likeness = together @ together.T
    assert likeness[0, 3] > likeness[3, 2]  # a mug is nearer to a tea towel than to calipers


def test_vectors_are_those_of_the_plain_model(minilm: TextEncoder) -> None:
    """Mean over the tokens, normalised, by transformers directly, one text at a time."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from linguarec.text.references import find_encoder

    folder = find_encoder(MINILM)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for text in ("a tea towel", "digital caliper, 150 mm"):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = torch.nn.functional.normalize(states.mean(0), dim=-1)
        np.testing.assert_allclose(minilm.encode([text])[0], mean.numpy(), atol=1e-5)
        cls = TextEncoder.load(MINILM, pooling="cls", precision="fp32").encode([text])[0]
        first = torch.nn.functional.normalize(states[0], dim=-1).numpy()
        np.testing.assert_allclose(cls / np.linalg.norm(cls), first, atol=1e-5)


def test_bfloat16_is_close_to_float32(minilm: TextEncoder, dataset: PreparedDataset) -> None:
    exact = minilm.encode(dataset.texts)
    rounded = TextEncoder.load(MINILM, precision="bf16").encode(dataset.texts)
    cosines = (exact * rounded).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rounded, axis=1)
    assert cosines.min() > 0.999


def test_vectors_are_stored_with_their_origin(dataset: PreparedDataset, minilm: TextEncoder) -> None:
    result = encode(dataset.path, precision="fp32", word_drop_draws=2, seed=3)
    assert result["items"] == len(dataset.texts) == result["distinct_texts"]
    info = dataset.feature_info(MINILM)
    assert (info.width, info.pooling, info.texts_fingerprint) == (384, "mean", dataset.texts_fingerprint)
    assert info.weights_sha256 == minilm.reference.weights_sha256
    stored = dataset.features(MINILM)
    np.testing.assert_allclose(stored, minilm.encode(dataset.texts), atol=1e-5)
    drops = [np.load(dataset.feature_path(MINILM).with_suffix(f".drop{draw}.npy")) for draw in range(2)]
    assert np.abs(drops[0] - stored).max() > 0.01
    assert np.abs(drops[0] - drops[1]).max() > 0.01
    encode(dataset.path, precision="fp32", word_drop_draws=1, seed=3, overwrite=True)
    np.testing.assert_allclose(np.load(dataset.feature_path(MINILM).with_suffix(".drop0.npy")), drops[0], atol=1e-6)


def test_the_time_of_the_draws_is_counted(
    dataset: PreparedDataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import linguarec.text.shards as shards

    clock = [0.0]
    encode_texts = shards.encode_in_shards

    def ten_seconds_later(*arguments: Any) -> Any:
        clock[0] += 10
        return encode_texts(*arguments)

    monkeypatch.setattr(shards, "encode_in_shards", ten_seconds_later)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    result = encode(dataset.path, precision="fp32", word_drop_draws=2)
    assert (result.seconds, result.items_per_second) == (30, 1.6)
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert {"seconds 30 s draws included", "items per second 1.6 each with its draws"} <= set(shown)


def test_the_table_has_no_rows_of_zeros(dataset: PreparedDataset, capsys: pytest.CaptureFixture[str]) -> None:
    result = encode(dataset.path, precision="fp32")
    assert (result.kept_items, result.cut_texts, result.resumed_texts, result.word_drop_draws) == (0, 0, 0, 0)
    shown = capsys.readouterr().out
    assert not any(what in shown for what in ("kept items", "empty texts", "cut texts", "resumed texts", "draws"))
    encode(dataset.path, precision="fp32", max_tokens=4, name="cut")
    assert "longer than 4 tokens" in capsys.readouterr().out


def test_vectors_of_other_texts_are_refused(dataset: PreparedDataset) -> None:
    encode(dataset.path, precision="fp32")
    table = dataset.items()
    changed = [*dataset.texts[:-1], "something else"]
    column = table.schema.get_field_index("text")
    pq.write_table(table.set_column(column, "text", pa.array(changed)), dataset.path / "items.parquet")
    with pytest.raises(StaleFeaturesError, match="made from other item texts"):
        PreparedDataset.open(dataset.path).features(MINILM)


def test_an_encoder_with_damaged_weights_stores_nothing(dataset: PreparedDataset, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from linguarec.text.references import find_encoder

    folder = find_encoder(MINILM)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "broken")
    model = AutoModel.from_pretrained(folder)
    torch.nn.init.constant_(model.encoder.layer[0].output.dense.bias, torch.nan)
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(
        CheckpointMismatchError, match=rf"{tmp_path}/broken gives NaN or infinities for \d+ of \d+ texts"
    ):
        encode(dataset.path, str(tmp_path / "broken"))
    assert dataset.feature_names == []


KILLED = """
import os, signal
from pathlib import Path
import linguarec.text.shards as shards
from linguarec.commands.encode import encode

shards.TOKENS_A_SHARD["cpu"] = 100
shards.TOKENS_A_BATCH["cpu"] = 100
written = 0
write = shards.save_array

def write_or_die(*arguments, **options):
    global written
    written += 1
    if written == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*arguments, **options)

shards.save_array = write_or_die
encode(Path({data!r}), precision="fp32")
"""


def test_killed_it_goes_on_where_it_stopped(
    dataset: PreparedDataset, minilm: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import linguarec.text.shards as shards

    code = KILLED.format(data=str(dataset.path))
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert dataset.feature_names == []
    monkeypatch.setitem(shards.TOKENS_A_SHARD, "cpu", 100)
    monkeypatch.setitem(shards.TOKENS_A_BATCH, "cpu", 100)
    result = encode(dataset.path, precision="fp32")
    assert 0 < result["resumed_texts"] < result["distinct_texts"]
    np.testing.assert_allclose(dataset.features(MINILM), minilm.encode(dataset.texts), atol=1e-5)
    assert list((dataset.path / "features").glob(".*")) == []


def test_bad_settings_are_refused(dataset: PreparedDataset) -> None:
    with pytest.raises(SettingsError, match=r"word_drop_draws is -1.*\n.*word_drop is 2"):
        encode(dataset.path, word_drop_draws=-1, word_drop=2)
    with pytest.raises(SettingsError, match="--max-tokens 100000: the encoder all-MiniLM-L6-v2 reads 256 at most"):
        encode(dataset.path, max_tokens=100_000)
    with pytest.raises(SettingsError, match="--seed is -1"):
        encode(dataset.path, seed=-1)
    with pytest.raises(LinguarecError, match="no-such-encoder"):
        encode(dataset.path, encoder="no-such-encoder")
    dataset.write_features("mine", np.ones((dataset.num_items, 2)), FeatureInfo("me", 2, "mean", None, None, "default"))
    with pytest.raises(OutputError, match=r"has vectors 'mine' already; pass --overwrite"):
        encode(dataset.path, name="mine")


def test_vectors_that_are_complete_are_left_as_they_are(
    dataset: PreparedDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that a job of every day may encode after each log, whether it brought new items or not."""
    encode(dataset.path, precision="fp32")
    file = dataset.feature_path(MINILM)
    before = file.read_bytes(), file.stat().st_mtime_ns
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["encode", str(dataset.path), "--encoder", MINILM])
    assert ended.value.code == 0
    assert (
        f"has vectors '{MINILM}' of all its 48 items, by this encoder with these settings: nothing to do"
        in " ".join(capsys.readouterr().out.split())
    )
    again = encode(dataset.path, precision="fp32")
    assert (again.items_, again.kept_items, again.distinct_texts, again.items_per_second) == (48, 48, 0, None)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before


def test_vectors_of_other_settings_are_replaced_only_when_asked(dataset: PreparedDataset) -> None:
    encode(dataset.path, precision="fp32")
    taken = r"has vectors 'all-MiniLM-L6-v2' already; pass --overwrite .* They differ in "
    with pytest.raises(OutputError, match=taken + r"token limit 256 against 8\."):
        encode(dataset.path, precision="fp32", max_tokens=8)
    with pytest.raises(OutputError, match=taken + r"pooling mean against cls\."):
        encode(dataset.path, precision="fp32", pooling="cls")
    with pytest.raises(OutputError, match=taken + r"word-drop draws\."):
        encode(dataset.path, precision="fp32", word_drop_draws=1)
    encode(dataset.path, precision="fp32", word_drop_draws=1, overwrite=True)
    for draws in (0, 1):  # those in the folder may be of another seed
        with pytest.raises(OutputError, match=taken + r"word-drop draws\."):
            encode(dataset.path, precision="fp32", word_drop_draws=draws)
    encode(dataset.path, precision="fp32", overwrite=True)
    dataset.feature_path(MINILM).write_bytes(dataset.feature_path(MINILM).read_bytes()[:-4])
    with pytest.raises(DataFormatError, match=rf"{MINILM}\.npy is cut short"):
        encode(dataset.path, precision="fp32")


def test_several_folders_share_one_codebook(make_dataset: Any) -> None:
    generator = np.random.default_rng(0)
    vectors = [generator.standard_normal((60, 16)).astype(np.float32) for _ in range(2)]
    folders = [
        make_dataset([list(range(60))], features={"words": part}, num_items=60, name=name)
        for name, part in zip(("one", "two"), vectors, strict=True)
    ]
    quantize([f.path for f in folders], "words", subvectors=4, centroids=8, method="opq", fit_on="all", name="shared")
    stored = [ItemCodes.load(folder.codes_path("shared")) for folder in folders]
    assert stored[0].book.fingerprint == stored[1].book.fingerprint
    for codes, part in zip(stored, vectors, strict=True):
        assert codes.codes.shape == (60, 4)
        assert np.array_equal(codes.book.encode(part), codes.codes)
        assert np.array_equal(codes.book.encode(part[7:8])[0], codes.codes[7])  # a new item is coded without re-fitting
        error = ((codes.book.decode(codes.codes) - part) ** 2).sum() / (part**2).sum()
        assert error < 0.8


def test_the_official_codes_of_scientific(shared: Path, tmp_path: Path) -> None:
    """Row k of the index is the k-th sorted training item; the 12 others are coded from their vectors."""
    import faiss

    from linguarec.commands.prepare import prepare_atomic

    prepare_atomic(shared / "data" / "scientific", tmp_path / "scientific")
    index = next((shared / "data" / "scientific").glob("*.index"))
    result = import_codes(tmp_path / "scientific", index, features="feat1CLS")
    assert (result["indexed_items"], result["coded_from_vectors"]) == (4373, 12)
    dataset = PreparedDataset.open(tmp_path / "scientific")
    codes = ItemCodes.load(dataset.codes_path("official")).codes
    lacking = [1397, 1407, 2567, 2635, 2752, 2966, 3088, 3528, 3575, 3961, 4156, 4250]
    held = np.setdiff1d(np.arange(dataset.num_items), lacking)
    whole = faiss.read_index(str(index))  # owns what follows
    inner = faiss.downcast_index(whole.index)
    lists = faiss.extract_index_ivf(inner).invlists
    ids = faiss.rev_swig_ptr(lists.get_ids(0), lists.list_size(0))
    official = faiss.rev_swig_ptr(lists.get_codes(0), lists.list_size(0) * 32).reshape(-1, 32)
    assert np.array_equal(codes[held][ids], official)
