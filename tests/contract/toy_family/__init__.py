"""A family of the reader's own, as CONTRIBUTING.md tells it: a folder and a line. Nothing in `src/` knows of it."""

from toy_family.method import TOY

__all__ = ["TOY"]
