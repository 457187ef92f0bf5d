"""Logs and catalogues: from source files to the prepared dataset folder."""
