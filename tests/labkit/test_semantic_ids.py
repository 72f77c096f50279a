"""Semantic IDs and generative retrieval against brute force: nearest codewords, all items, no cache."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from labkit.models import (
    RQVAE,
    GenerativeConfig,
    GenerativeRecommender,
    SemanticIds,
    Trie,
    beam_search,
    k_means,
    residual_k_means,
    unique_ids,
)
from labkit.models.semantic_ids import nearest
from labkit.text.packing import Packed, offsets_of, pack
from labkit.train import TrainConfig
from labkit.train.generative import fit_generative
from labkit.train.rq_vae import fit_rq_vae
from labkit.train.sequences import Histories

pytestmark = pytest.mark.usefixtures("one_thread")


def vectors(count=600, width=12, seed=0):
    """Clusters within clusters, as products within categories."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((6, width)) * 3
    fine = rng.standard_normal((6, 5, width))
    a, b = rng.integers(0, 6, count), rng.integers(0, 5, count)
    return torch.from_numpy(coarse[a] + fine[a, b] + 0.3 * rng.standard_normal((count, width)))


def brute_nearest(points, codebook):
    return ((points[:, None, :] - codebook[None, :, :]) ** 2).sum(-1).argmin(1)


def test_nearest_is_a_brute_force_search():
    points, codebook = vectors(), vectors(40, seed=1)
    np.testing.assert_array_equal(nearest(points, codebook, batch=97), brute_nearest(points, codebook))


def test_k_means_ends_where_every_codeword_is_the_mean_of_its_own():
    points = vectors()
    codebook = k_means(points, 20, iterations=200)
    codes = brute_nearest(points, codebook)
    for code in range(20):
        torch.testing.assert_close(codebook[code], points[codes == code].mean(0))


def test_k_means_finds_planted_clusters_and_uses_every_codeword():
    rng = np.random.default_rng(2)
    centres = torch.from_numpy(rng.standard_normal((15, 6)) * 20)
    points = centres.repeat_interleave(30, 0) + torch.from_numpy(rng.standard_normal((450, 6))) * 0.1
    found = k_means(points, 15, iterations=50, seed=3)
    assert torch.cdist(centres, found).min(1).values.max() < 0.2
    assert len(k_means(points[:4], 9)) == 9  # more codewords than points


def test_residual_codes_are_nearest_level_by_level_and_each_level_lowers_the_error():
    points = vectors()
    quantizer = residual_k_means(points, (8, 8, 8, 8))
    codes = quantizer.encode(points)
    residual, errors = points.numpy().copy(), [float(points.square().sum())]
    for level, codebook in enumerate(quantizer.codebooks):
        expected = brute_nearest(residual, codebook.numpy())
        np.testing.assert_array_equal(codes[:, level], expected)
        residual -= codebook.numpy()[expected]
        errors.append(float((residual**2).sum()))
        told = quantizer.decode(codes[:, : level + 1])
        assert float((points - told).square().sum()) == pytest.approx(errors[-1])
    assert (np.diff(errors) < 0).all()
    assert errors[-1] < 0.05 * errors[0]


def test_similar_items_share_their_first_code():
    rng = np.random.default_rng(4)
    group = torch.from_numpy(rng.integers(0, 6, 300))
    centres = torch.from_numpy(rng.standard_normal((6, 10)) * 10)
    points = centres[group] + torch.from_numpy(rng.standard_normal((300, 10)))
    first = residual_k_means(points, (6, 6), iterations=50).encode(points)[:, 0]
    assert ((first[:, None] == first) == (group[:, None] == group)).all()


def test_every_item_gets_an_id_of_its_own():
    rng = np.random.default_rng(5)
    codes = torch.from_numpy(rng.integers(0, 3, (500, 3)))  # 27 places for 500 items
    ids = unique_ids(codes, (3, 3, 3))
    assert len({tuple(row) for row in ids.codes.tolist()}) == 500
    assert torch.equal(ids.codes[:, :3], codes)
    counts = {}
    for row in ids.codes.tolist():
        assert row[3] == counts.get(tuple(row[:3]), 0)
        counts[tuple(row[:3])] = row[3] + 1
    assert ids.sizes == (3, 3, 3, max(counts.values()))
    # Items that come later change nobody's ID.
    assert torch.equal(unique_ids(codes[:200], (3, 3, 3)).codes, ids.codes[:200])


def test_rq_vae_gradient_is_straight_through_plus_commitment():
    """With nothing but the quantiser between input and output the gradient can be written down."""
    model = RQVAE(4, sizes=(5, 5), latent=4, hidden=(), commitment=0.3).double()
    model.encoder, model.decoder = nn.Identity(), nn.Identity()
    target = vectors(20, 4, seed=6)
    model.start(target)
    model.eval()
    z = target.clone().requires_grad_()
    model.encoder.forward = lambda x: z  # so that the input is a constant, as it is in training
    gradient = torch.autograd.grad(model(target), z)[0]
    model.encoder = nn.Identity()
    codes = model.encode(target)
    first = target - model.codebook0[codes[:, 0]]
    second = first - model.codebook1[codes[:, 1]]
    told = target - second
    # The reconstruction's share by z^, copied to z, and the commitment of each level.
    expected = 2 * (told - target) + 0.3 * 2 * (first + second)
    torch.testing.assert_close(gradient, expected / target.numel())


def test_codewords_move_as_averages_and_the_dead_are_revived():
    model = RQVAE(2, sizes=(3,), latent=2, hidden=(), decay=0.9).double()
    model.encoder, model.decoder = nn.Identity(), nn.Identity()
    points = torch.tensor([[1.0, 0.0], [1.2, 0.0], [-1.0, 0.0], [-1.0, 0.4]], dtype=torch.float64)
    model.codebook0.copy_(torch.tensor([[0.9, 0.0], [-0.9, 0.0], [50.0, 50.0]]))
    model.usage0.copy_(torch.tensor([4.0, 1.0, 0.0]))
    torch.manual_seed(0)
    model.train()(points)
    first = (0.9 * 4 * torch.tensor([0.9, 0]) + 0.1 * torch.tensor([2.2, 0])) / (0.9 * 4 + 0.1 * 2)
    second = (0.9 * torch.tensor([-0.9, 0]) + 0.1 * torch.tensor([-2, 0.4])) / (0.9 + 0.1 * 2)
    torch.testing.assert_close(model.codebook0[:2], torch.stack([first, second]).double())
    assert model.codebook0[2].tolist() in points.tolist()


def test_rq_vae_uses_its_codebook_where_a_collapsed_start_would_leave_it_dead():
    points = vectors(800).float()
    points = (points - points.mean(0)) / points.std()
    config = TrainConfig(epochs=60, batch_size=200, learning_rate=3e-3, weight_decay=0.0)
    model = RQVAE(12, sizes=(16, 16, 16), latent=6, hidden=(32,))
    start = model.start
    model.start = lambda *_: (start(points), [getattr(model, f"codebook{i}").fill_(0.01) for i in range(3)])
    fit_rq_vae(model, points, config, progress=False)
    codes = model.encode(points)
    assert all(len(codes[:, level].unique()) >= 14 for level in range(3))
    errors = [float((points - model.decode(codes[:, :n])).square().mean()) for n in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1 * float(points.square().mean())


def random_ids(count=60, seed=7):
    rng = np.random.default_rng(seed)
    return unique_ids(torch.from_numpy(rng.integers(0, [4, 5, 3], (count, 3))), (4, 5, 3))


def test_trie_knows_exactly_the_ids_that_exist():
    ids = random_ids()
    trie, rows = Trie(ids), [tuple(row) for row in ids.codes.tolist()]
    for code in itertools.product(*(range(size) for size in ids.sizes)):
        node = torch.tensor(0)
        for level, part in enumerate(code):
            node = trie.children(level, node)[part]
            exists = any(row[: level + 1] == code[: level + 1] for row in rows)
            assert (int(node) >= 0) == exists
        assert int(trie.items(node)) == (rows.index(code) if code in rows else -1)


def recommender(ids, seed=8, longest=6):
    """Random weights of a size that makes the probabilities far from even."""
    config = GenerativeConfig(width=16, layers=2, heads=2, feedforward=24, longest=longest, dropout=0.1)
    model = GenerativeRecommender(ids, config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5)
    return model


HISTORIES = [[3, 7, 7, 12], [59], [1, 2, 3, 4, 5, 6, 7, 8, 9], [20, 21]]


def all_scores(model, histories):
    """(B, N) by one plain pass for each item, which knows neither beams nor a cache."""
    columns = [
        model.log_probability(histories, torch.full((len(histories),), item))
        for item in range(len(model.ids))
    ]
    return torch.stack(columns, dim=1)


def test_full_width_search_with_a_cache_equals_scoring_every_item_without():
    model = recommender(random_ids())
    histories = pack(HISTORIES)
    expected, order = all_scores(model, histories).sort(dim=1, descending=True)
    scores, items = model.recommend(histories, k=60, beams=60)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(items, order)
    assert (expected.exp().sum(1) <= 1 + 1e-5).all()  # probability may leak to IDs that nobody has
    assert float(expected[:, 0].max() - expected[:, -1].min()) > 1  # the weights do say something


def test_log_probability_is_the_chain_rule_over_whole_sequences():
    """Packed, with the code appended by hand, through the transformer that the training uses."""
    model = recommender(random_ids()).eval()
    for history, item in zip(HISTORIES, (5, 50, 31, 0), strict=True):
        kept = history[-5:]
        whole = model.tokens(pack([[*kept, item]]), 6)
        chances = model.logits(model(whole)).log_softmax(-1)[:-1]
        each = chances.gather(1, whole.ids[1:, None])[-4:].sum()
        got = model.log_probability(pack([history]), torch.tensor([item]))
        torch.testing.assert_close(got[0], each, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("beams", [1, 3, 10])
def test_a_narrow_search_gives_true_scores_of_real_items_only(beams):
    model = recommender(random_ids())
    histories = pack(HISTORIES)
    scores, items = model.recommend(histories, k=beams, beams=beams)
    truth = all_scores(model, histories)
    for row in range(len(HISTORIES)):
        found = items[row][items[row] >= 0]
        assert len(found)
        assert len(found.unique()) == len(found)
        torch.testing.assert_close(scores[row, : len(found)], truth[row, found], atol=1e-4, rtol=1e-4)
    assert (scores.diff(dim=1) <= 0).all()


def test_no_invalid_id_comes_out_even_where_the_model_wants_one():
    """Codes that no item has get nearly all the probability; the search still gives items only."""
    ids = SemanticIds(torch.tensor([[0, 1], [2, 0], [2, 2]]), (3, 3))
    chances = torch.tensor([[1e-9, 1.0, 1e-9], [1.0, 1e-9, 1e-6]]).log()

    def step(level, codes, parents):
        return chances[level].expand(2, 1 if codes is None else codes.shape[1], 3)

    scores, items = beam_search(Trie(ids), step, batch=2, beams=8)
    assert items.tolist() == [[1, 2, 0]] * 2
    np.testing.assert_allclose(scores[0].exp(), [1e-9, 1e-15, 1e-18], rtol=1e-4)


def test_somebody_without_a_history_is_served_too():
    model = recommender(random_ids())
    histories = Packed(torch.tensor([4, 5]), offsets_of(torch.tensor([0, 2])), 2)
    _, items = model.recommend(histories, k=5, beams=60)
    alone = model.recommend(pack([[4, 5]]), k=5, beams=60)
    assert torch.equal(items[1], alone[1][0])
    assert (items >= 0).all()
    assert not torch.equal(items[0], items[1])


def test_training_learns_a_planted_chain():
    """What comes next is drawn from known odds after each item: as well as whoever knows them."""
    rng = np.random.default_rng(9)
    ids = random_ids(30, seed=10)
    after = rng.permuted(np.tile(np.arange(30), (30, 1)), axis=1)[:, :2]  # two that may follow each
    walks = []
    for _ in range(600):
        walk = [int(rng.integers(30))]
        for _ in range(5):
            walk.append(int(after[walk[-1], int(rng.random() > 0.8)]))  # the first one with 0.8
        walks.append(walk)
    histories = Histories.from_events(np.repeat(np.arange(600), 6), np.array(walks).ravel())
    model = GenerativeRecommender(
        ids, GenerativeConfig(width=32, layers=2, heads=2, feedforward=64, dropout=0.0, longest=6)
    )
    config = TrainConfig(epochs=45, batch_size=60, learning_rate=1e-2, weight_decay=0.0)
    losses = fit_generative(model, histories, config, progress=False).losses
    entropy = np.log(30) - 5 * (0.8 * np.log(0.8) + 0.2 * np.log(0.2))  # of a walk; it has 24 codes
    assert np.mean(losses[-10:]) == pytest.approx(entropy / 24, abs=0.02)
    tests = [[int(item)] for item in rng.integers(30, size=200)]
    scores, items = model.recommend(pack(tests), k=2, beams=30)
    right = after[np.array(tests)[:, 0]]
    assert (items.numpy() == right).all(axis=1).mean() > 0.95
    assert float(scores[:, 0].exp().mean()) == pytest.approx(0.8, abs=0.05)


def test_wrong_input_is_refused():
    model = recommender(random_ids())
    with pytest.raises(ValueError, match="at least as many beams"):
        model.recommend(pack([[1]]), k=5, beams=4)
    with pytest.raises(ValueError, match="not among the 60"):
        model.recommend(pack([[60]]), k=1)
    with pytest.raises(ValueError, match="share an ID"):
        SemanticIds(torch.tensor([[1, 1], [1, 1]]), (2, 2))
    with pytest.raises(ValueError, match="outside its level"):
        SemanticIds(torch.tensor([[1, 2], [1, 1]]), (2, 2))
    with pytest.raises(ValueError, match="vectors"):
        k_means(torch.zeros(0, 3), 2)
