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


@pytest.mark.parametrize(
    ("capability", "dtype", "reason"),
    [
        ((9, 0), torch.bfloat16, "multiplies bf16 matrices in hardware"),
        ((7, 5), torch.float16, "multiplies fp16 matrices in hardware, bf16 not"),
        ((6, 1), torch.float32, "multiplies neither bf16 nor fp16"),
    ],
)
def test_the_format_is_what_the_card_multiplies(capability, dtype, reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    chosen = choose_device("cuda")
    assert chosen.dtype == dtype
    assert chosen.reason.startswith(f"A card {reason}")
    assert choose_device("cuda", "fp32").dtype == torch.float32


@pytest.mark.parametrize(("has", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_cpu_takes_bf16_only_where_it_has_the_instructions(has, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    assert choose_device("cpu").dtype == dtype
    assert choose_device("cpu", "bf16").dtype == torch.bfloat16, "insisted on"
    with pytest.raises(ValueError, match="no precision 'int8'; use auto, fp32, bf16, fp16"):
        choose_device("cpu", "int8")


@pytest.mark.parametrize(("precision", "scales"), [("fp32", False), ("bf16", False), ("fp16", True)])
def test_only_fp16_needs_its_loss_scaled(precision, scales):
    device = choose_device("cpu", precision)
    assert device.scaler().is_enabled() is scales
    with device.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == device.dtype
