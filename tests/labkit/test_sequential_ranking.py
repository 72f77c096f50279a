"""Full ranking against brute force; the sample's ranks against the hypergeometric distribution."""

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from labkit.evaluate import Ranks, full_ranks, nDCG, sampled_ranks
from labkit.evaluate.rankings import evaluate_ranked


def draw(users=40, items=25, width=3, seed=0):
    """Small whole numbers, so that many scores are equal and float arithmetic is exact."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randint(-2, 3, (users, width), generator=generator).float()
    vectors = torch.randint(-2, 3, (items, width), generator=generator).float()
    targets = torch.randint(items, (users,), generator=generator)
    seen = [torch.randperm(items, generator=generator)[: u % 9] for u in range(users)]
    offsets = torch.tensor([0, *np.cumsum([len(s) for s in seen])])
    return states, vectors, targets, seen, (torch.cat(seen), offsets)


def brute(states, vectors, targets, seen, bias=None):
    """Sort everybody's items; the right one is the last among equals."""
    ranks = []
    for state, target, gone in zip(states.tolist(), targets.tolist(), seen, strict=True):
        left = [j for j in range(len(vectors)) if j == target or j not in gone]
        score = {j: sum(a * b for a, b in zip(state, vectors[j].tolist(), strict=True)) for j in left}
        if bias is not None:
            score = {j: s + float(bias[j]) for j, s in score.items()}
        ranks.append(sorted(left, key=lambda j: (-score[j], j == target)).index(target) + 1)
    return ranks


@pytest.mark.parametrize("chunk", [1, 7, 40, 1000])
def test_full_ranks_are_those_of_a_sort(chunk):
    states, vectors, targets, seen, flat = draw()
    bias = torch.arange(25.0).remainder(3)
    nobody = [[]] * len(states)
    assert full_ranks(states, vectors, targets, chunk=chunk).ranks.tolist() == brute(
        states, vectors, targets, nobody
    )
    assert full_ranks(states, vectors, targets, flat, chunk=chunk).ranks.tolist() == brute(
        states, vectors, targets, [s.tolist() for s in seen]
    )
    assert full_ranks(states, vectors, targets, flat, bias, chunk).ranks.tolist() == brute(
        states, vectors, targets, [s.tolist() for s in seen], bias
    )
    assert any(t in s.tolist() for t, s in zip(targets.tolist(), seen, strict=True)), "a target was seen"


def test_a_model_that_cannot_tell_items_apart_is_last():
    ranks = full_ranks(torch.ones(3, 2), torch.ones(9, 2), torch.tensor([0, 4, 8]))
    assert ranks.ranks.tolist() == [9, 9, 9]


def test_measures_agree_with_those_of_judged_search():
    states, vectors, targets, *_ = draw(seed=3)
    ranks = full_ranks(states, vectors, targets)
    ids = np.full((len(targets), 25), -1)
    for user, (rank, target) in enumerate(zip(ranks.ranks.tolist(), targets.tolist(), strict=True)):
        ids[user, rank - 1] = target
    qrels = {user: {target: 1} for user, target in enumerate(targets.tolist())}
    expected = evaluate_ranked([nDCG @ 10], ids, qrels)[nDCG @ 10]
    np.testing.assert_allclose(ranks.per_user(10)[1], expected, rtol=1e-12)
    assert ranks.ndcg(10) == pytest.approx(expected.mean())
    assert ranks.hit_rate(10) == ranks.recall(10) == pytest.approx((expected > 0).mean())
    assert Ranks(torch.tensor([1, 4])).mrr() == 0.625


def test_sampled_ranks_follow_the_hypergeometric_distribution():
    """A right item of full rank r: the drawn ones above it are hypergeometric, whatever the model is."""
    users, items, negatives, rank = 4000, 60, 10, 16
    scores = torch.arange(items, 0, -1.0)[:, None]  # item j has rank j + 1
    found = sampled_ranks(
        torch.ones(users, 1), scores, torch.full((users,), rank - 1), negatives, seed=1, chunk=333
    ).ranks
    above = hypergeom(items - 1, rank - 1, negatives)
    for sampled in range(1, 8):
        expected = above.pmf(sampled - 1)
        share = float((found == sampled).double().mean())
        assert abs(share - expected) < 4.5 * (expected * (1 - expected) / users) ** 0.5
    # This is what misleads: rank 16 of 60 is a miss at 10, and a hit among 11 nearly always.
    assert full_ranks(torch.ones(1, 1), scores, torch.tensor([rank - 1])).hit_rate(10) == 0.0
    assert float((found <= 10).double().mean()) > 0.99


def test_sampled_negatives_are_neither_seen_nor_the_right_item():
    users, items = 200, 12
    seen = torch.arange(5).repeat(users), torch.arange(0, 5 * users + 1, 5)  # items 0 to 4
    scores = torch.arange(items, 0, -1.0)[:, None]  # the seen ones are the best
    ranks = sampled_ranks(torch.ones(users, 1), scores, torch.full((users,), 5), 6, seen).ranks
    assert ranks.tolist() == [1] * users
    with pytest.raises(ValueError, match="fewer than 7 negatives"):
        sampled_ranks(torch.ones(users, 1), scores, torch.full((users,), 5), 7, seen)


def test_sampled_negatives_by_popularity():
    users = 6000
    scores = torch.tensor([[2.0], [1.0], [3.0], [0.0]])  # item 2 alone is better than the right one, 0
    popularity = torch.tensor([5.0, 1.0, 6.0, 3.0])
    ranks = sampled_ranks(
        torch.ones(users, 1), scores, torch.zeros(users, dtype=torch.int64), 1, popularity=popularity
    ).ranks
    assert abs(float((ranks == 2).double().mean()) - 0.6) < 4.5 * (0.24 / users) ** 0.5


def test_the_seed_decides_the_sample_and_the_callers_numbers_are_left_alone():
    states, vectors, targets, *_ = draw()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = sampled_ranks(states, vectors, targets, 5, seed=4).ranks
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(first, sampled_ranks(states, vectors, targets, 5, seed=4).ranks)
    assert not torch.equal(first, sampled_ranks(states, vectors, targets, 5, seed=5).ranks)


def test_wrong_input_is_refused():
    states, vectors, targets, *_ = draw()
    with pytest.raises(ValueError, match="NaN"):
        full_ranks(torch.full_like(states, torch.nan), vectors, targets)
    with pytest.raises(ValueError, match="give one each"):
        full_ranks(states, vectors, targets[1:])
    with pytest.raises(ValueError, match="target is not among"):
        full_ranks(states, vectors, targets + 25)
    with pytest.raises(ValueError, match="Seen items of 1 users"):
        full_ranks(states, vectors, targets, (torch.tensor([1]), torch.tensor([0, 1])))
