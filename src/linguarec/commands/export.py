"""Export: prepared folders as the files that the released code reads."""

from pathlib import Path
from typing import Any, Literal

from linguarec.errors import SettingsError


def export(
    data: list[Path],
    output: Path,
    name: str | None = None,
    features: str | None = None,
    codes: str | None = None,
    pretraining: bool = False,
    window: int = 50,
    form: Literal["benchmark", "recformer"] = "benchmark",
    attributes: list[str] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a prepared folder as RecBole benchmark files, or several as one pre-training folder, for UniSRec and VQ-Rec.

    Args:
        data: prepared folder; several are the domains of a pre-training folder, in this order
        output: folder to write the files into
        name: first part of the file names (default: the folder's name; pre-training: the first letters of the folders)
        features: item vectors to write as .feat1CLS (default: imported feat... vectors, under their own names)
        codes: item codes to write as a faiss index, pre-training only (default: imported ones, if all folders have them)
        pretraining: write a pre-training folder of a single domain too
        window: longest history of a row
        form: benchmark files, or the JSON files that the released Recformer reads (train.json, meta_data.json and so on)
        attributes: --form recformer: attributes of the items to write, in order (default: all); the released code reads all
            that are there
        overwrite: replace the output folder if it exists
    """
    from linguarec.commands.pretraining_files import export_pretraining
    from linguarec.commands.recformer_files import export_recformer
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
    if form == "recformer" and (pretraining or name is not None or features is not None or window != 50):
        problems.append(
            "--form recformer takes one folder and gives fixed names: leave out --name, --features and --window."
        )
    if attributes is not None and form != "recformer":
        problems.append("--attributes is for --form recformer; benchmark files hold all of them.")
    if problems:
        raise SettingsError(problems)
    if form == "recformer":
        return export_recformer(data[0], output, attributes, overwrite)
    if pretraining:
        return export_pretraining(data, output, name, features, codes, window, overwrite)
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
