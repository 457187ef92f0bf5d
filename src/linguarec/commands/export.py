"""Export: write prepared folders as the files that the released code reads, and runs as files for onnxruntime."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from linguarec.errors import SettingsError, StaleFeaturesError

if TYPE_CHECKING:
    from linguarec.codes.faiss_index import IndexContent
    from linguarec.data.dataset import PreparedDataset


def export(
    data: list[Path],
    output: Path,
    name: str | None = None,
    features: str | None = None,
    codes: str | None = None,
    pretraining: bool = False,
    window: int = 50,
    form: Literal["benchmark", "recformer", "onnx"] = "benchmark",
    attributes: list[str] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a prepared folder as RecBole benchmark files, or several as one pre-training folder, for UniSRec and VQ-Rec.

    With --form onnx a trained run is written as files that onnxruntime computes recommendations from, without linguarec.

    Args:
        data: prepared folder; several are the domains of a pre-training folder, in this order; --form onnx: a run
        output: folder to write the files into
        name: first part of the file names (default: the folder's name; pre-training: the first letters of the folders)
        features: item vectors to write as .feat1CLS (default: imported feat... vectors, under their own names)
        codes: item codes to write as a faiss index, pre-training only (default: imported ones, if all folders have them)
        pretraining: write a pre-training folder of a single domain too
        window: longest history of a row
        form: benchmark files; recformer = the JSON files that the released Recformer reads (train.json, meta_data.json and
            so on); onnx = a run's network, item vectors and keys
        attributes: --form recformer: attributes of the items to write, in order (default: all); the released code reads all
            that the files hold
        overwrite: replace the output folder if it exists
    """
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.export import write_benchmark, write_vectors
    from linguarec.files import writing_folder
    from linguarec.runs.tables import plain_console, show_files

    problems = []
    if not data:
        problems.append("data is empty; name at least one prepared folder.")
    if window < 1:
        problems.append(f"--window is {window}; a history has at least 1 item.")
    pretraining = pretraining or len(data) > 1
    if codes is not None and not pretraining:
        problems.append("--codes is for pre-training folders; benchmark files have no faiss index beside them.")
    if form != "benchmark" and (pretraining or name is not None or features is not None or window != 50):
        problems.append(
            f"--form {form} takes one folder and gives fixed names: leave out --name, --features and --window."
        )
    if attributes is not None and form != "recformer":
        problems.append("--attributes is for --form recformer; benchmark files hold all of them.")
    if problems:
        raise SettingsError(problems)
    if form == "recformer":
        return _export_recformer(data[0], output, attributes, overwrite)
    if form == "onnx":
        return _export_onnx(data[0], output, overwrite)
    if pretraining:
        return _export_pretraining(data, output, name, features, codes, window, overwrite)
    dataset = PreparedDataset.open(data[0])
    name = name or dataset.name
    vectors = {feature: feature for feature in dataset.feature_names if feature.startswith("feat")}
    if features is not None:
        vectors = {features: features if features.startswith("feat") else "feat1CLS"}
    with writing_folder(output, overwrite) as folder:
        counts = write_benchmark(dataset, folder, name, window)
        for feature, suffix in vectors.items():
            write_vectors(dataset.features(feature), folder / f"{name}.{suffix}")
        files = sorted(file.name for file in folder.iterdir())
    show_files(plain_console(), output, counts, files)
    return {"output": str(output), "files": files, **counts}


def _export_recformer(data: Path, output: Path, attributes: list[str] | None, overwrite: bool) -> dict[str, Any]:
    """Run `export --form recformer`."""
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.export_recformer import write_recformer
    from linguarec.files import writing_folder
    from linguarec.runs.tables import plain_console, show_files

    dataset = PreparedDataset.open(data)
    chosen = dataset.manifest.attributes if attributes is None else attributes
    if unknown := [name for name in chosen if name not in dataset.manifest.attributes]:
        known = ", ".join(dataset.manifest.attributes) or "none"
        raise SettingsError([f"there is no attribute {name!r}; {data} has: {known}." for name in unknown])
    with writing_folder(output, overwrite) as folder:
        counts = write_recformer(dataset, folder, chosen)
        files = sorted(file.name for file in folder.iterdir())
    show_files(plain_console(), output, counts, files)
    return {"output": str(output), "files": files, **counts}


def _export_onnx(run: Path, output: Path, overwrite: bool) -> dict[str, Any]:
    """Run `export --form onnx`."""
    from linguarec.files import writing_folder
    from linguarec.onnx_files import write_onnx
    from linguarec.recommender import Recommender
    from linguarec.runs.tables import plain_console, show_files

    recommender = Recommender.load(run)
    with writing_folder(output, overwrite) as folder:
        facts = write_onnx(recommender, folder)
        files = sorted(file.name for file in folder.iterdir())
    show_files(plain_console(), output, {name: facts[name] for name in ("items", "max_length")}, files)
    return {"output": str(output), "files": files, **facts}


def _export_pretraining(
    data: Sequence[Path],
    output: Path,
    name: str | None,
    features: str | None,
    codes: str | None,
    window: int,
    overwrite: bool,
) -> dict[str, Any]:
    """Write prepared folders as one pre-training folder; the domains are in the order of `data`.

    Raises:
        StaleFeaturesError: the vectors are of different encoders, or the codes of different codebooks.
        SettingsError: no vectors are named and none were imported; or the codes cannot be written as a faiss index.
    """
    from linguarec.codes.faiss_index import IMPORTED_CODES, write_faiss_index
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.export import write_pretraining, write_vectors
    from linguarec.data.readers.pretraining import VECTORS, WORD_DROP
    from linguarec.data.same_encoder import check_same_encoder
    from linguarec.files import writing_folder
    from linguarec.runs.tables import plain_console, show_files

    datasets = [PreparedDataset.open(folder) for folder in data]
    name = name or "".join(dataset.name[0] for dataset in datasets)  # as the release: FHCKM
    lacking = [dataset for dataset in datasets if (features or VECTORS) not in dataset.feature_names]
    if features is None and lacking:
        raise SettingsError(
            [f"{lacking[0].path} has no imported vectors {VECTORS!r}; name the item vectors to write by --features."]
        )
    features = features or VECTORS
    encoder = check_same_encoder([(dataset, features) for dataset in datasets])
    if codes is None and all(IMPORTED_CODES in dataset.code_names for dataset in datasets):
        codes = IMPORTED_CODES
    drops = [dataset.word_drop_draws(features) for dataset in datasets]
    with writing_folder(output, overwrite) as folder:
        counts = write_pretraining(datasets, folder, name, window)
        for dataset, dropped in zip(datasets, drops, strict=True):
            write_vectors(dataset.features(features), folder / f"{dataset.name}.{VECTORS}")
            if all(drops):
                write_vectors(dropped[0], folder / f"{dataset.name}.{WORD_DROP}")
        if codes is not None:
            content = _joined_codes(datasets, codes)
            size = content.book.subvectors
            write_faiss_index(folder / f"{name}.OPQ{size},IVF1,PQ{size}x8.strict.index", content)
        files = sorted(file.name for file in folder.iterdir())
    counts["domains_without_word_drop"] = sum(not dropped for dropped in drops)
    counts["word_drop_draws_left_out"] = sum(len(dropped) - all(drops) for dropped in drops)
    show_files(plain_console(), output, counts, files)
    return {"output": str(output), "files": files, **counts, "vector_width": encoder.width}


def _joined_codes(datasets: "Sequence[PreparedDataset]", name: str) -> "IndexContent":
    """Codes of all items in training pairs, domain after domain, as `.filtered_id` lists them."""
    import numpy as np

    from linguarec.codes.codebook import ItemCodes
    from linguarec.codes.faiss_index import IndexContent
    from linguarec.data.splits import items_of_training_pairs

    stored = [ItemCodes.load(dataset.codes_path(name)) for dataset in datasets]
    parts = []
    for dataset, of_domain in zip(datasets, stored, strict=True):
        if of_domain.book.fingerprint != stored[0].book.fingerprint:
            raise StaleFeaturesError(
                f"The codes {name!r} of {dataset.path} are of another codebook than those of {datasets[0].path}; fit one "
                "for all with `linguarec quantize`, naming all folders."
            )
        of_domain.check(dataset.num_items)
        parts.append(of_domain.codes[items_of_training_pairs(dataset.sequences, dataset.roles())])
    return IndexContent(np.concatenate(parts), stored[0].book)
