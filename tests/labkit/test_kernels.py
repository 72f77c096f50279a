"""The kernels on the CPU: plain and chunked, on random shapes, against float64 results."""

import sys

import kernel_cases as cases
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from labkit.kernels import (
    attention_pool,
    chosen,
    dispatch,
    embedding_bag,
    linear_cross_entropy,
    logsumexp,
    top_k,
    topk,
)

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
seeds = st.integers(0, 10_000)
dtypes = st.sampled_from(DTYPES)
examples = settings(max_examples=40, deadline=None)


@pytest.fixture(scope="module", params=["", "reference"], ids=["chosen", "reference"], autouse=True)
def implementation(request):
    """Each test runs with the implementations the CPU gets, cut into small tiles, and with the plain ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_KERNELS", request.param)
        patch.setattr(logsumexp, "TILE", 24)
        patch.setattr(logsumexp, "BLOCK_BYTES", 16 * 4 * 60)
        patch.setattr(logsumexp, "ROWS", 16)
        patch.setattr(topk, "TILE_BYTES", 4096)
        patch.setattr(topk, "QUERIES", 7)
        yield request.param


@examples
@given(seeds, dtypes, st.integers(1, 60), st.integers(1, 90), st.integers(1, 20), st.booleans())
def test_linear_cross_entropy(seed, dtype, positions, classes, width, none):
    reduction = "none" if none else ("mean", "sum")[seed % 2]
    cases.linear_cross_entropy_case(seed, dtype, positions, classes, width, reduction)


def test_linear_cross_entropy_of_extremes():
    cases.linear_cross_entropy_extremes_case()


@settings(max_examples=60, deadline=None)
@given(seeds, dtypes, st.integers(1, 30), st.integers(3, 900), st.integers(1, 6), st.integers(1, 80))
def test_top_k(seed, dtype, count, size, width, k):
    cases.top_k_case(seed, dtype, count, size, width, k)


@examples
@given(seeds, dtypes, st.integers(1, 9), st.integers(0, 30), st.integers(1, 20))
def test_attention_pool(seed, dtype, sequences, longest, width):
    cases.attention_pool_case(seed, dtype, sequences, longest, width)


def test_attention_pool_of_extremes():
    cases.attention_pool_extremes_case()


@examples
@given(
    seeds,
    dtypes,
    st.integers(1, 9),
    st.integers(0, 30),
    st.integers(1, 12),
    st.integers(1, 20),
    st.booleans(),
)
def test_embedding_bag(seed, dtype, bags, longest, rows, width, mean):
    cases.embedding_bag_case(seed, dtype, bags, longest, rows, width, "mean" if mean else "sum")


def test_embedding_bag_of_extremes():
    cases.embedding_bag_extremes_case()


def test_autocast_multiplies_in_its_dtype_and_returns_gradients_in_the_parameters():
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(40, 32, generator=generator), torch.randn(70, 32, generator=generator)
    target = torch.randint(70, (40,), generator=generator)
    exact = linear_cross_entropy(hidden.double(), weight.double(), target)
    weight.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, target)
    (by_weight,) = torch.autograd.grad(loss, weight)
    assert by_weight.dtype == torch.float32
    cases.close(loss, exact, torch.bfloat16)
    rounded = linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), target)
    assert loss.item() == rounded.item()  # the rounding of the products is there,
    assert loss.item() != linear_cross_entropy(hidden, weight, target).item()  # and it is visible


def test_a_loss_scale_lifts_gradients_that_float16_cannot_hold():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4000, 16, generator=generator).half().requires_grad_()
    weight = (0.01 * torch.randn(300, 16, generator=generator)).half()
    target = torch.randint(300, (4000,), generator=generator)
    exact = hidden.detach().double().requires_grad_()
    (found,) = torch.autograd.grad(2**14 * linear_cross_entropy(hidden, weight, target), hidden)
    (right,) = torch.autograd.grad(2**14 * F.cross_entropy(exact @ weight.double().T, target), exact)
    assert found.dtype == torch.float16
    assert (found - right).norm() < 1e-3 * right.norm()  # rounded once


def test_without_gradients_none_is_computed(monkeypatch):
    given = []

    def spy(*arguments, original=logsumexp.chunked):
        given.append(arguments[4])
        return original(*arguments)

    monkeypatch.setenv("LABKIT_KERNELS", "chunked")
    monkeypatch.setattr(logsumexp, "chunked", spy)
    hidden, weight, bias = (torch.ones(shape, requires_grad=True) for shape in ((3, 2), (5, 2), (5,)))
    target = torch.tensor([1, -100, 4])
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            linear_cross_entropy(hidden, weight, target, bias)
    assert given == [None, None]
    assert linear_cross_entropy(hidden, weight, target, bias).requires_grad
    assert given[2] is not None


def test_the_logits_are_not_stored():
    """No tensor comes near the size of the logits of 1,000 positions and 4,000 classes."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1000, 8, generator=generator).requires_grad_()
    weight = torch.randn(4000, 8, generator=generator).requires_grad_()
    target = torch.randint(4000, (1000,), generator=generator)

    def largest(run):
        with torch.profiler.profile(profile_memory=True) as profile:
            run().backward()
        return max(event.cpu_memory_usage for event in profile.events())

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_KERNELS", "chunked")
        patch.setattr(logsumexp, "BLOCK_BYTES", 1 << 20)
        patch.setattr(logsumexp, "ROWS", 32)
        patch.setattr(logsumexp, "TILE", 1024)
        assert largest(lambda: linear_cross_entropy(hidden, weight, target)) < 1000 * 4000 * 4 / 10
        patch.setenv("LABKIT_KERNELS", "reference")
        assert largest(lambda: linear_cross_entropy(hidden, weight, target)) >= 1000 * 4000 * 4


@pytest.mark.parametrize("ascending", [False, True])
def test_top_k_of_many_items_whose_order_is_the_worst(ascending):
    """When every item is better than all before, every one is a candidate."""
    generator = torch.Generator().manual_seed(1)
    items = torch.randn(20_000, 1, generator=generator).sort(dim=0, descending=not ascending).values
    queries = torch.tensor([[1.0], [-1.0], [0.5]])
    scores, ids = top_k(queries, items, 30)
    expected = (queries @ items.T).topk(30, dim=1)
    assert torch.equal(scores, expected.values)
    assert torch.equal(ids, expected.indices)


def test_top_k_does_not_depend_on_the_chunk_or_on_faiss(monkeypatch):
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(2)
    # Whole numbers up to 9: products are exact, few are equal.
    queries = torch.randint(-9, 10, (64, 24), generator=generator).float()
    items = torch.randint(-9, 10, (5000, 24), generator=generator).float()
    scores, ids = (queries @ items.T).sort(dim=1, descending=True, stable=True)
    for name in ("faiss", "chunked", "reference"):
        monkeypatch.setenv("LABKIT_KERNELS", name)
        found, places = top_k(queries, items, 50)
        assert torch.equal(found, scores[:, :50])
        assert torch.equal(places, ids[:, :50])
    assert torch.equal(top_k(queries, items, 50, chunk=333)[1], ids[:, :50])


def test_chosen_says_what_runs_and_why(monkeypatch):
    monkeypatch.delenv("LABKIT_KERNELS")
    said = {choice.kernel: choice for choice in chosen("cpu")}
    assert set(said) == {"linear_cross_entropy", "top_k", "attention_pool", "embedding_bag"}
    assert said["linear_cross_entropy"].implementation == "chunked"
    assert said["linear_cross_entropy"].run is logsumexp.chunked
    assert str(said["embedding_bag"]) == (
        "embedding_bag on cpu: chunked, because Triton compiles for CUDA, not for cpu"
    )
    assert {choice.implementation for choice in chosen("cuda")} == {"triton"}
    monkeypatch.setattr(dispatch, "_installed", lambda package: False)
    assert {(choice.implementation, choice.why) for choice in chosen("cuda")} == {
        ("chunked", "triton is not installed")
    }
    assert {choice.implementation for choice in chosen("cpu")} == {"chunked"}
    monkeypatch.undo()
    monkeypatch.delenv("LABKIT_KERNELS")
    wide = dispatch.choose("top_k", torch.device("cuda"), torch.bfloat16, 1024)
    assert wide.implementation == "chunked"
    assert "up to 256 wide, not 1024" in wide.why
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, implementation in (((7, 5), "chunked"), ((8, 0), "triton"), ((9, 0), "triton")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda card, own=capability: own)
        assert {choice.implementation for choice in chosen("cuda")} == {implementation}
    monkeypatch.setenv("LABKIT_KERNELS", "reference")
    assert {(choice.implementation, choice.why) for choice in chosen("cuda")} == {
        ("reference", "LABKIT_KERNELS=reference")
    }
    monkeypatch.setenv("LABKIT_KERNELS", "fastest")
    with pytest.raises(ValueError, match="'fastest'; it can be one of reference, chunked"):
        chosen("cpu")
    monkeypatch.setenv("LABKIT_KERNELS", "triton")
    with pytest.raises(ValueError, match="TRITON_INTERPRET"):
        chosen("cpu")


def test_triton_is_imported_only_where_it_runs():
    if "triton" not in sys.modules:  # other tests of this process may have needed it
        linear_cross_entropy(torch.ones(2, 3), torch.ones(4, 3), torch.tensor([0, 1]))
        assert "triton" not in sys.modules


HIDDEN, WEIGHT, TARGET = torch.ones(3, 2), torch.ones(5, 2), torch.tensor([0, 4, 2])
OFFSETS = torch.tensor([0, 1, 3])
loss = linear_cross_entropy


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss(HIDDEN, WEIGHT.T, TARGET), r"hidden \(N, D\).*not \(3, 2\), \(2, 5\)"),
        (lambda: loss(HIDDEN, WEIGHT, TARGET[:2]), r"target \(N,\).*\(2,\)"),
        (lambda: loss(HIDDEN[:0], WEIGHT, TARGET[:0]), "empty batch"),
        (lambda: loss(HIDDEN, WEIGHT, TARGET + 2), "target of position 1 is 6, but the 5 classes"),
        (lambda: loss(HIDDEN, WEIGHT, TARGET - 1), "target of position 0 is -1"),
        (lambda: loss(HIDDEN, WEIGHT, TARGET * 0 - 100), "All 3 positions have the target -100"),
        (lambda: loss(HIDDEN, WEIGHT, TARGET.float()), r"int64 target.*torch\.float32"),
        (lambda: loss(HIDDEN, WEIGHT, TARGET, torch.ones(4)), r"bias needs .*\(5,\), not \(4,\)"),
        (lambda: loss(HIDDEN, WEIGHT, TARGET, smoothing=1.5), "smoothing in 0..1"),
        (lambda: loss(HIDDEN, WEIGHT, TARGET, reduction="max"), "'max'"),
        (lambda: top_k(HIDDEN, WEIGHT.T, 1), r"items \(N, D\), not \(3, 2\) and \(2, 5\)"),
        (lambda: top_k(HIDDEN, WEIGHT.double(), 1), r"one dtype.*torch\.float64"),
        (lambda: top_k(HIDDEN, WEIGHT, 0), "at least 1, not 0"),
        (lambda: attention_pool(HIDDEN, OFFSETS, torch.ones(3)), r"query \(D,\), not \(3, 2\) and \(3,\)"),
        (lambda: attention_pool(HIDDEN, OFFSETS, torch.ones(2).half()), "one dtype"),
        (lambda: attention_pool(HIDDEN, OFFSETS[:1], torch.ones(2)), "at least one"),
        (lambda: attention_pool(HIDDEN, OFFSETS + 1, torch.ones(2)), "from 0 to 3.*run from 1 to 4"),
        (lambda: attention_pool(HIDDEN, torch.tensor([0, 4, 3]), torch.ones(2)), "fall in between"),
        (lambda: embedding_bag(WEIGHT, TARGET + 1, OFFSETS), "ids from 1 to 5, but the table has .* 0..4"),
        (lambda: embedding_bag(WEIGHT, TARGET.int(), OFFSETS), "int64 ids"),
        (lambda: embedding_bag(WEIGHT, TARGET, OFFSETS, "max"), "sum or mean, not 'max'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_no_items_and_no_queries():
    assert top_k(torch.ones(2, 3), torch.ones(0, 3), 5)[1].shape == (2, 0)
    assert top_k(torch.ones(0, 3), torch.ones(4, 3), 2)[1].shape == (0, 2)
