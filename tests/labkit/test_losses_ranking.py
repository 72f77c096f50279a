"""Losses that rank: BPR, ListNet, LambdaLoss, DPO; against loops written from the papers, in float64."""

import math
import random

import pytest
import torch
from loss_cases import draw, same
from torch.nn import functional as F

from labkit.train.losses import (
    bpr,
    bpr_gradient,
    dpo,
    dpo_gradient,
    lambda_loss,
    lambda_loss_gradient,
    list_net,
    list_net_gradient,
    pairwise_logistic,
    sequence_log_probability,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("seed", range(4))
def test_bpr(seed):
    user, positive, negative = (draw(6, 3, seed=seed * 3 + i) for i in range(3))
    rows = []
    for u, p, n in zip(user.tolist(), positive.tolist(), negative.tolist(), strict=True):
        margin = sum(a * (b - c) for a, b, c in zip(u, p, n, strict=True))
        prior = sum(x * x for x in u + p + n)
        rows.append(-math.log(1 / (1 + math.exp(-margin))) + 0.3 / 2 * prior)
    loss = bpr(user, positive, negative, regularization=0.3)
    assert loss.item() == pytest.approx(sum(rows) / 6, rel=1e-12)
    same(bpr_gradient(user, positive, negative, 0.3), loss, user, positive, negative)
    assert torch.autograd.gradcheck(lambda *x: bpr(*x, regularization=0.3), (user, positive, negative))
    torch.testing.assert_close(
        bpr(user, positive, negative),
        pairwise_logistic((user * positive).sum(1), (user * negative).sum(1)),
    )


# Grades, scores and padding as plain lists, so that the references below share nothing with torch.
def ragged(seed, longest=7, lists=6):
    chance = random.Random(seed)
    made = []
    for number in range(lists):
        size = 0 if number == 1 else chance.randint(1, longest)
        grades = [2] * size if number == 2 else [chance.randint(0, 3) for _ in range(size)]
        # Scores from a coarse grid: ties are common.
        made.append(([chance.choice([-1.0, 0.0, 0.5, 2.0]) for _ in range(size)], grades))
    scores = torch.full((lists, longest), float("nan"), dtype=torch.float64)
    relevance = torch.full((lists, longest), 9)
    mask = torch.zeros(lists, longest, dtype=torch.bool)
    for row, (given, grades) in enumerate(made):
        places = sorted(chance.sample(range(longest), len(given)))  # padding in between, too
        for place, score, grade in zip(places, given, grades, strict=True):
            scores[row, place], relevance[row, place], mask[row, place] = score, grade, True
    return made, scores.requires_grad_(), relevance, mask


def list_net_by_hand(made):
    total, counted = 0.0, 0
    for scores, grades in made:
        if not scores:
            continue
        counted += 1
        p = [math.exp(s) / sum(map(math.exp, scores)) for s in scores]
        q = [math.exp(g) / sum(map(math.exp, grades)) for g in grades]
        total -= sum(b * math.log(a) for a, b in zip(p, q, strict=True))
    return total / counted


def lambda_by_hand(made, weighting, sigma):
    """Equation by equation from the paper; loops over pairs."""
    total, counted = 0.0, 0
    for scores, grades in made:
        if not scores:
            continue
        counted += 1
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
        rank = {document: place for place, document in enumerate(order, 1)}
        best = sum((2**g - 1) / math.log2(1 + r) for r, g in enumerate(sorted(grades, reverse=True), 1))
        for i in range(len(scores)):
            for j in range(len(scores)):
                if grades[i] <= grades[j]:
                    continue
                gains = abs(2 ** grades[i] - 2 ** grades[j]) / best
                if weighting == "lambdarank":
                    weight = abs(1 / math.log2(1 + rank[i]) - 1 / math.log2(1 + rank[j]))
                else:
                    apart = abs(rank[i] - rank[j])
                    weight = 1 / math.log2(1 + apart) - 1 / math.log2(2 + apart)
                chance = 1 / (1 + math.exp(-sigma * (scores[i] - scores[j])))
                total -= gains * weight * math.log2(chance)
    return total / counted


@pytest.mark.parametrize("seed", range(6))
def test_list_net(seed):
    made, scores, relevance, mask = ragged(seed)
    loss = list_net(scores, relevance, mask)
    assert loss.item() == pytest.approx(list_net_by_hand(made), rel=1e-12)
    same(list_net_gradient(scores, relevance, mask), loss, scores)
    real = scores.detach()[mask].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: list_net(torch.zeros_like(scores).masked_scatter(mask, x), relevance, mask), (real,)
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weighting", ["ndcg2", "lambdarank"])
@pytest.mark.parametrize("sigma", [1.0, 0.5])
def test_lambda_loss(seed, weighting, sigma):
    made, scores, relevance, mask = ragged(seed)
    loss = lambda_loss(scores, relevance, mask, weighting, sigma)
    assert loss.item() == pytest.approx(lambda_by_hand(made, weighting, sigma), rel=1e-12)
    same(lambda_loss_gradient(scores, relevance, mask, weighting, sigma), loss, scores)


def test_lambda_loss_by_finite_differences():
    scores = draw(2, 5, seed=3)  # no ties, so that a small step leaves the ranks as they are
    relevance = torch.tensor([[0, 3, 1, 1, 2], [1, 0, 0, 2, 2]])
    for weighting in ("ndcg2", "lambdarank"):
        assert torch.autograd.gradcheck(lambda x, w=weighting: lambda_loss(x, relevance, None, w), (scores,))


def test_lambdarank_weights_are_what_a_swap_changes_ndcg_by():
    scores, grades = [3.0, 2.0, 1.0, 0.0], [0, 2, 3, 1]

    def ndcg(order):
        def dcg(values):
            return sum((2**g - 1) / math.log2(1 + r) for r, g in enumerate(values, 1))

        return dcg([grades[i] for i in order]) / dcg(sorted(grades, reverse=True))

    # The loss of a list is linear in the pairs' weights; a pair alone is a list whose other grades are equal.
    expected = 0.0
    for i in range(4):
        for j in range(4):
            if grades[i] > grades[j]:
                swapped = [j if x == i else i if x == j else x for x in range(4)]
                expected += abs(ndcg(swapped) - ndcg(range(4))) * math.log2(
                    1 + math.exp(scores[j] - scores[i])
                )
    loss = lambda_loss(
        torch.tensor([scores], dtype=torch.float64), torch.tensor([grades]), None, "lambdarank"
    )
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_a_ranking_with_equal_grades_or_padding_asks_for_nothing():
    scores = draw(2, 3)
    mask = torch.tensor([[True, True, True], [False, False, False]])
    loss = lambda_loss(scores, torch.tensor([[1, 1, 1], [3, 0, 0]]), mask)
    assert loss.item() == 0.0
    assert torch.autograd.grad(loss, scores)[0].abs().sum() == 0


@pytest.mark.parametrize("loss", [list_net, lambda_loss, lambda x, g: lambda_loss(x, g, None, "lambdarank")])
def test_listwise_losses_survive_scores_of_ten_thousand(loss):
    scores = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = loss(scores, torch.tensor([[0, 3, 1]]))
    value.backward()
    assert 1e3 < value.item() < float("inf")
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[0, 1] < 0 < scores.grad[0, 0]


def test_listwise_errors():
    scores, grades = torch.zeros(2, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match="same shape"):
        list_net(scores, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="No query of the batch has a document"):
        lambda_loss(scores, grades, torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="The grades hold 1 NaN"):
        list_net(scores, torch.tensor([[0, 1, float("nan")], [0, 0, 0]]))
    with pytest.raises(ValueError, match="0 or more"):
        lambda_loss(scores, grades - 1)
    with pytest.raises(ValueError, match="'ndcg2' or 'lambdarank'"):
        lambda_loss(scores, grades, weighting="ndcg")
    with pytest.raises(ValueError, match="a row for each query"):
        list_net(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match="empty"):
        bpr(torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0, 4))


@pytest.mark.parametrize("seed", range(4))
def test_dpo(seed):
    chosen, rejected, old_chosen, old_rejected = (draw(5, seed=seed * 4 + i, scale=8) for i in range(4))
    loss = dpo(chosen, rejected, old_chosen, old_rejected, beta=0.2)
    rewards = [
        0.2 * ((a - c) - (b - d))
        for a, b, c, d in zip(
            *(x.tolist() for x in (chosen, rejected, old_chosen, old_rejected)), strict=True
        )
    ]
    assert loss.item() == pytest.approx(
        sum(-math.log(1 / (1 + math.exp(-r))) for r in rewards) / 5, rel=1e-10
    )
    same(dpo_gradient(chosen, rejected, old_chosen, old_rejected, 0.2), loss, chosen, rejected)
    frozen = old_chosen.detach(), old_rejected.detach()
    assert torch.autograd.gradcheck(lambda a, b: dpo(a, b, *frozen, beta=0.2), (chosen, rejected))
    assert not any(
        torch.autograd.grad(dpo(chosen, rejected, old_chosen, old_rejected), old_chosen, allow_unused=True)
    )


def test_dpo_reaches_the_policy_that_the_theory_gives():
    """Two answers, preferred 80:20. The optimum has reward difference log(80/20), so the policy's odds are
    the reference's odds times 4 ** (1 / beta)."""
    beta, reference = 0.5, torch.tensor([0.3, 0.7], dtype=torch.float64).log()
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15)

    def closure():
        optimizer.zero_grad()
        policy = logits.log_softmax(0)
        a, b = torch.tensor([0] * 8 + [1] * 2), torch.tensor([1] * 8 + [0] * 2)
        loss = dpo(policy[a], policy[b], reference[a], reference[b], beta)
        loss.backward()
        return loss

    optimizer.step(closure)
    odds = (logits[0] - logits[1]).exp().item()
    assert odds == pytest.approx(0.3 / 0.7 * 4 ** (1 / beta), rel=1e-5)


def test_dpo_is_finite_at_ten_thousand():
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = dpo(far, torch.zeros(2), torch.zeros(2), torch.zeros(2), beta=1.0)
    loss.backward()
    assert loss.item() == 5e3
    torch.testing.assert_close(far.grad, torch.tensor([-0.5, 0.0]))


def test_sequence_log_probability():
    logits, mask = (
        draw(3, 4, 6, seed=1, scale=3),
        torch.tensor([[False, True, True, False], [True, True, True, True], [False] * 4]),
    )
    tokens = torch.tensor([[0, 5, 2, -100], [1, 1, 4, 3], [-1, -1, -1, -1]])  # padding may be anything
    expected = []
    for row in range(3):
        total = 0.0
        for t in range(4):
            if mask[row, t]:
                values = logits[row, t].tolist()
                total += values[tokens[row, t]] - math.log(sum(map(math.exp, values)))
        expected.append(total)
    found = sequence_log_probability(logits, tokens, mask)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert found[2] == 0
    with pytest.raises(ValueError, match="The tokens must lie in 0 to 5; found 0 to 6"):
        sequence_log_probability(logits, tokens.clamp(min=0) + (tokens == 5), mask)
    with pytest.raises(ValueError, match="tokens and mask"):
        sequence_log_probability(logits, tokens[:2], mask)


def test_sequence_log_probability_equals_a_causal_language_models_loss():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=20, n_positions=12)
    ).eval()
    ids = torch.randint(0, 20, (1, 9))
    labels = ids.clone()
    labels[:, :4] = -100  # the prompt
    with torch.no_grad():
        found = model(input_ids=ids, labels=labels)
    ours = sequence_log_probability(found.logits[:, :-1], ids[:, 1:], labels[:, 1:] != -100)
    assert ours.item() == pytest.approx(-found.loss.item() * 5, rel=1e-5)


def test_preference_errors():
    one, two = torch.zeros(1), torch.zeros(2)
    with pytest.raises(ValueError, match="same shape"):
        dpo(one, two, one, one)
    with pytest.raises(ValueError, match="beta"):
        dpo(one, one, one, one, beta=0)
    with pytest.raises(ValueError, match="empty"):
        dpo(*[torch.zeros(0)] * 4)


def test_grades_are_not_rounded_to_the_format_of_the_scores():
    """257 and 256 are the same number in bf16."""
    scores, grades = torch.tensor([[0.5, 2.0]]), torch.tensor([[257.0, 256.0]])
    assert torch.equal(list_net(scores.bfloat16(), grades), list_net(scores, grades))
    assert torch.equal(list_net_gradient(scores.bfloat16(), grades), list_net_gradient(scores, grades))


def test_bpr_is_finite_at_ten_thousand():
    user = torch.full((1, 1), 1e2, requires_grad=True)
    loss = bpr(user, torch.full((1, 1), -1e2), torch.zeros(1, 1))
    loss.backward()
    assert loss.item() == 1e4
    assert user.grad.item() == 1e2
    assert (
        F.softplus(torch.tensor(-1e4)).item() == bpr(user, torch.full((1, 1), 1e2), torch.zeros(1, 1)).item()
    )
