"""Export: a prepared folder as the files that the released code reads."""

from pathlib import Path
from typing import Any

from linguarec.errors import SettingsError


def export(
    data: Path,
    output: Path,
    name: str | None = None,
    features: str | None = None,
    window: int = 50,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a prepared folder as RecBole benchmark files, as UniSRec and VQ-Rec read them.

    Args:
        data: prepared folder
        output: folder to write the files into
        name: first part of the file names (default: the name of the prepared folder)
        features: item vectors to write as NAME.feat1CLS (default: imported feat... vectors, under their own names)
        window: longest history of a row
        overwrite: replace the output folder if it exists
    """
    from rich.console import Console
    from rich.table import Table

    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.export import write_benchmark, write_vectors
    from linguarec.files import writing_folder

    if window < 1:
        raise SettingsError([f"--window is {window}; a history has at least 1 item."])
    dataset = PreparedDataset.open(data)
    name = name or dataset.name
    vectors = {feature: feature for feature in dataset.feature_names if feature.startswith("feat")}
    if features is not None:
        vectors = {features: features if features.startswith("feat") else "feat1CLS"}
    with writing_folder(output, overwrite) as folder:
        counts = write_benchmark(dataset, folder, name, window)
        for feature, suffix in vectors.items():
            write_vectors(dataset, folder, name, feature, suffix)
        files = sorted(file.name for file in folder.iterdir())
    table = Table(title=str(output), show_header=False, title_justify="left")
    for what, number in counts.items():
        table.add_row(what.replace("_", " "), f"{number:,}")
    for file in files:
        table.add_row(file, f"{(output / file).stat().st_size:,} bytes")
    Console().print(table)
    return {"output": str(output), "files": files, **counts}
