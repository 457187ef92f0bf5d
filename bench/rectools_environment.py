"""RecTools 0.19 in an environment of its own, bench/.envs/rectools, made at the first call."""

import subprocess
import sys
from pathlib import Path


def rectools_python() -> Path:
    """The interpreter of that environment."""
    environment = Path(__file__).parent / ".envs" / "rectools"
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        for requirement in ("torch==2.13.0", "rectools[torch]==0.19.*"):
            subprocess.run([python, "-m", "pip", "install", "-q", requirement], check=True)
    return python
