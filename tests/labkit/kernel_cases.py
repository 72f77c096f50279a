"""What every implementation of a kernel must do, compared with float64 results of PyTorch and NumPy.

``test_kernels`` runs the cases in its own process with the plain and the chunked implementations, and
``test_kernels_triton`` in a child process whose Triton kernels are interpreted.
"""

import numpy as np
import torch
from torch.nn import functional as F

from labkit.kernels import attention_pool, embedding_bag, linear_cross_entropy, top_k

# Allowed error over the largest value: roundings of the dtype of the results, and for bf16 of the logits.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}


def close(found, expected, dtype, least=0.1):
    """The same non-finite numbers at the same places, and all others within the dtype's rounding.

    ``least`` is the size of what is added up: a loss near 0 is a difference of larger numbers.
    """
    found, expected = found.detach().double(), expected.detach().double()
    assert found.shape == expected.shape
    assert torch.equal(found.isfinite(), expected.isfinite())
    finite = expected.isfinite()
    scale = expected[finite].abs().max().item() if finite.any() else 0.0
    error = (found - expected)[finite].abs().max().item() if finite.any() else 0.0
    assert error <= TOLERANCE[dtype] * max(scale, least), f"error {error} where values reach {scale}"
    assert found[~finite].nan_to_num(3e38).equal(expected[~finite].nan_to_num(3e38))


def normal(generator, *shape, dtype):
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def gradients(loss, inputs):
    return torch.autograd.grad(loss, inputs, allow_unused=True)


def linear_cross_entropy_case(seed, dtype, positions, classes, width, reduction="mean"):
    generator = torch.Generator().manual_seed(seed)
    hidden = normal(generator, positions, width, dtype=dtype).requires_grad_()
    weight = normal(generator, classes, width, dtype=dtype).requires_grad_()
    bias = normal(generator, classes, dtype=dtype).requires_grad_() if seed % 2 else None
    correction = normal(generator, classes, dtype=dtype) if seed % 3 else None
    target = torch.randint(classes, (positions,), generator=generator)
    if positions > 1:
        target[torch.rand(positions, generator=generator) < 0.2] = -100
        target[0] = 0
    smoothing = 0.1 * (seed % 4)
    slope = torch.rand(positions, generator=generator, dtype=torch.float64)
    inputs = [each for each in (hidden, weight, bias) if each is not None]
    loss = linear_cross_entropy(
        hidden, weight, target, bias, 0.7, smoothing=smoothing, reduction=reduction, correction=correction
    )
    exact = [each.detach().double().requires_grad_() for each in inputs]
    logits = F.linear(*exact) * 0.7 + (0 if correction is None else correction.double())
    expected = F.cross_entropy(logits, target, label_smoothing=smoothing, reduction=reduction)
    close(loss, expected, dtype, least=2.0)
    if reduction == "none":
        loss, expected = (loss * slope.to(loss.dtype)).sum(), (expected * slope).sum()
    share = 1 / (target >= 0).sum().item() if reduction == "mean" else 1.0
    least = (
        3 * 0.7 * share * max(each.abs().max().item() for each in exact[:2])
    )  # target's and classes' pulls
    for found, right in zip(gradients(3 * loss, inputs), gradients(3 * expected, exact), strict=True):
        assert found.dtype == dtype
        close(found, right, dtype, least)


def linear_cross_entropy_extremes_case():
    """Logits too far apart for a single shift, an impossible class, and numbers that are none."""
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0], [300.0, -300.0]])
    weight = torch.zeros(50, 2)
    weight[40] = torch.tensor([200.0, -500.0])  # far above the first tile's maximum, or far below
    weight[41] = torch.tensor([-400.0, 150.0])
    target = torch.tensor([40, 3, 41])
    correction = torch.zeros(50)
    correction[:20] = -torch.inf
    for constants in (None, correction):
        inputs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        exact = [each.detach().double().requires_grad_() for each in inputs]
        right = target if constants is None else torch.tensor([40, 23, 41])
        found = linear_cross_entropy(*inputs, right, reduction="none", correction=constants)
        logits = exact[0] @ exact[1].T + (0 if constants is None else constants.double())
        expected = F.cross_entropy(logits, right, reduction="none")
        close(found, expected, torch.float32)
        for a, b in zip(gradients(found.sum(), inputs), gradients(expected.sum(), exact), strict=True):
            close(a, b, torch.float32)
    for bad in (float("nan"), float("inf")):
        broken = hidden.clone()
        broken[1, 0] = bad
        inputs = [broken.requires_grad_(), weight.clone().requires_grad_()]
        losses = linear_cross_entropy(*inputs, target, reduction="none")
        assert losses.isnan().tolist() == [False, True, False]
        by_hidden, by_weight = gradients(losses.sum(), inputs)
        assert by_hidden.isnan().any(dim=1).tolist() == [False, True, False]
        assert by_weight[:, 0].isnan().all()
    inputs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    for reduction in ("sum", "none"):  # every position left out
        loss = linear_cross_entropy(*inputs, torch.full((3,), -100), reduction=reduction).sum()
        assert [loss.item(), *(each.abs().sum().item() for each in gradients(loss, inputs))] == [0, 0, 0]
    weight[7, 1] = float("nan")
    assert linear_cross_entropy(hidden, weight, target, reduction="none").isnan().all()


def top_k_case(seed, dtype, count, size, width, k, bad=True):
    """Small whole numbers: products are exact, and ties are everywhere."""
    generator = np.random.default_rng(seed)
    queries = torch.from_numpy(generator.integers(-2, 3, (count, width))).to(dtype)
    items = torch.from_numpy(generator.integers(-2, 3, (size, width))).to(dtype)
    if bad and seed % 3:
        rows = torch.from_numpy(generator.integers(0, size, 3))
        items[rows, 0] = [float("nan"), float("inf"), -float("inf")][seed % 3]
        if seed % 5 == 0:
            queries[0, 0] = float("nan")
    with np.errstate(invalid="ignore"):
        exact = queries.double().numpy() @ items.double().numpy().T
    # Last key first: NaN last, then by score, then by id.
    ids = np.broadcast_to(np.arange(size), exact.shape)
    order = np.lexsort((ids, -np.nan_to_num(exact, nan=0.0, posinf=np.inf, neginf=-np.inf), np.isnan(exact)))
    order = order[:, :k]
    scores, found = top_k(queries, items, k)
    assert scores.dtype == dtype
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), order)
    np.testing.assert_array_equal(scores.double().numpy(), np.take_along_axis(exact, order, axis=1))


def ragged(generator, sequences, longest):
    lengths = torch.randint(0, longest + 1, (sequences,), generator=generator)
    lengths[torch.rand(sequences, generator=generator) < 0.2] = 0
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def attention_pool_case(seed, dtype, sequences, longest, width):
    generator = torch.Generator().manual_seed(seed)
    offsets = ragged(generator, sequences, longest)
    values = normal(generator, int(offsets[-1]), width, dtype=dtype).requires_grad_()
    query = normal(generator, width, dtype=dtype).requires_grad_()
    slope = normal(generator, sequences, width, dtype=torch.float64)
    pooled = attention_pool(values, offsets if seed % 2 else offsets.int(), query)
    exact = values.detach().double().requires_grad_(), query.detach().double().requires_grad_()
    expected = [
        F.scaled_dot_product_attention(exact[1][None], rows, rows)[0] if len(rows) else rows.sum(dim=0)
        for rows in exact[0].split(offsets.diff().tolist())
    ]
    close(pooled, torch.stack(expected), dtype)
    found = gradients((pooled.double() * slope).sum(), (values, query))
    right = gradients((torch.stack(expected) * slope).sum(), exact)
    for a, b in zip(found, right, strict=True):
        close(a, torch.zeros_like(a) if b is None else b, dtype)


def attention_pool_extremes_case():
    """A NaN or an infinity stays in its own sequence; scores far apart do not overflow."""
    offsets = torch.tensor([0, 2, 2, 4])
    query = torch.tensor([1.0, 2.0])
    for bad in (float("nan"), float("inf"), -float("inf")):
        values = torch.tensor([[1.0, 2.0], [3.0, bad], [500.0, 0.0], [-500.0, 1.0]], requires_grad=True)
        pooled = attention_pool(values, offsets, query)
        assert pooled.isnan().any(dim=1).tolist() == [True, False, False]
        assert pooled[1].tolist() == [0, 0]
        assert pooled[2].tolist() == [500, 0]
        (by_values,) = gradients(pooled.sum(), [values])
        assert by_values.isnan().any(dim=1).tolist() == [True, True, False, False]
    apart = torch.stack([offsets, torch.full_like(offsets, 99)], dim=1)[:, 0]  # not contiguous
    values = torch.arange(8.0).view(4, 2)
    assert torch.equal(attention_pool(values, apart, query), attention_pool(values, offsets, query))


def embedding_bag_case(seed, dtype, bags, longest, rows, width, mode):
    generator = torch.Generator().manual_seed(seed)
    offsets = ragged(generator, bags, longest)
    # A few best-sellers, so that an id is in many bags and several times in one.
    ids = (torch.rand(int(offsets[-1]), generator=generator) ** 3 * rows).long()
    weight = normal(generator, rows, width, dtype=dtype).requires_grad_()
    slope = normal(generator, bags, width, dtype=torch.float64)
    found = embedding_bag(weight, ids, offsets, mode)
    exact = weight.detach().double().requires_grad_()
    expected = F.embedding_bag(ids, exact, offsets, mode=mode, include_last_offset=True)
    close(found, expected, dtype)
    (by_weight,) = gradients((found.double() * slope).sum(), [weight])
    (right,) = gradients((expected * slope).sum(), [exact])
    close(by_weight, right, dtype)


def embedding_bag_extremes_case():
    """A NaN or an infinity reaches the bags that hold it, and no other; the gradient repeats bit for bit."""
    weight = torch.tensor([[1.0], [float("nan")], [float("inf")], [-float("inf")]])
    offsets = torch.tensor([0, 1, 2, 3, 5, 5])
    sums = embedding_bag(weight, torch.tensor([0, 1, 2, 2, 3]), offsets)[:, 0]
    assert sums[[0, 2, 4]].tolist() == [1.0, float("inf"), 0.0]
    assert sums[[1, 3]].isnan().all()
    generator = torch.Generator().manual_seed(0)
    table = torch.zeros(3, 8, requires_grad=True)
    ids, offsets = torch.zeros(500, dtype=torch.int64), torch.arange(501)
    slope = torch.randn(500, 8, generator=generator)
    one, two = (gradients((embedding_bag(table, ids, offsets) * slope).sum(), [table])[0] for _ in range(2))
    assert torch.equal(one, two)
    columns = torch.tensor([[0, 1], [2, 1], [2, 1]])  # a column is not contiguous
    table = torch.tensor([[1.0], [20.0], [300.0]])
    assert embedding_bag(table, columns[:, 0], torch.tensor([0, 1, 3])).tolist() == [[1.0], [600.0]]
    offsets = torch.tensor([[0, 9], [1, 9], [3, 9]])[:, 0]
    assert embedding_bag(table, columns[:, 0].clone(), offsets).tolist() == [[1.0], [600.0]]
