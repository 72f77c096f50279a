"""Where a computation runs: what is asked for, or one sentence that says why not."""

import pytest
import torch

from labkit.device import choose_device


@pytest.mark.parametrize("name", ["gpu", "mps", "xpu", "cuda:x", "meta"])
def test_a_device_of_another_kind_is_refused(name):
    with pytest.raises(ValueError, match=f"no device '{name}'; use 'cpu', 'cuda'"):
        choose_device(name)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="PyTorch sees 1 CUDA GPU, numbered from 0"):
        choose_device("cuda:7")
    assert choose_device("cpu").reason.startswith("the CPU was asked for")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="PyTorch sees no CUDA GPU"):
        choose_device("cuda")
    assert choose_device().reason.startswith("no GPU was found")
