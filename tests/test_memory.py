"""The peak of the process's memory, and where it starts anew."""

import sys

import numpy as np
import pytest

from linguarec.memory import peak_memory_gib, reset_peak_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems cannot reset the peak")
def test_the_peak_is_that_since_the_last_reset() -> None:
    reset_peak_memory()
    before = peak_memory_gib()
    assert 0.02 < before < 64
    held = np.ones(1 << 26)  # half a GiB
    assert peak_memory_gib() == pytest.approx(before + 0.5, abs=0.05)
    del held
    assert peak_memory_gib() == pytest.approx(before + 0.5, abs=0.05)  # it stays a peak
    reset_peak_memory()
    assert peak_memory_gib() == pytest.approx(before, abs=0.05)
