"""Students: what they inherit, what pulls them, and that a teacher is worth having."""

import os

import numpy as np
import pytest
import torch
from torch import nn

from labkit.models import BiEncoder
from labkit.train import TrainConfig, fine_tune, hard_negatives, knowledge_distillation
from labkit.train.distil import DistilConfig, _hidden, _others, distil_classifier, distil_encoder, student_of

TEXTS = [
    f"{colour} {thing}"
    for colour in ("red", "oak", "small", "cheap", "wireless", "garden", "kids")
    for thing in ("table", "lamp", "shoes", "hose", "phone case", "kettle", "tent", "drill")
]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher():
    return BiEncoder.from_pretrained("minilm", device="cpu")


def test_a_student_is_some_of_the_teachers_layers(teacher):
    """Equal to the teacher's body with the other layers skipped, and nothing is shared."""
    student = student_of(teacher, [0, 3, 5])
    batch = teacher.tokenize(TEXTS[:5])
    states = teacher.body.embeddings(batch["input_ids"], batch["token_type_ids"])
    mask = (1 - batch["attention_mask"][:, None, None, :].float()) * torch.finfo(torch.float32).min
    with torch.inference_mode():
        for number in (0, 3, 5):
            out = teacher.body.encoder.layer[number](states, mask)
            states = out[0] if isinstance(out, tuple) else out
        found = student.body(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], states[real], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for p in student.parameters():
            p.zero_()
    assert teacher.encode(["sofa"]).any(), "the student shares the teacher's weights"
    for wrong in ([], [6], [-1]):
        with pytest.raises(ValueError, match="layers 0 to 5"):
            student_of(teacher, wrong)


def test_a_whole_copy_has_nothing_to_learn(teacher):
    """All layers kept: every part of the loss is 0, so that each is really measured against the teacher."""
    for parts in (
        DistilConfig(1, 0),
        DistilConfig(0, 1),
        DistilConfig(0, 0, hidden={0: 0, 5: 5}),
    ):
        student = student_of(teacher, range(6))
        for module in student.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        config = TrainConfig(batch_size=8, learning_rate=1e-9, precision="fp32")
        history = distil_encoder(teacher, student, TEXTS[:8], config, parts, progress=False)
        assert max(history.losses) < 1e-5, parts


def test_the_losses_are_those_of_the_docstring(teacher):
    """The first step's loss of a student that has something to learn, from vectors by the formulas."""
    student = student_of(teacher, [0, 3])
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    s, t = (torch.from_numpy(m.encode(TEXTS[:8])).double() for m in (student, teacher))
    own = torch.eye(8, dtype=torch.bool)
    log_q, log_p = ((v @ v.T / 0.2).masked_fill(own, -1e9).log_softmax(1) for v in (s, t))
    expected = {
        (1, 0): (s - t).square().sum(1).mean().item(),
        (0, 1): (log_p.exp() * (log_p - log_q)).sum(1).mean().item(),
    }
    assert expected[1, 0] > 0.1
    assert expected[0, 1] > 0.01
    config = TrainConfig(batch_size=8, learning_rate=1e-9, precision="fp32")
    for weights, value in expected.items():
        parts = DistilConfig(*weights, temperature=0.2)
        history = distil_encoder(teacher, student, TEXTS[:8], config, parts, progress=False)
        assert history.losses[0] == pytest.approx(value, rel=1e-3)


def test_the_hidden_loss_leaves_padding_out(teacher):
    student = student_of(teacher, [1, 4])
    batch = teacher.tokenize(["a sofa", "a very long garden hose with a spray gun"])
    found = _hidden(student, teacher, batch, {0: 1, 1: 4}).item()
    expected = 0.0
    for own, other in ((0, 1), (1, 4)):
        a, b = (m.body(**batch, output_hidden_states=True).hidden_states for m in (student, teacher))
        lengths = batch["attention_mask"].sum(1).tolist()
        assert lengths[0] != lengths[1]
        rows = [(a[own + 1][i, :n] - b[other + 1][i, :n]).detach().numpy() for i, n in enumerate(lengths)]
        expected += (np.concatenate(rows).astype(np.float64) ** 2).mean()
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_softened_gradient_is_cross_entropys():
    """The student's gradient of T^2 KL(p || q) is T^2 times that of the cross-entropy with soft targets."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 9, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    for temperature in (0.5, 1.0, 4.0):
        (found,) = torch.autograd.grad(knowledge_distillation(student, teacher, temperature), student)
        soft = nn.functional.cross_entropy(student / temperature, (teacher / temperature).softmax(1))
        (expected,) = torch.autograd.grad(temperature**2 * soft, student)
        torch.testing.assert_close(found, expected)
    # Softmax over the others leaves each text's similarity to itself out.
    square = torch.arange(9.0).view(3, 3)
    assert _others(square).tolist() == [[1, 2], [3, 5], [6, 7]]


def test_a_teacher_helps_a_classifier_on_held_out_data():
    """Few labels for the student, many for the teacher: better than alone on each of five seeds."""
    gains = []
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        truth = nn.functional.normalize(torch.randn(10, 20, generator=generator), dim=1)
        x, test = (torch.randn(size, 20, generator=generator) for size in (150, 3000))
        y, right = (x @ truth.T).argmax(1), (test @ truth.T).argmax(1)
        accuracy = []
        for weight in (0.0, 0.8):
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                student = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 10))
            config = TrainConfig(epochs=40, batch_size=30, learning_rate=1e-2)
            distil_classifier(student, x, y, 4 * x @ truth.T, config, weight, temperature=3.0)
            accuracy.append((student(test).argmax(1) == right).double().mean().item())
        gains.append(accuracy[1] - accuracy[0])
    assert min(gains) > 0.01, gains


def test_an_encoder_comes_closer_to_its_teacher(teacher):
    """On texts that were not trained on; the truncated copy alone is far away."""
    learned, held_out = TEXTS[::2], TEXTS[1::2]
    wanted = teacher.encode(held_out)

    def likeness(student):
        return float((student.encode(held_out) * wanted).sum(1).mean())

    student = student_of(teacher, [0, 5])
    before = likeness(student)
    config = TrainConfig(epochs=12, batch_size=14, learning_rate=2e-4)
    history = distil_encoder(teacher, student, learned, config, progress=False, valid=likeness)
    assert history.valid[-1][1] == pytest.approx(max(v for _, v in history.valid))
    assert likeness(student) > before + 0.1


def test_wrong_students_are_refused(teacher):
    student = student_of(teacher, [0])
    with pytest.raises(ValueError, match="at least two texts"):
        distil_encoder(teacher, student, ["one"], progress=False)
    with pytest.raises(ValueError, match="no student layer 1"):
        distil_encoder(teacher, student, TEXTS, parts=DistilConfig(hidden={1: 0}), progress=False)
    with pytest.raises(ValueError, match="asks the student for nothing"):
        DistilConfig(embedding=0, similarity=0)
    with pytest.raises(ValueError, match="temperature above 0"):
        DistilConfig(temperature=0)
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="3 inputs, 2 labels"):
        distil_classifier(nn.Linear(2, 2), x, torch.zeros(2).long(), x, TrainConfig())
    with pytest.raises(ValueError, match="share, 0 to 1"):
        distil_classifier(nn.Linear(2, 2), x, torch.zeros(3).long(), x, TrainConfig(), weight=2.0)


@pytest.mark.slow
@pytest.mark.skipif("LABKIT_EXPERIMENTS" not in os.environ, reason="LABKIT_EXPERIMENTS is not set: minutes")
def test_a_distilled_student_beats_one_trained_without_the_teacher():
    """nDCG@10 on the market's test queries, printed with -s.

    The teacher and the student without one learn from the same pairs; the teacher's student learns from the
    teacher alone, on queries and unlabelled titles."""
    from labkit.data.pairs import training_pairs
    from labkit.evaluate import evaluate_ranked, nDCG
    from labkit.rank import top_k
    from labkit.shop import load

    market = load("small")
    queries, titles = market.queries_of("test"), market.titles()
    qrels = market.judgements("test")

    def quality(encoder):
        asked, items = encoder.encode(queries["text"].to_list()), encoder.encode(titles)
        ids = top_k(asked, items, 10)[1]
        return evaluate_ranked([nDCG @ 10], ids, qrels, queries["query_id"].to_list())[nDCG @ 10]

    teacher = BiEncoder.from_pretrained("minilm", device="cpu")
    pairs, spared = training_pairs(market)
    pairs = hard_negatives(teacher, pairs, titles, teacher.encode(titles), spared)
    untrained, alone, taught = (student_of(teacher, [0, 2, 4]) for _ in range(3))
    config = TrainConfig(epochs=2, batch_size=32, learning_rate=5e-5, max_length=32)
    fine_tune(teacher, pairs, config, not_negative=spared, progress=False)
    fine_tune(alone, pairs, config, not_negative=spared, progress=False)
    texts = list(dict.fromkeys([query for query, *_ in pairs] + titles))
    gentle = TrainConfig(epochs=2, batch_size=32, learning_rate=2e-4, max_length=32)
    distil_encoder(teacher, taught, texts, gentle, progress=False)
    found = {
        name: float(quality(encoder).mean())
        for name, encoder in
        {"teacher": teacher, "untrained": untrained, "alone": alone, "taught": taught}.items()
    }  # fmt: skip
    print({name: round(value, 4) for name, value in found.items()})
    assert found["taught"] > found["alone"]
    assert found["taught"] > found["untrained"]
