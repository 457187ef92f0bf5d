"""Export of a prepared folder as Recformer's JSON files."""

from pathlib import Path
from typing import Any

from linguarec.errors import SettingsError


def export_recformer(data: Path, output: Path, attributes: list[str] | None, overwrite: bool) -> dict[str, Any]:
    """What `export --form recformer` does."""
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
