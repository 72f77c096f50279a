"""Fusion of views: a missing one has no influence, scales do not matter, the gate learns whom to trust."""

import pytest
import torch
from torch.nn import functional as F

from labkit.models.fusion import EarlyFusion, GatedFusion, LateFusion
from labkit.train import TrainConfig, cross_entropy, fit

WIDTHS = {"text": 5, "image": 3, "price": 2}


pytestmark = pytest.mark.usefixtures("one_thread")


def made(kind, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LateFusion(WIDTHS, 4) if kind is LateFusion else kind(WIDTHS, 4)
        for placeholder in model.placeholders.values():
            torch.nn.init.normal_(placeholder)
    model = model.double()
    for _ in range(200):  # until the running means and deviations have settled
        model(views(64, seed=9))
    return model.eval()


def views(rows=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(rows, size, generator=generator, dtype=torch.float64)
        for name, size in WIDTHS.items()
    }


KINDS = pytest.mark.parametrize("kind", [EarlyFusion, LateFusion, GatedFusion])


@KINDS
@pytest.mark.parametrize("garbage", [0.0, 1e30, float("nan"), float("inf")])
def test_what_stands_in_the_place_of_a_missing_view_is_never_looked_at(kind, garbage):
    model, given = made(kind), views()
    there = torch.tensor([True, False, True, False, False, True])
    expected = model(given, {"image": there})
    dirty = dict(given, image=torch.where(there[:, None], given["image"], garbage).requires_grad_())
    found = model(dirty, {"image": there})
    assert torch.equal(found, expected)
    found.sum().backward()
    assert (dirty["image"].grad[~there] == 0).all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert not torch.equal(model(given)[1], expected[1]), "it does matter whether the view is there"
    torch.testing.assert_close(model(given)[there], expected[there])  # other rows are not touched


@KINDS
@pytest.mark.parametrize("changed", WIDTHS)
def test_the_unit_of_a_view_does_not_matter(kind, changed):
    """Each number times its own factor, plus an offset: the same result, once such rows have been seen."""
    factors = torch.tensor([1e4, 3.0, 1e2, 10.0, 50.0], dtype=torch.float64)[: WIDTHS[changed]]

    def other_unit(given):
        return dict(given, **{changed: given[changed] * factors + 7})

    model, again = made(kind), made(kind)
    for _ in range(200):
        again.train()(other_unit(views(64, seed=9)))
    found, expected = again.eval()(other_unit(views())), model(views())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)  # 1e-5 is added to each variance
    assert not torch.allclose(model(other_unit(views())), expected, rtol=1e-2, atol=1e-2)


@KINDS
def test_in_training_rows_that_lack_a_view_do_not_count_in_its_mean(kind):
    model, given = made(kind), views(8)
    there = torch.tensor([True] * 5 + [False] * 3)
    before = model.norms["image"].running_mean.clone()
    model.train()(dict(given, image=torch.where(there[:, None], given["image"], torch.nan)), {"image": there})
    expected = 0.9 * before + 0.1 * given["image"][:5].mean(0)
    torch.testing.assert_close(model.norms["image"].running_mean, expected)
    one = torch.arange(8) == 3  # and a single row that has it is no error
    model.train()(given, {"image": one})
    torch.testing.assert_close(model.norms["image"].running_mean, expected)


@KINDS
def test_rows_do_not_depend_on_each_other(kind):
    model, given = made(kind), views()
    there = torch.tensor([True, False, True, True, False, True])
    alone = model({name: view[1:2] for name, view in given.items()}, {"image": there[1:2]})
    torch.testing.assert_close(alone, model(given, {"image": there})[1:2])


def test_gate_is_the_formula():
    model, given = made(GatedFusion), views(2)
    present = {"price": torch.tensor([True, False])}
    for row in range(2):
        normed, hidden = [], []
        for name, view in given.items():
            x = view[row]
            norm = model.norms[name]
            x = (x - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
            normed.append(model.placeholders[name] if name == "price" and row else x)
            hidden.append(
                torch.tanh(model.projections[name].weight @ normed[-1] + model.projections[name].bias)
            )
        scores = model.gate.weight @ torch.cat(normed) + model.gate.bias
        kept = 2 if row else 3
        gate = scores[:kept].exp() / scores[:kept].exp().sum()
        expected = sum(g * h for g, h in zip(gate, hidden[:kept], strict=True))
        torch.testing.assert_close(model(given, present)[row], expected)
        torch.testing.assert_close(model.weights(given, present)[row, :kept], gate)
    assert model.weights(given, present)[1, 2] == 0.0


def test_late_fusion_is_the_mean_of_those_that_are_there():
    model, given = made(LateFusion), views(2)
    each = model.decisions(given)
    found = model(given, {"text": torch.tensor([True, False])})
    torch.testing.assert_close(found[0], (each["text"] + each["image"] + each["price"])[0] / 3)
    torch.testing.assert_close(found[1], (each["image"] + each["price"])[1] / 2)


def test_early_fusion_tells_a_missing_view_from_one_that_looks_like_its_placeholder():
    model, given = made(EarlyFusion), views(1)
    with torch.no_grad():
        model.placeholders["image"].copy_(model.norms["image"](given["image"])[0])
    assert not torch.allclose(model(given), model(given, {"image": torch.tensor([False])}))


def noisy_task(rows, seed):
    """Two views show the class; in each row a flag in the third says which of the two is noise. No single
    view suffices, nor does any fixed weighting."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (rows,), generator=generator)
    clean = F.one_hot(labels, 4).float() * 4
    noise = [F.one_hot(torch.randint(0, 4, (rows,), generator=generator), 4).float() * 4 for _ in range(2)]
    first_is_right = torch.rand(rows, generator=generator) < 0.5
    first = torch.where(first_is_right[:, None], clean, noise[0])
    second = torch.where(first_is_right[:, None], noise[1], clean)
    flag = torch.stack([first_is_right.float(), 1 - first_is_right.float()], dim=1)
    return {"first": first, "second": second * 1000, "flag": flag}, labels


def accuracy_after_training(kind):
    widths = {"first": 4, "second": 4, "flag": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fuse = LateFusion(widths, 4) if kind is LateFusion else kind(widths, 16)
        out = torch.nn.Identity() if kind is LateFusion else torch.nn.Linear(16, 4)
    model = torch.nn.ModuleDict({"fuse": fuse, "out": out})
    given, labels = noisy_task(2_048, 0)
    config = TrainConfig(learning_rate=2e-2, weight_decay=0.0)

    def loss(step):
        rows = torch.arange(step * 128, (step + 1) * 128) % 2_048
        return cross_entropy(out(fuse({name: view[rows] for name, view in given.items()})), labels[rows])

    fit(model, loss, 200, config, progress=False)
    model.eval()
    given, labels = noisy_task(1_000, 1)
    with torch.no_grad():
        accuracy = (out(fuse(given)).argmax(1) == labels).float().mean().item()
        return accuracy, fuse.weights(given) if kind is GatedFusion else None, given["flag"]


def test_the_gate_learns_which_view_to_trust_where_late_fusion_cannot():
    gated, weights, flag = accuracy_after_training(GatedFusion)
    late, *_ = accuracy_after_training(LateFusion)
    # Late fusion sees two votes for one label each and cannot know which is right: 1/4 + 3/4 * 1/2 at best.
    assert late < 0.72
    assert gated > 0.9
    trusted = weights[:, :2].gather(1, flag[:, 1:].long())[:, 0]  # of the view that the flag says is right
    assert (trusted / weights[:, :2].sum(1) > 0.5).float().mean() > 0.95


def test_fusion_errors():
    model, given = made(GatedFusion), views(2)
    gone = torch.tensor([True, False])
    with pytest.raises(ValueError, match="A row has none of its views"):
        model(given, dict.fromkeys(WIDTHS, gone))
    with pytest.raises(ValueError, match="'price' is not given"):
        model({"text": given["text"], "image": given["image"]})
    with pytest.raises(ValueError, match="'sound' is unknown"):
        model(dict(given, sound=given["text"]))
    with pytest.raises(ValueError, match="'sound' is unknown"):
        model(given, {"sound": gone})
    with pytest.raises(ValueError, match="must be"):
        model(dict(given, image=given["text"]))
    with pytest.raises(ValueError, match="must be"):
        model(given, {"image": torch.tensor([True])})
    with pytest.raises(ValueError, match="at least one view"):
        EarlyFusion({}, 4)
