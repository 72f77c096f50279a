"""Two towers: the logQ correction on a planted truth, items unseen in training, and the towers themselves."""

import numpy as np
import polars as pl
import pytest
import torch

from labkit.models import TwoTower
from labkit.text.packing import Packed, offsets_of, pack, unpack
from labkit.train import TrainConfig
from labkit.train.sequences import Histories
from labkit.train.two_tower import fit_two_tower, read_before

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def planted():
    """30,000 users of eight kinds choose one of 30 items each, with odds that are known."""
    rng = np.random.default_rng(0)
    taste, popularity = rng.standard_normal((8, 30)), np.linspace(2.5, -1.0, 30)
    odds = np.exp(taste + popularity)
    truth = odds / odds.sum(1, keepdims=True)  # (8, 30)
    kind = rng.integers(0, 8, 30_000)
    chosen = (rng.random((len(kind), 1)) < truth[kind].cumsum(1)).argmax(1)
    return kind, chosen, truth


@pytest.mark.parametrize("corrected", [True, False])
def test_scores_are_log_odds_with_the_correction_and_lose_the_popularity_without(planted, corrected):
    """The slope of score - log p over log popularity: 0 where scores are log p, -1 where it was taken out."""
    kind, chosen, truth = planted
    users = torch.eye(8)[torch.from_numpy(kind)]
    histories = Histories.from_events(np.arange(len(kind)), chosen)
    model = TwoTower(items=30, user_features=8, width=16, hidden=32)
    config = TrainConfig(epochs=8, batch_size=512, learning_rate=0.01, weight_decay=0.0, precision="fp32")
    fit_two_tower(model, histories, users, config, corrected=corrected, progress=False)
    nothing = Packed(torch.zeros(0, dtype=torch.int64), offsets_of(torch.zeros(8, dtype=torch.int64)), 0)
    scores = model.factors(nothing, torch.eye(8)).scores(range(8)).numpy()
    popular = np.log(np.bincount(chosen, minlength=30) / len(chosen))
    often = truth * np.bincount(kind)[:, None] > 30  # of rarer ones the data themselves don't know the odds
    slopes, right, without = [], [], []
    for score, log_p, kept in zip(scores, np.log(truth), often, strict=True):
        score, log_p, log_q = score[kept], log_p[kept], popular[kept]
        slopes.append(np.polyfit(log_q, score - log_p, 1)[0])
        right.append(np.corrcoef(score, log_p)[0, 1])
        without.append(np.corrcoef(score, log_p - log_q)[0, 1])
    assert np.mean(slopes) == pytest.approx(0.0 if corrected else -1.0, abs=0.15)
    good, bad = (right, without) if corrected else (without, right)
    assert np.mean(good) > 0.95
    assert np.mean(bad) < 0.8


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Sessions of the tiny market as histories, title embeddings, and items that training never sees."""
    import labkit.shop
    from labkit.models import BiEncoder

    shop = labkit.shop.load("tiny")
    clicks = shop.read("events").filter("clicked").sort("session_id", "time", "position")
    features = BiEncoder.from_pretrained("minilm", device="cpu").encode(shop.titles())
    cold = np.random.default_rng(1).permutation(len(features))[: len(features) // 4]
    return clicks, torch.from_numpy(features), np.sort(cold)


def test_items_unseen_in_training_are_found_by_their_titles(market):
    """A session's first click on an item without one click in training, ranked among all such items."""
    clicks, features, cold = market
    is_cold = pl.col("product_id").is_in(cold.tolist())
    train = clicks.filter(~is_cold)
    histories = Histories.from_events(train["session_id"].to_numpy(), train["product_id"].to_numpy())
    model = TwoTower(len(features), features, width=32, hidden=64, id_dropout=0.5)
    config = TrainConfig(epochs=40, batch_size=256, learning_rate=3e-3)
    fit_two_tower(model, histories, config=config, progress=False)
    assert not model.known[cold].any()
    before = is_cold.cast(pl.Int8).cum_sum() == 0  # what the session clicked afterwards is not yet known
    tests = (
        clicks.group_by("session_id", maintain_order=True)
        .agg(seen=pl.col("product_id").filter(before), new=pl.col("product_id").filter(is_cold).first())
        .filter(pl.col("new").is_not_null() & (pl.col("seen").list.len() > 0))
    )
    assert len(tests) > 100
    factors = model.factors(pack(tests["seen"].to_list()))
    scores = factors.scores(range(len(tests))).numpy()[:, cold]  # (B, C)
    target = np.searchsorted(cold, tests["new"].to_numpy())
    rank = (scores > scores[np.arange(len(target)), target][:, None]).sum(1)
    recall = (rank < 10).mean()
    # A popularity that cheats: the cold items' own clicks, which nobody could know.
    counts = np.bincount(clicks["product_id"].to_numpy(), minlength=len(features))[cold]
    popular = np.isin(target, np.argsort(-counts)[:10]).mean()
    chance = 10 / len(cold)
    assert recall > 7 * chance
    assert recall > popular + 0.05


def test_an_item_of_the_catalogue_without_training_equals_the_same_item_added_later():
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    model = TwoTower(6, features, width=8, hidden=8).eval()
    model.known[:3] = True
    vectors = model.item_vectors()
    torch.testing.assert_close(model.new_items(features[3:]), vectors[3:])
    assert not torch.allclose(model.new_items(features[:3]), vectors[:3])


def test_towers_equal_their_formulas():
    """Means over histories by a plain loop in float64, with an unknown item and an empty history."""
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))
    model = TwoTower(5, features, user_features=2, width=4, hidden=6).double().eval()
    model.known[:4] = True
    histories, about = [[0, 1, 1], [4, 2], []], torch.randn(3, 2, dtype=torch.float64)
    packed = Packed(torch.tensor([0, 1, 1, 4, 2]), torch.tensor([0, 3, 5, 5], dtype=torch.int32), 3)
    got = model.users(packed, about)
    tower = model.user_tower
    for row, history in enumerate(histories):
        named, described = torch.zeros(6).double(), torch.zeros(3).double()
        for item in history:
            named += tower.ids.weight[item if item < 4 else 5] / len(history)
            described += features[item] / len(history)
        x = named + tower.described.weight @ torch.cat([described, about[row]]) + tower.described.bias
        expected = tower.out(torch.nn.functional.gelu(x))
        torch.testing.assert_close(got[row], expected)


def test_id_dropout_leaves_out_its_share_and_only_in_training():
    model = TwoTower(1000, torch.zeros(1000, 1), id_dropout=0.3)
    model.known.fill_(True)
    torch.manual_seed(4)
    left_out = (model._said(torch.arange(1000)) == 1000).sum()
    assert 250 < left_out < 350
    assert torch.equal(model.eval()._said(torch.arange(1000)), torch.arange(1000))


def test_an_example_reads_the_latest_items_before_it_and_nothing_else():
    rng = np.random.default_rng(5)
    users, items = np.sort(rng.integers(0, 9, 60)), rng.integers(0, 99, 60)
    histories = Histories.from_events(users, items)
    places = torch.from_numpy(rng.permutation(60)[:40])
    batch = read_before(histories, places, longest=3)
    for row, place in zip(unpack(batch.ids, batch.offsets), places.tolist(), strict=True):
        before = [items[i] for i in range(place) if users[i] == users[place]]
        assert row.tolist() == before[-3:]
    assert batch.longest == 3


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="row for each of the 3 items"):
        TwoTower(3, torch.zeros(2, 4))
    model = TwoTower(3)
    with pytest.raises(ValueError, match="made for 0 user features, not 2"):
        model.users(pack([[1]]), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="not among the 3"):
        model.users(pack([[3]]))
    with pytest.raises(ValueError, match="no next item"):
        fit_two_tower(model, Histories.from_events(np.arange(3), np.arange(3)), progress=False)
    with pytest.raises(ValueError, match="not among the model's 3"):
        fit_two_tower(model, Histories.from_events(np.zeros(2), np.array([1, 3])), progress=False)
