"""Pictures and texts in one space: unit vectors, the temperature's limit, search; it learns to find."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from labkit.models import BiEncoder
from labkit.models.dual_encoder import DualEncoder, TextTower
from labkit.models.transformer import TransformerConfig
from labkit.models.vision import CNNConfig, ResidualNetwork, to_pixels
from labkit.text.packing import pack
from labkit.train import TrainConfig, fit, image_text_contrastive

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}
PLACES = {"top": slice(0, 8), "bottom": slice(8, 16)}
NUMBERS = {word: number for number, word in enumerate(["a", "bar", *COLOURS, *PLACES])}


def read(texts):
    return pack([[NUMBERS[word] for word in text.split()] for text in texts])


pytestmark = pytest.mark.usefixtures("one_thread")


def scenes(rows, seed):
    """Noisy pictures of a coloured bar above or below, and what a person would call them, in any order."""
    chance = np.random.default_rng(seed)
    pictures, texts = chance.integers(0, 60, (rows, 16, 16, 3), dtype=np.uint8), []
    for row in range(rows):
        colour, place = chance.choice(list(COLOURS)), chance.choice(list(PLACES))
        pictures[row, PLACES[place]] = np.clip(COLOURS[colour] + chance.normal(0, 15, (8, 16, 3)), 0, 255)
        words = ["a", colour, "bar", place]
        chance.shuffle(words)
        texts.append(" ".join(words))
    return pictures, texts


def small(seed=0):
    shape = TransformerConfig(len(NUMBERS), width=16, layers=1, heads=2, feedforward=32, positions="none")
    image = ResidualNetwork(CNNConfig(widths=(8, 16)), seed)
    return DualEncoder(image, TextTower(shape, seed), read, 16, 16, width=8, seed=seed)


def test_vectors_have_length_one_and_search_is_exact():
    model = small().eval()
    pictures, texts = scenes(40, 0)
    images, found = model.encode_images(pictures), model.encode_texts(texts[:5])
    torch.testing.assert_close(images.norm(dim=1), torch.ones(40))
    scores, ids = model.search(texts[:5], images, k=7)
    expected = (found.double() @ images.double().T).numpy()
    for row in range(5):
        assert ids[row].tolist() == sorted(range(40), key=lambda i: -expected[row, i])[:7]
        np.testing.assert_allclose(scores[row], np.sort(expected[row])[::-1][:7], rtol=1e-5)


def test_encoding_in_batches_leaves_the_mode_and_gives_the_same():
    model = small().train()
    pictures, texts = scenes(9, 1)
    at_once, in_parts = model.encode_images(pictures), model.encode_images(pictures, batch_size=2)
    assert model.training
    torch.testing.assert_close(
        in_parts, at_once, rtol=2e-2, atol=2e-2
    )  # the device's own format, such as bf16
    assert model.encode_images(pictures[:0]).shape == (0, 8)
    assert not at_once.requires_grad
    torch.testing.assert_close(
        model.encode_texts(texts, batch_size=4), model.encode_texts(texts), rtol=2e-2, atol=2e-2
    )
    with pytest.raises(ValueError, match="list of texts"):
        model.encode_texts("a red bar")


def test_the_temperature_is_cut_at_one_hundredth_and_can_come_back():
    model = small().train()
    assert model.log_scale.item() == pytest.approx(math.log(1 / 0.07))
    pictures, texts = scenes(6, 0)
    batch = to_pixels(pictures), model.tokenize(texts)
    with torch.no_grad():
        model.log_scale.fill_(9.0)
    images, found, log_scale = model(*batch)
    assert log_scale.item() == pytest.approx(math.log(100))
    image_text_contrastive(images, found, log_scale).backward()
    assert model.log_scale.grad.item() > 0, "an untrained model must become less sure, and can"
    with torch.no_grad():
        model.log_scale.fill_(9.0)
    assert model.eval()(*batch)[2].item() == 9.0, "outside training nothing is changed"


def test_text_tower_is_the_mean_of_the_states_at_first():
    tower = small().text
    batch = read(["red bar top", "bar"])
    states = tower.body(batch)
    torch.testing.assert_close(tower(batch), torch.stack([states[:3].mean(0), states[3]]))


def test_a_bi_encoder_is_a_text_tower_too():
    text = BiEncoder.from_pretrained("minilm", device="cpu")
    image = ResidualNetwork(CNNConfig(widths=(8,)))
    model = DualEncoder(image, text, text.tokenize, 8, text.dimension, width=16)
    pictures, texts = scenes(3, 0)
    vectors = model.encode_texts(texts)
    projected = model.text_projection(torch.from_numpy(text.encode(texts)))
    torch.testing.assert_close(vectors, nn.functional.normalize(projected, dim=1), rtol=3e-2, atol=3e-2)
    image_text_contrastive(*model(to_pixels(pictures), text.tokenize(texts))).backward()
    assert model.image.stem.conv.weight.grad.abs().sum() > 0
    assert next(text.body.parameters()).grad.abs().sum() > 0


def test_it_learns_to_find_pictures_that_it_has_not_seen():
    """Eight kinds of scene: the nearest picture to a text must be of its kind; by chance one in eight is."""
    model = small()
    pictures, texts = scenes(512, 0)

    def loss(step):
        rows = np.random.default_rng(step).choice(512, 64, replace=False)
        return image_text_contrastive(
            *model(to_pixels(pictures[rows]), model.tokenize([texts[r] for r in rows]))
        )

    fit(model, loss, 120, TrainConfig(learning_rate=5e-3, seed=0), progress=False)
    unseen, names = scenes(200, 1)
    _, ids = model.search(names, model.encode_images(unseen), k=1)
    right = [sorted(names[i]) == sorted(text) for i, text in zip(ids[:, 0].tolist(), names, strict=True)]
    assert np.mean(right) > 0.9
