"""Losses over classes, catalogues, pictures with texts and teachers; and batches encoded in chunks."""

import itertools
import math
import weakref

import pytest
import torch
from loss_cases import draw, same
from torch import nn
from torch.nn import functional as F

from labkit.train.losses import (
    bce,
    cross_entropy,
    cross_entropy_gradient,
    encode_in_chunks,
    image_text_contrastive,
    image_text_contrastive_gradient,
    image_text_sigmoid,
    image_text_sigmoid_gradient,
    in_batch_softmax,
    in_batch_softmax_gradient,
    info_nce,
    knowledge_distillation,
    knowledge_distillation_gradient,
    sampled_softmax,
    sampled_softmax_gradient,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def softmax(values):
    total = sum(math.exp(x) for x in values)
    return [math.exp(x) / total for x in values]


# --- softmax cross-entropy with label smoothing


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_cross_entropy(seed, smoothing):
    logits, target = draw(5, 4, seed=seed, scale=2), torch.tensor([0, 3, 1, 1, 2])
    total = 0.0
    for row, right in zip(logits.tolist(), target.tolist(), strict=True):
        for place, p in enumerate(softmax(row)):
            total -= ((1 - smoothing) * (place == right) + smoothing / 4) * math.log(p)
    loss = cross_entropy(logits, target, smoothing)
    assert loss.item() == pytest.approx(total / 5, rel=1e-12)
    same(cross_entropy_gradient(logits, target, smoothing), loss, logits)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, target, smoothing), (logits,))


def test_smoothing_has_the_best_margin_that_the_docstring_gives():
    right, classes, smoothing = torch.tensor([0]), 5, 0.1
    margin = math.log((1 - smoothing) * classes / smoothing + 1)
    logits = F.one_hot(right, classes).double() * margin
    assert cross_entropy_gradient(logits, right, smoothing).abs().max() < 1e-12


def test_cross_entropy_at_ten_thousand():
    logits = torch.tensor([[1e4, -1e4], [1e4, -1e4]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == 1e4
    assert logits.grad.tolist() == [[0, 0], [0.5, -0.5]]
    assert cross_entropy(logits, torch.tensor([0, 1]), smoothing=0.1).isfinite()
    assert cross_entropy(torch.zeros(1, 3, dtype=torch.bfloat16), torch.tensor([0])).dtype == torch.float32


# --- sampled softmax


def test_every_possible_draw_together_gives_the_full_softmax():
    """E[Z^] = Z, by going through all 4 ** 3 draws of three items; with a hit on the right item left out."""
    query, weight, right = draw(1, 3), draw(4, 3, seed=1), torch.tensor([2])
    chances = [0.5, 0.2, 0.2, 0.1]
    scores = (query @ weight.T)[0]
    expected = 0.0
    for drawn in itertools.product(range(4), repeat=3):
        log_q = torch.tensor([math.log(chances[j]) for j in drawn], dtype=torch.float64)
        loss = sampled_softmax(query, weight, right, torch.tensor(drawn), log_q)
        partition = math.exp(loss.item() + scores[2].item())  # L^ = -s_y + log Z^
        expected += math.prod(chances[j] for j in drawn) * partition
    assert expected == pytest.approx(scores.exp().sum().item(), rel=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_sampled_softmax(seed):
    query, weight = draw(3, 4, seed=seed), draw(6, 4, seed=seed + 50)
    target, drawn = torch.tensor([0, 5, 2]), torch.tensor([1, 5, 1, 3])  # item 1 twice, a hit for row 1
    log_q = torch.tensor([0.3, 0.1, 0.3, 0.2], dtype=torch.float64).log()
    total = 0.0
    for row, right in zip(query, target.tolist(), strict=True):
        partition = (row @ weight[right]).exp().item()
        for j, log_chance in zip(drawn.tolist(), log_q.tolist(), strict=True):
            if j != right:
                partition += (row @ weight[j]).exp().item() / (4 * math.exp(log_chance))
        total += math.log(partition) - (row @ weight[right]).item()
    loss = sampled_softmax(query, weight, target, drawn, log_q)
    assert loss.item() == pytest.approx(total / 3, rel=1e-12)
    same(sampled_softmax_gradient(query, weight, target, drawn, log_q), loss, query, weight)
    assert torch.autograd.gradcheck(lambda q, w: sampled_softmax(q, w, target, drawn, log_q), (query, weight))


def test_the_correction_is_what_makes_it_tend_to_the_full_gradient():
    query, weight, target = draw(4, 3), draw(30, 3, seed=1), torch.tensor([0, 7, 7, 21])
    popular = 1 / torch.arange(1, 31, dtype=torch.float64)
    chance = popular / popular.sum()
    drawn = torch.multinomial(chance, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    full = torch.autograd.grad(F.cross_entropy(query @ weight.T, target), weight)[0]
    corrected = sampled_softmax_gradient(query, weight, target, drawn, chance[drawn].log())[1]
    naive = sampled_softmax_gradient(query, weight, target, drawn, torch.full((200_000,), -math.log(30)))[1]
    error, biased = (corrected - full).norm() / full.norm(), (naive - full).norm() / full.norm()
    assert error < 0.02
    assert biased > 10 * error


@pytest.mark.parametrize("seed", range(3))
def test_in_batch_softmax(seed):
    query, item = draw(5, 4, seed=seed), draw(5, 4, seed=seed + 50)
    ids = torch.tensor([3, 9, 3, 4, 3])
    log_q = torch.tensor([0.5, 0.1, 0.5, 0.2, 0.5], dtype=torch.float64).log()
    total = 0.0
    for i in range(5):
        kept = [j for j in range(5) if j == i or ids[j] != ids[i]]
        corrected = [(query[i] @ item[j] / 0.5 - log_q[j]).item() for j in kept]
        total -= math.log(softmax(corrected)[kept.index(i)])
    loss = in_batch_softmax(query, item, ids, log_q, 0.5)
    assert loss.item() == pytest.approx(total / 5, rel=1e-12)
    same(in_batch_softmax_gradient(query, item, ids, log_q, 0.5), loss, query, item)
    assert torch.autograd.gradcheck(lambda q, d: in_batch_softmax(q, d, ids, log_q, 0.5), (query, item))
    even = torch.full_like(log_q, -1.0)
    copies = ids[:, None] == ids[None, :]
    torch.testing.assert_close(in_batch_softmax(query, item, ids, even), info_nce(query, item, 1.0, copies))


def test_in_batch_correction_recovers_the_true_preference():
    """All queries are alike and take three items by these chances; scores should be their logarithms."""
    taken = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)

    def learned(log_q):
        scores = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([scores], max_iter=100)

        def closure():
            # The expected loss over batches of two pairs, both drawn with chance Q.
            optimizer.zero_grad()
            loss = torch.zeros((), dtype=torch.float64)
            for pair in itertools.product(range(3), repeat=2):
                ids = torch.tensor(pair)
                query, item = torch.ones(2, 1, dtype=torch.float64), scores[ids][:, None]
                loss = loss + taken[ids].prod() * in_batch_softmax(query, item, ids, log_q[ids])
            loss.backward()
            return loss

        optimizer.step(closure)
        return (scores - scores[0]).detach()

    torch.testing.assert_close(learned(taken.log()), taken.log() - taken[0].log(), rtol=1e-4, atol=1e-4)
    even = torch.full((3,), -math.log(3), dtype=torch.float64)
    assert learned(even).abs().max() < 1e-4  # without the correction all three look alike


def test_sampled_errors_and_extremes():
    query, weight = torch.full((1, 1), 1e2, requires_grad=True), torch.tensor([[1e2], [-1e2]])
    zero, one, sure = torch.tensor([0]), torch.tensor([1]), torch.zeros(1)
    loss = sampled_softmax(query, weight, one, zero, sure)  # scores of -1e4 and 1e4
    loss.backward()
    assert loss.item() == 2e4
    assert query.grad.item() == 200
    assert in_batch_softmax(query, query, zero, sure).item() == 0
    with pytest.raises(ValueError, match="The drawn items must lie in 0 to 1; found 2 to 2"):
        sampled_softmax(query, weight, one, torch.tensor([2]), sure)
    with pytest.raises(ValueError, match="The right items must lie in 0 to 1; found -1 to -1"):
        sampled_softmax(query, weight, -one, one, sure)
    with pytest.raises(ValueError, match="log_q"):
        sampled_softmax(query, weight, one, zero, torch.tensor([0.5]))
    with pytest.raises(ValueError, match="log_q"):
        in_batch_softmax(query, query, zero, torch.tensor([float("-inf")]))
    with pytest.raises(ValueError, match="one width"):
        sampled_softmax(query, torch.zeros(3, 2), one, zero, sure)
    with pytest.raises(ValueError, match="a log chance for each"):
        sampled_softmax(query, weight, one, zero, torch.zeros(2))
    with pytest.raises(ValueError, match="empty"):
        in_batch_softmax(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match="temperature"):
        in_batch_softmax(query, query, zero, sure, 0)


# --- pictures and texts


@pytest.mark.parametrize("seed", range(3))
def test_image_text_contrastive(seed):
    image, text = draw(5, 4, seed=seed), draw(5, 4, seed=seed + 50)
    log_scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    total = 0.0
    for i in range(5):
        texts = [math.exp(0.7) * (image[i] @ text[j]).item() for j in range(5)]
        images = [math.exp(0.7) * (image[j] @ text[i]).item() for j in range(5)]
        total -= math.log(softmax(texts)[i]) + math.log(softmax(images)[i])
    loss = image_text_contrastive(image, text, log_scale)
    assert loss.item() == pytest.approx(total / 10, rel=1e-12)
    same(image_text_contrastive_gradient(image, text, log_scale), loss, image, text, log_scale)
    assert torch.autograd.gradcheck(image_text_contrastive, (image, text, log_scale))


@pytest.mark.parametrize("seed", range(3))
def test_image_text_sigmoid(seed):
    image, text = draw(4, 3, seed=seed), draw(4, 3, seed=seed + 50)
    log_scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.3, dtype=torch.float64, requires_grad=True)
    logits = log_scale.exp() * image @ text.T + bias
    pairs = bce(logits.flatten(), torch.eye(4, dtype=torch.float64).flatten())  # mean over 16 pairs
    loss = image_text_sigmoid(image, text, log_scale, bias)
    torch.testing.assert_close(loss, pairs * 4)
    same(image_text_sigmoid_gradient(image, text, log_scale, bias), loss, image, text, log_scale, bias)
    assert torch.autograd.gradcheck(image_text_sigmoid, (image, text, log_scale, bias))


@pytest.mark.parametrize("loss", [image_text_contrastive, lambda *x: image_text_sigmoid(*x, torch.zeros(()))])
def test_image_text_losses_at_ten_thousand(loss):
    image = torch.eye(3).flip(0).requires_grad_()  # two of three pictures sit on another's text
    value = loss(image, torch.eye(3), torch.tensor(1e4).log())
    value.backward()
    assert 1e3 < value.item() < 1e5
    assert image.grad.isfinite().all()


def test_image_text_errors():
    with pytest.raises(ValueError, match="Each picture needs its text"):
        image_text_contrastive(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(()))
    with pytest.raises(ValueError, match="empty"):
        image_text_sigmoid(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(()), torch.zeros(()))


# --- distillation


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_knowledge_distillation(seed, temperature):
    student, teacher = draw(3, 5, seed=seed, scale=3), draw(3, 5, seed=seed + 50, scale=3)
    total = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softmax([x / temperature for x in ours]), softmax([x / temperature for x in theirs])
        total += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
    loss = knowledge_distillation(student, teacher, temperature)
    assert loss.item() == pytest.approx(temperature**2 * total / 3, rel=1e-10)
    same(knowledge_distillation_gradient(student, teacher, temperature), loss, student)
    fixed = teacher.detach()
    assert torch.autograd.gradcheck(lambda x: knowledge_distillation(x, fixed, temperature), (student,))
    assert torch.autograd.grad(loss, teacher, allow_unused=True) == (None,)


def test_the_square_of_the_temperature_keeps_the_gradients_size():
    student, teacher = draw(8, 10, seed=1), draw(8, 10, seed=2)
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    found = knowledge_distillation_gradient(student, teacher, temperature=1e4)
    torch.testing.assert_close(found, centred / (10 * 8), rtol=1e-3, atol=1e-6)


def test_distillation_extremes_and_errors():
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = knowledge_distillation(student, torch.tensor([[-1e4, 1e4]]), temperature=1.0)
    loss.backward()
    assert loss.item() == 2e4
    assert student.grad.tolist() == [[1, -1]]
    sure = knowledge_distillation(torch.zeros(1, 2), torch.tensor([[0.0, float("-inf")]]), temperature=1.0)
    assert sure.item() == pytest.approx(math.log(2))
    with pytest.raises(ValueError, match="The teacher's logits hold 1 NaN"):
        knowledge_distillation(torch.zeros(1, 2), torch.tensor([[0.0, float("nan")]]))
    with pytest.raises(ValueError, match="same shape"):
        knowledge_distillation(torch.zeros(1, 2), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="temperature"):
        knowledge_distillation(torch.zeros(1, 2), torch.zeros(1, 2), 0)
    with pytest.raises(ValueError, match="empty"):
        knowledge_distillation(torch.zeros(0, 2), torch.zeros(0, 2))


def test_class_errors():
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="The labels must lie in 0 to 2; found 0 to 3"):
        cross_entropy(logits, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="integers"):
        cross_entropy(logits, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"int64\), not int32"):  # which torch refuses without naming it
        cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1], dtype=torch.int32))
    with pytest.raises(ValueError, match="one label for each row"):
        cross_entropy(logits, torch.tensor([0]))
    with pytest.raises(ValueError, match="share"):
        cross_entropy(logits, torch.tensor([0, 1]), smoothing=1)
    with pytest.raises(ValueError, match="empty"):
        cross_entropy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


# --- gradient caching


class Encoder(nn.Module):
    """Two layers with dropout between; counts how many hidden states are alive at once."""

    def __init__(self, dropout):
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 4)
        self.dropout = nn.Dropout(dropout)
        self.alive, self.most, self.calls = weakref.WeakSet(), 0, 0

    def forward(self, chunk):
        hidden = self.dropout(torch.tanh(self.first(chunk)))
        self.alive.add(hidden)
        self.calls += 1
        self.most = max(self.most, len(self.alive))
        return F.normalize(self.second(hidden), dim=1)


def gradients(encode, model, queries, docs, seed=5):
    model.zero_grad()
    torch.manual_seed(seed)
    loss = info_nce(encode(queries), encode(docs), temperature=0.1)
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_chunks_give_the_gradient_of_the_whole_batch(dropout):
    torch.manual_seed(0)
    model = Encoder(dropout).double()
    queries, docs = draw(23, 6).detach(), draw(23, 6, seed=1).detach()

    def at_once(batch):  # the same chunks, all activations kept: with dropout, the same masks
        return torch.cat([model(chunk) for chunk in batch.split(5)])

    loss, expected = gradients(at_once, model, queries, docs)
    cached_loss, found = gradients(lambda x: encode_in_chunks(model, x.split(5)), model, queries, docs)
    assert cached_loss == loss
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    if not dropout:  # and those of one call over all rows
        _, whole = gradients(model, model, queries, docs)
        for ours, theirs in zip(found, whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)
    else:  # the masks do matter: another seed, another gradient
        _, other = gradients(lambda x: encode_in_chunks(model, x.split(5)), model, queries, docs, seed=6)
        assert (other[0] - found[0]).norm() > 0.1 * found[0].norm()


def test_small_batches_added_up_are_no_substitute():
    torch.manual_seed(0)
    model = Encoder(0.0).double()
    queries, docs = draw(20, 6).detach(), draw(20, 6, seed=1).detach()
    _, whole = gradients(lambda x: encode_in_chunks(model, x.split(5)), model, queries, docs)
    parts = [gradients(model, model, q, d)[1] for q, d in zip(queries.split(5), docs.split(5), strict=True)]
    added = sum(part[0] for part in parts) / 4
    assert (added - whole[0]).norm() > 0.1 * whole[0].norm()


def test_only_one_chunks_activations_are_alive():
    torch.manual_seed(0)
    model = Encoder(0.1).double()
    queries = draw(40, 6).detach()
    vectors = encode_in_chunks(model, queries.split(4))
    vectors.square().mean().backward()
    assert model.calls == 20  # ten chunks, each twice
    assert model.most <= 2  # the one at work, and the one it replaces
    del vectors
    model.most = 0
    kept = torch.cat([model(chunk) for chunk in queries.split(4)])
    assert model.most == 10
    assert kept.shape == (40, 4)


def test_dictionaries_of_tokens_are_chunks_too():
    embedding = nn.EmbeddingBag(10, 4)
    chunks = [{"input": torch.tensor([[1, 2]])}, {"input": torch.tensor([[3, 3], [4, 5]])}]
    vectors = encode_in_chunks(lambda batch: embedding(**batch), chunks)
    torch.testing.assert_close(vectors, embedding(torch.tensor([[1, 2], [3, 3], [4, 5]])))
    with pytest.raises(ValueError, match="empty"):
        encode_in_chunks(embedding, [])
