"""Every loss: its value against an independent one, its written gradient against autograd in float64."""

import pytest
import torch
from torch.nn import functional as F

from labkit.train import (
    bce,
    bce_gradient,
    bpr,
    info_nce,
    info_nce_gradient,
    margin_mse,
    margin_mse_gradient,
    pairwise_logistic,
    pairwise_logistic_gradient,
)


def draw(*shapes, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for shape in shapes
    ]


def same(written, loss, inputs):
    automatic = torch.autograd.grad(loss, inputs)
    for ours, theirs in zip(written, automatic, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("with_negatives", [False, True])
@pytest.mark.parametrize("masked", [None, "batch", "all"])
def test_info_nce(seed, with_negatives, masked):
    size, extra = 7, 4 if with_negatives else 0
    query, doc = draw((size, 5), (size, 5), seed=seed)
    negatives = draw((extra, 5), seed=seed + 100)[0] if with_negatives else None
    mask = None
    if masked:
        columns = size if masked == "batch" else size + extra
        mask = torch.rand(size, columns, generator=torch.Generator().manual_seed(seed)) < 0.3
        mask.fill_diagonal_(True)  # the diagonal must be ignored
    loss = info_nce(query, doc, 0.3, mask, negatives)

    total = 0.0
    documents = doc if negatives is None else torch.cat([doc, negatives])
    for i in range(size):
        left = [
            j
            for j in range(len(documents))
            if j == i or mask is None or j >= mask.shape[1] or not mask[i, j].item()
        ]
        scores = torch.stack([query[i] @ documents[j] / 0.3 for j in left])
        total = total + scores.logsumexp(0) - query[i] @ doc[i] / 0.3
    torch.testing.assert_close(loss, total / size)

    inputs = [query, doc] + ([negatives] if with_negatives else [])
    with torch.no_grad():
        written = [g for g in info_nce_gradient(query, doc, 0.3, mask, negatives) if g is not None]
    same(written, loss, inputs)
    assert torch.autograd.gradcheck(
        lambda *x: info_nce(x[0], x[1], 0.3, mask, x[2] if extra else None), inputs
    )


def test_info_nce_equals_sentence_transformers_formula():
    query, doc = draw((6, 8), (6, 8))
    cosine = F.normalize(query, dim=1) @ F.normalize(doc, dim=1).T * 20.0
    ours = info_nce(F.normalize(query, dim=1), F.normalize(doc, dim=1), temperature=1 / 20)
    torch.testing.assert_close(ours, F.cross_entropy(cosine, torch.arange(6)))


def test_a_masked_positive_gets_no_gradient_and_the_mask_is_left_as_it_was():
    query, doc = draw((3, 4), (3, 4))
    mask = torch.ones(3, 3, dtype=torch.bool)
    assert info_nce(query, doc, 0.1, mask).item() == 0.0  # nothing is left but the own document
    assert mask.all()


def test_scores_keep_their_precision_under_autocast():
    query, doc, more = (F.normalize(x.detach().float(), dim=1) for x in draw((6, 8), (6, 8), (3, 8)))
    expected = info_nce(query, doc, 0.05, negatives=more)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(query, doc, 0.05, negatives=more), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_16_bit_scores_are_those_of_the_same_scores_in_float32(dtype):
    """300 squared is beyond float16, and bfloat16 has three digits."""
    high, low = (torch.tensor(scores, dtype=dtype) for scores in ([300.0, 1.2, 0.1], [0.0, 1.1, 2.3]))
    rows = torch.stack([high, low])
    for loss, inputs in (
        (bce, (high, torch.tensor([0.0, 0.3, 1.0]))),
        (bpr, (rows, rows, -rows, 0.01)),
        (margin_mse, (high, low, low)),
        (pairwise_logistic, (low, high)),
    ):
        wide = [each.float() if isinstance(each, torch.Tensor) else each for each in inputs]
        assert torch.equal(loss(*inputs), loss(*wide)), loss.__name__


@pytest.mark.parametrize("seed", range(5))
def test_margin_mse(seed):
    positive, negative, teacher = draw((9,), (9,), (9,), seed=seed)
    loss = margin_mse(positive, negative, teacher.detach())
    torch.testing.assert_close(loss, F.mse_loss(positive - negative, teacher.detach()))
    same(
        margin_mse_gradient(positive.detach(), negative.detach(), teacher.detach()),
        loss,
        [positive, negative],
    )
    assert torch.autograd.gradcheck(margin_mse, (positive, negative, teacher.detach()))


@pytest.mark.parametrize("seed", range(5))
def test_bce(seed):
    (logits,) = draw((11,), seed=seed, scale=3)
    targets = torch.rand(11, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    loss = bce(logits, targets)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits, targets))
    same([bce_gradient(logits.detach(), targets)], loss, [logits])
    assert torch.autograd.gradcheck(bce, (logits, targets))


def test_bce_of_a_logit_of_exactly_0_has_the_slope_of_its_neighbours():
    logits = torch.zeros(3, requires_grad=True)
    targets = torch.tensor([0.0, 0.5, 1.0])
    same([bce_gradient(logits.detach(), targets)], bce(logits, targets), [logits])
    bce(logits, targets).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([0.5, 0.0, -0.5]) / 3)


def test_bce_is_finite_where_the_textbook_form_is_not():
    logits = torch.tensor([-1e4, 1e4], dtype=torch.float32, requires_grad=True)
    loss = bce(logits, torch.tensor([1.0, 0.0]))
    loss.backward()
    assert loss.item() == 1e4
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("seed", range(5))
def test_pairwise_logistic(seed):
    positive, negative = draw((9,), (9,), seed=seed, scale=2)
    loss = pairwise_logistic(positive, negative)
    torch.testing.assert_close(loss, bce(positive - negative, torch.ones(9, dtype=torch.float64)))
    same(pairwise_logistic_gradient(positive.detach(), negative.detach()), loss, [positive, negative])
    assert torch.autograd.gradcheck(pairwise_logistic, (positive, negative))


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="same shape"):
        bce(torch.zeros(4), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="one document per query"):
        info_nce(torch.zeros(4, 2), torch.zeros(5, 2))
    with pytest.raises(ValueError, match="mask of positives"):
        info_nce(torch.zeros(4, 2), torch.zeros(4, 2), positives=torch.zeros(4, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="temperature"):
        info_nce(torch.zeros(4, 2), torch.zeros(4, 2), temperature=0)


def test_empty_batches_and_values_that_mean_nothing_are_refused():
    empty, nan = torch.zeros(0), torch.tensor([float("nan")])
    for loss in (bce, pairwise_logistic):
        with pytest.raises(ValueError, match="empty"):
            loss(empty, empty)
    with pytest.raises(ValueError, match="empty"):
        info_nce(torch.zeros(0, 3), torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"must lie in 0 to 1; found 0\.0 to 2\.0"):
        bce(torch.zeros(2), torch.tensor([0.0, 2.0]))
    with pytest.raises(ValueError, match="must lie in 0 to 1"):
        bce(torch.zeros(1), nan)
    with pytest.raises(ValueError, match="The teacher's margins hold 1 NaN"):
        margin_mse(torch.zeros(1), torch.zeros(1), nan)
