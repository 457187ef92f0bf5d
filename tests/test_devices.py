"""Which device is taken, and the refusal of one that is not there."""

import pytest
import torch

from linguarec.devices import device_for
from linguarec.errors import SettingsError


def test_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_for(None) == torch.device("cuda")
    assert device_for("cpu") == torch.device("cpu")
    assert device_for("cuda:1") == torch.device("cuda:1")
    with pytest.raises(SettingsError, match="--device cuda:2: torch finds 2 GPUs here; take cpu"):
        device_for("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_for(None) == torch.device("cpu")
    with pytest.raises(SettingsError, match="--device gpu: expected cpu or cuda"):
        device_for("gpu")


def test_processes_of_one_machine_take_its_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_for(None) == torch.device("cuda")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "3")
    for place, expected in (("0", "cuda:0"), ("1", "cuda:1"), ("2", "cuda:0")):
        monkeypatch.setenv("LOCAL_RANK", place)
        assert device_for(None) == torch.device(expected)
    assert device_for("cpu") == torch.device("cpu")
