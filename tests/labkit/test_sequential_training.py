"""Training next-item models: losses against plain ones, and chains whose best possible accuracy is known."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from labkit.models.sequential import HSTU, BERT4Rec, GRU4Rec, SASRec
from labkit.train import TrainConfig
from labkit.train.sequences import (
    Histories,
    binary_loss,
    next_item_ranks,
    sequence_job,
    train_sequences,
    user_states,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def some_histories(users=50, items=20, longest=9, seed=0, times=False):
    dice = np.random.default_rng(seed)
    lengths = dice.integers(1, longest + 1, users)
    names = np.repeat(dice.permutation(10 * users)[:users], lengths)
    ids = dice.integers(0, items, lengths.sum()) ** 2 // items  # low numbers are more popular
    seconds = dice.integers(1_500_000_000, 1_700_000_000, lengths.sum()) if times else None
    mixed = dice.permutation(len(names))
    # Users' rows are mixed with each other's but stay in order within a user.
    return names[mixed], ids[mixed], None if seconds is None else seconds[mixed]


def test_histories_are_those_of_a_dictionary():
    names, ids, seconds = some_histories(times=True)
    by_user: dict[int, list] = {}
    for name, item, second in zip(names.tolist(), ids.tolist(), seconds.tolist(), strict=True):
        by_user.setdefault(name, []).append((item, second))
    plain = [sorted(by_user[name], key=lambda action: action[1]) for name in sorted(by_user)]
    histories = Histories.from_events(names, ids, seconds)
    lengths = [len(user) for user in plain]
    assert [part.tolist() for part in histories.ids.split(lengths)] == [[i for i, _ in u] for u in plain]
    assert [part.tolist() for part in histories.times.split(lengths)] == [[s for _, s in u] for u in plain]
    assert histories.last().tolist() == [user[-1][0] for user in plain]
    for count in (1, 3):
        fewer = histories.without_last(count)
        kept = [max(0, n - count) for n in lengths]
        assert fewer.offsets.diff().tolist() == kept
        assert fewer.ids.tolist() == [i for u, n in zip(plain, kept, strict=True) for i, _ in u[:n]]
        assert fewer.times.tolist() == [s for u, n in zip(plain, kept, strict=True) for _, s in u[:n]]
    users = torch.tensor([7, 0, 31, 4])
    batch, times = histories.packed(users, longest=4)
    expected = sorted((plain[u][-4:] for u in users.tolist()), key=len)
    assert batch.lengths.tolist() == [len(user) for user in expected]
    assert batch.longest == max(len(user) for user in expected)
    assert batch.ids.tolist() == [i for user in expected for i, _ in user]
    assert times.tolist() == [float(np.float32(s - user[0][1])) for user in expected for _, s in user]


def test_binary_loss_is_torchs_without_the_draws_that_hit():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(9, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(9, (6,), generator=generator)
    drawn = torch.randint(9, (6, 5), generator=generator)
    drawn[2, 3] = targets[2]
    logits, keep = states @ vectors.T, drawn != targets[:, None]
    assert not keep.all()
    right, wrong = logits.gather(1, targets[:, None]), logits.gather(1, drawn)[keep]
    expected = F.binary_cross_entropy_with_logits(right, torch.ones_like(right))
    expected = expected + F.binary_cross_entropy_with_logits(wrong, torch.zeros_like(wrong))
    loss = binary_loss(states, vectors, targets, drawn)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(loss, (states, vectors)),
        torch.autograd.grad(expected, (states, vectors)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def gradient(histories, loss, negatives=1, seed=0):
    model = SASRec(20, width=16, longest=8, dropout=0.0, seed=3)
    with torch.no_grad():
        model.item_vectors().mul_(20)  # far from an even softmax
    config = TrainConfig(batch_size=len(histories), epochs=1)
    job = sequence_job(model, histories, config, loss, negatives)
    torch.manual_seed(seed)
    job.step_loss(0).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_full_loss_is_the_mean_over_all_places_of_all_users():
    histories = Histories.from_events(*some_histories()[:2])
    model = SASRec(20, width=16, longest=8, dropout=0.0)
    users = int((histories.offsets.diff() >= 2).sum())
    job = sequence_job(model, histories, TrainConfig(batch_size=users), "full")
    losses = []
    with torch.no_grad():
        for user in histories.ids.split(histories.offsets.diff().tolist()):
            user = user[-9:]
            if len(user) > 1:
                padded = model.transformer(user[None, :-1])[0]
                losses.append(F.cross_entropy(padded @ model.item_vectors().T, user[1:], reduction="none"))
        torch.testing.assert_close(job.step_loss(0), torch.cat(losses).mean(), rtol=1e-4, atol=1e-5)


def test_sampled_softmax_tends_to_the_full_gradient_though_it_draws_by_popularity():
    """Items are of very uneven popularity: without the logQ correction the two would never meet."""
    histories = Histories.from_events(*some_histories(users=200)[:2])
    full = gradient(histories, "full")

    def error(negatives):
        drawn = torch.stack([gradient(histories, "sampled", negatives, seed) for seed in range(4)])
        return float((drawn.mean(0) - full).norm() / full.norm())

    many, few = error(5_000), error(20)
    assert many < 0.05
    assert few > 3 * many


def chain(users, items=8, sure=0.8, length=10, seed=0):
    """The next item is a fixed successor of the last but one with chance ``sure``, else any other.

    Nothing better than ``sure`` is possible at rank 1, and the latest item alone says nothing.
    """
    dice = np.random.default_rng(seed)
    successor = dice.permutation(items)
    chains = dice.integers(0, items, (users, length))
    for place in range(2, length):
        right = successor[chains[:, place - 2]]
        other = (right + dice.integers(1, items, users)) % items
        chains[:, place] = np.where(dice.random(users) < sure, right, other)
    return chains


@pytest.mark.parametrize(
    ("model", "loss", "negatives"),
    [
        (SASRec, "full", 1),
        (SASRec, "sampled", 16),
        (SASRec, "bce", 4),
        (GRU4Rec, "full", 1),
        (HSTU, "full", 1),
    ],
)
def test_a_chain_is_predicted_as_well_as_anybody_could(model, loss, negatives):
    reached(model, loss, negatives, epochs=12, rate=0.01)


@pytest.mark.slow
def test_bert4rec_predicts_the_chain_too_but_takes_five_times_the_epochs():
    reached(BERT4Rec, "full", 1, epochs=60, rate=0.003)


def reached(model, loss, negatives, epochs, rate):
    chains = chain(users=4500)
    chains, fresh = chains[:1500], chains[1500:]
    histories = Histories.from_events(np.repeat(np.arange(1500), 10), chains.flatten())
    built = model(8, width=16, longest=10, dropout=0.0)
    config = TrainConfig(epochs=epochs, batch_size=100, learning_rate=rate, weight_decay=0.0)
    train_sequences(built, histories, config, loss, negatives, progress=False)
    unseen = Histories.from_events(np.repeat(np.arange(len(fresh)), 10), fresh.flatten())
    ranks = next_item_ranks(built, unseen.without_last(1), unseen.last(), exclude_seen=False)
    deviation = (0.8 * 0.2 / len(fresh)) ** 0.5
    assert 0.8 - 0.03 < ranks.hit_rate(1) < 0.8 + 4 * deviation


def test_user_states_come_in_the_order_of_the_users():
    histories = Histories.from_events(*some_histories()[:2])
    model = GRU4Rec(20, width=8, longest=5).train()
    states = user_states(model, histories, batch_size=7)
    assert model.training, "the caller's mode is put back"
    model.eval()
    for user, state in enumerate(states):
        batch, _ = histories.packed(torch.tensor([user]), 5)
        torch.testing.assert_close(state, model.user_states(batch)[0])


def test_leaving_seen_items_out_raises_the_rank_of_new_ones():
    chains = np.array([[0, 1, 2, 3]] * 20)
    histories = Histories.from_events(np.repeat(np.arange(20), 4), chains.flatten())
    model = SASRec(6, width=8, longest=4, dropout=0.0)
    with torch.no_grad():  # whatever the state is, items 0 to 2 score higher than 3
        model.item_vectors().copy_(torch.tensor([4.0, 4.0, 4.0, 3.0, 1.0, 0.0])[:, None].expand(6, 8))
        model.transformer.norm.weight.zero_()
        model.transformer.places.weight.zero_()
        model.transformer.blocks[-1].feedforward_norm.weight.zero_()
        model.transformer.blocks[-1].feedforward_norm.bias.fill_(1.0)
    past, last = histories.without_last(1), histories.last()
    assert next_item_ranks(model, past, last, exclude_seen=False).ranks.tolist() == [4] * 20
    assert next_item_ranks(model, past, last).ranks.tolist() == [1] * 20


def test_a_run_resumes_and_another_loss_is_another_run(tmp_path):
    histories = Histories.from_events(*some_histories()[:2])
    config = TrainConfig(epochs=4, batch_size=16, learning_rate=0.01, checkpoint_every=1)

    def run(loss, path, stop=99):
        """The losses, and how often the model was measured in this call."""
        measured = 0

        def valid(model):
            nonlocal measured
            if measured == stop:
                raise InterruptedError
            measured += 1
            return 0.0

        model = SASRec(20, width=8, longest=8)
        found = train_sequences(model, histories, config, loss, 4, valid, path, progress=False)
        return found.losses, measured

    expected, measured = run("sampled", None)
    with pytest.raises(InterruptedError):
        run("sampled", tmp_path / "run", stop=2)
    resumed, left = run("sampled", tmp_path / "run")
    assert resumed == expected, "dropout and drawn negatives included"
    assert left < measured, "it did not begin again"
    with pytest.raises(ValueError, match="belongs to"):
        run("bce", tmp_path / "run")


def test_wrong_input_is_refused():
    model = SASRec(20, width=8, longest=8)
    one = Histories.from_events(np.arange(5), np.arange(5))
    with pytest.raises(ValueError, match="no next item"):
        train_sequences(model, one, progress=False)
    with pytest.raises(ValueError, match="not among the model's 0 to 19"):
        train_sequences(model, Histories.from_events(np.zeros(2, int), np.array([3, 20])), progress=False)
    with pytest.raises(ValueError, match="'full', 'sampled' or 'bce'"):
        train_sequences(model, one, loss="hinge", progress=False)
    with pytest.raises(ValueError, match="one user, one item"):
        Histories.from_events(np.arange(3), np.arange(2))
    with pytest.raises(ValueError, match="history is empty"):
        user_states(model, one.without_last(1))
