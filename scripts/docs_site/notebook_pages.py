"""A notebook as a page: its text, its code and the outputs that are stored in it."""

import re
from pathlib import Path

from nbconvert import MarkdownExporter


def notebook_page(path: Path) -> str:
    """The notebook as Markdown.

    Raises:
        ValueError: it has outputs that are files (pictures), for which there is no place yet.
    """
    text, resources = MarkdownExporter().from_filename(str(path))
    if resources.get("outputs"):
        raise ValueError(f"{path} has pictures in its outputs: {', '.join(resources['outputs'])}")
    return re.sub(r"<style scoped>.*?</style>", "", text, flags=re.S)
