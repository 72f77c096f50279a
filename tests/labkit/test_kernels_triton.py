"""The Triton kernels: interpreted on the CPU, in a child process, and compiled where there is a GPU.

Whether kernels are interpreted is decided when they are imported, so TRITON_INTERPRET is set before.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKS = [
    "kernels_launch_on_the_gpu_of_their_tensors",
    "ragged_cross_entropy",
    "linear_cross_entropy_extremes_case",
    "ties_and_ragged_top_k",
    "top_k_in_slabs",
    "ragged_attention_pool",
    "attention_pool_extremes_case",
    "ragged_embedding_bag",
    "embedding_bag_extremes_case",
]


@pytest.fixture(scope="module")
def failures():
    """Which checks failed in the child, and how; one child for all, for it takes seconds to start."""
    pytest.importorskip("triton", reason="triton is not installed, so its kernels are NOT tested")
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("kernel_interpreted.py"))],
        env=os.environ
        | {"TRITON_INTERPRET": "1", "LABKIT_KERNELS": "triton", "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("check", CHECKS)
def test_interpreted(failures, check):
    assert set(failures) == set(CHECKS)
    assert not failures[check], failures[check]


def test_no_position_launches_no_kernel():
    pytest.importorskip("triton", reason="triton is not installed, so its kernels are NOT tested")
    from labkit.kernels.logsumexp_triton import fused

    weight = torch.ones(5, 4)
    terms = fused(torch.zeros(0, 4), weight, torch.zeros(5), 1.0, torch.zeros(0), True, True)
    assert terms.lse.shape == (0,)
    assert terms.by_hidden.shape == (0, 4)
    assert torch.equal(terms.by_weight, torch.zeros(5, 4))
    assert torch.equal(terms.by_offset, torch.zeros(5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: compiled Triton kernels are NOT tested")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_compiled_equals_float64(dtype):
    """The compiled kernels at the size of a real problem; the gradients again, bit for bit, a second time."""
    from labkit.kernels import linear_cross_entropy, top_k

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1000, 96, generator=generator).to("cuda", dtype).requires_grad_()
    weight = torch.randn(20_011, 96, generator=generator).to("cuda", dtype).requires_grad_()
    target = torch.randint(20_011, (1000,), generator=generator).cuda()
    exact = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(exact[0] @ exact[1].T, target)
    right = torch.autograd.grad(expected, exact)
    runs = []
    for _ in range(2):
        loss = linear_cross_entropy(hidden, weight, target)
        runs.append(torch.autograd.grad(loss, (hidden, weight)))
        assert abs(loss.item() - expected.item()) < 1e-3 * expected.item()
    for one, two, truth in zip(*runs, right, strict=True):
        assert torch.equal(one, two)
        error = (one.double() - truth).abs().max() / truth.abs().max()
        assert error < (1e-4 if dtype == torch.float32 else 2e-2)
    scores, ids = top_k(hidden.detach(), weight.detach(), 10)
    best = (exact[0] @ exact[1].T).topk(10, dim=1)
    assert (best.values - scores.double()).abs().max() < 1e-2 * best.values.max()
    assert (ids == best.indices).double().mean() > 0.99


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NO SECOND GPU: kernels on another are NOT tested")
def test_a_gpu_that_is_not_the_current_one():
    from labkit.kernels import linear_cross_entropy

    hidden = torch.randn(100, 32, generator=torch.Generator().manual_seed(0))
    here, there = (
        linear_cross_entropy(hidden.to(gpu), hidden.to(gpu), torch.arange(100, device=gpu))
        for gpu in ("cuda:0", "cuda:1")
    )
    torch.testing.assert_close(here.cpu(), there.cpu())


def compiled_for(architecture, kernel, constants, dtype, **options):
    """A kernel compiled for a GPU that need not be there, such as 90 for an H100."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = dict.fromkeys(kernel.arg_names, "*fp32")
    types |= dict.fromkeys(("hidden", "weight", "queries", "items"), f"*{dtype}") | {"keys": "*i64"}
    types |= dict.fromkeys(("count", "classes", "span", "size", "first", "groups"), "i32")
    types |= {"scale": "fp32"} | dict.fromkeys(constants, "constexpr")
    signature = {name: types[name] for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, places)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_kernels_compile_for_hopper_without_one(dtype):
    """The whole compiler runs for an H100, and what it asks for fits in its shared memory."""
    pytest.importorskip("triton", reason="triton is not installed, so its kernels are NOT tested")
    import triton

    from labkit.kernels import logsumexp_triton, topk_triton

    kind = triton.language.bfloat16 if dtype == "bf16" else triton.language.float32
    precision = "ieee" if dtype == "bf16" else "tf32"
    items = torch.empty(1, 128, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32)
    queries, group = topk_triton.block_sizes(items)
    product = {"D": 128, "BD": 128, "PRECISION": precision}
    loss = product | {"KIND": kind, "OFFSET": True, "BM": 64, "BN": 64}
    kernels = [
        (logsumexp_triton._over_classes.fn, loss | {"MEAN": True}),
        (logsumexp_triton._over_positions.fn, loss),
        (topk_triton._group_maxima.fn, product | {"BQ": queries, "GROUP": group}),
    ]
    for kernel, constants in kernels:
        compiled = compiled_for(90, kernel, constants, dtype, num_warps=8)
        assert compiled.metadata.shared <= 227 << 10
        assert "wgmma.mma_async" in compiled.asm["ptx"]  # on the tensor cores of that generation


@pytest.mark.slow
def test_the_widest_vectors_fit_the_shared_memory_of_a_small_card():
    """99 KiB on an A10 or RTX 4090; without one block size that fits, the first call would stop."""
    triton = pytest.importorskip("triton", reason="triton is not installed, so its kernels are NOT tested")
    from labkit.kernels import logsumexp_triton

    product = {"D": 256, "BD": 256, "PRECISION": "tf32", "KIND": triton.language.float32, "OFFSET": True}
    for kernel, more in (
        (logsumexp_triton._over_classes, {"MEAN": True}),
        (logsumexp_triton._over_positions, {}),
    ):
        smallest = min(kernel.configs, key=lambda config: config.kwargs["BM"] * config.kwargs["BN"])
        compiled = compiled_for(86, kernel.fn, product | more | smallest.kwargs, "fp32", num_stages=2)
        assert compiled.metadata.shared <= 99 << 10
