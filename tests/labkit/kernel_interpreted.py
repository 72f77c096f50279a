"""Run by ``test_kernels_triton`` with TRITON_INTERPRET=1: prints what went wrong in each check, as JSON."""

import json
import traceback

import kernel_cases as cases
import torch

from labkit.kernels import (
    attention_pool,
    chosen,
    embedding_bag,
    linear_cross_entropy,
    top_k,
    topk_triton,
)

f32, bf16, f16 = torch.float32, torch.bfloat16, torch.float16


def ragged_cross_entropy():
    shapes = [(f32, 1, 1, 1), (f32, 33, 70, 16), (f32, 32, 32, 20), (bf16, 40, 49, 7), (f16, 5, 90, 33)]
    for seed, (dtype, *shape) in enumerate(shapes):
        for reduction in ("mean", "none"):
            cases.linear_cross_entropy_case(seed, dtype, *shape, reduction)


def ties_and_ragged_top_k():
    shapes = [
        (f32, 1, 3, 1, 2),
        (f32, 17, 100, 4, 9),
        (bf16, 5, 64, 3, 20),
        (f16, 16, 33, 5, 40),
        (f32, 20, 50, 17, 1),
    ]
    for seed, (dtype, *shape) in enumerate(shapes):
        cases.top_k_case(seed, dtype, *shape)


def top_k_in_slabs():
    topk_triton.KEYS = 512
    for seed in range(3):
        cases.top_k_case(seed, f32, 9, 400, 3, 6)


def ragged_attention_pool():
    shapes = [(f32, 1, 0, 3), (f32, 7, 70, 5), (bf16, 4, 20, 16), (f16, 5, 9, 1), (f32, 6, 130, 33)]
    for seed, (dtype, *shape) in enumerate(shapes):
        cases.attention_pool_case(seed, dtype, *shape)


def ragged_embedding_bag():
    shapes = [
        (f32, 1, 0, 3, 2),
        (f32, 7, 50, 2, 5),
        (bf16, 4, 20, 9, 16),
        (f16, 5, 9, 1, 1),
        (f32, 6, 30, 3, 300),
    ]
    for seed, (dtype, *shape) in enumerate(shapes):
        for mode in ("sum", "mean"):
            cases.embedding_bag_case(seed, dtype, *shape, mode)


def kernels_launch_on_the_gpu_of_their_tensors():
    """There is none here, but each launch has to ask which it would be."""
    asked, device_of = [], torch.cuda.device_of
    torch.cuda.device_of = lambda tensor: (asked.append(tensor.shape), device_of(tensor))[1]
    try:
        x, offsets = torch.ones(3, 7, requires_grad=True), torch.tensor([0, 3])
        linear_cross_entropy(x, torch.ones(5, 7), torch.tensor([0, 1, 2]))
        top_k(x, torch.ones(5, 7), 2)
        embedding_bag(torch.ones(4, 6), torch.tensor([0, 1, 2]), offsets)
        assert asked == [(3, 7), (3, 7), (4, 6)], asked
        attention_pool(x, offsets, torch.ones(7)).sum().backward()
        assert asked[3:] == [(3, 7), (3, 7)], asked
    finally:
        torch.cuda.device_of = device_of


CHECKS = [
    kernels_launch_on_the_gpu_of_their_tensors,
    ragged_cross_entropy,
    cases.linear_cross_entropy_extremes_case,
    ties_and_ragged_top_k,
    top_k_in_slabs,
    ragged_attention_pool,
    cases.attention_pool_extremes_case,
    ragged_embedding_bag,
    cases.embedding_bag_extremes_case,
]


if __name__ == "__main__":
    assert {choice.implementation for choice in chosen("cpu")} == {"triton"}
    torch.set_num_threads(1)
    failures = {}
    for check in CHECKS:
        try:
            check()
            failures[check.__name__] = ""
        except Exception:
            failures[check.__name__] = traceback.format_exc()
    print(json.dumps(failures))
