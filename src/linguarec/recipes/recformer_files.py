"""Export of a prepared folder as Recformer's JSON files."""

from pathlib import Path
from typing import Any


def export_recformer(data: Path, output: Path, overwrite: bool) -> dict[str, Any]:
    """What `export --form recformer` does."""
    from linguarec.data.dataset import PreparedDataset
    from linguarec.data.export_recformer import write_recformer
    from linguarec.files import writing_folder
    from linguarec.recipes.tables import plain_console, show_files

    dataset = PreparedDataset.open(data)
    with writing_folder(output, overwrite) as folder:
        counts = write_recformer(dataset, folder)
        files = sorted(file.name for file in folder.iterdir())
    show_files(plain_console(), output, counts, files)
    return {"output": str(output), "files": files, **counts}
