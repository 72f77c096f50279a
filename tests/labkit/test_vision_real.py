"""Vision on pictures worth looking at: clothing photos, the market's products, and pictures found by title.

Every model is trained here, from nothing, and compared with what needs no network: the most frequent class, a
linear model on the same pixels, chance. Each test prints what it measured (``pytest -s``).
"""

import os

import numpy as np
import pytest
import torch
from torch import nn

import labkit.shop
from labkit.data.sets import load_clothing
from labkit.models import ClassificationHead, DualEncoder, ResidualNetwork, TextTower
from labkit.models.transformer import TransformerConfig
from labkit.models.vision import augment, to_pixels
from labkit.shop.pictures import draw_many
from labkit.text.packing import pack
from labkit.text.vocabulary import train_vocabulary
from labkit.train import TrainConfig, cross_entropy, fit, image_text_contrastive

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        "LABKIT_EXPERIMENTS" not in os.environ, reason="LABKIT_EXPERIMENTS is not set: minutes"
    ),
]


def batch_of(step, rows, size):
    """The rows of a step: every row once in each pass, in an order of its own."""
    steps_per_pass = rows // size
    number, within = divmod(step, steps_per_pass)
    return np.random.default_rng(number).permutation(rows)[within * size : (within + 1) * size]


def linear_accuracy(train, test, labels, test_labels, classes):
    """Ridge regression of one-hot labels on all pixels; of three penalties the best on the test set."""
    x, y = train.flatten(1), test.flatten(1)
    centre = x.mean(0)
    x, y = x - centre, y - centre
    products = x @ x.T  # (n, n): fewer rows than pixels
    wanted = nn.functional.one_hot(labels, classes).float()
    best = 0.0
    for penalty in (1e-3, 1e-2, 1e-1):
        ridge = products + penalty * products.diagonal().mean() * torch.eye(len(x))
        weights = torch.linalg.solve(ridge, wanted - wanted.mean(0))
        scores = y @ (x.T @ weights) + wanted.mean(0)
        best = max(best, (scores.argmax(1) == test_labels).float().mean().item())
    return best


def network_accuracy(pixels, labels, test, test_labels, classes, epochs):
    body = ResidualNetwork()
    model = nn.Sequential(body, ClassificationHead(body.width, classes))
    labels = labels.clone()

    def loss(step):
        rows = batch_of(step, len(labels), 32)
        return cross_entropy(model(augment(pixels[rows], seed=step)), labels[rows], smoothing=0.1)

    config = TrainConfig(learning_rate=3e-3, weight_decay=0.05)
    fit(model, loss, epochs * (len(labels) // 32), config, progress=False)
    model.eval()
    with torch.no_grad():
        guess = torch.cat([model(part).argmax(1) for part in test.split(256)])
    return (guess == test_labels).float().mean().item()


@pytest.mark.skipif("LABKIT_DATA" not in os.environ, reason="LABKIT_DATA is not set: no clothing photos here")
def test_a_small_cnn_knows_clothes_on_real_photos():
    train, test = load_clothing("train"), load_clothing("test")
    names = sorted(set(train.rows["label"]))
    labels, test_labels = (
        torch.tensor([names.index(label) for label in part.rows["label"]]) for part in (train, test)
    )
    pixels, test_pixels = to_pixels(train.array(64)), to_pixels(test.array(64))
    majority = (test_labels == labels.mode().values).float().mean().item()
    linear = linear_accuracy(pixels, test_pixels, labels, test_labels, len(names))
    cnn = network_accuracy(pixels, labels, test_pixels, test_labels, len(names), epochs=12)
    print(
        f"\n{len(test_labels)} photos of clothes: majority {majority:.3f}, linear {linear:.3f}, CNN {cnn:.3f}"
    )
    assert cnn > linear + 0.10
    assert cnn > majority + 0.30


@pytest.fixture(scope="module")
def market():
    """Products of the small market in a random order, with their pictures."""
    world = labkit.shop.load("small")
    products = world.products.sample(fraction=1.0, shuffle=True, seed=0)
    return products, draw_many(products, world.seed, progress=False)


def test_a_small_cnn_knows_the_markets_categories(market):
    products, pictures = market
    names = sorted(set(products["category"]))
    labels = torch.tensor([names.index(category) for category in products["category"]])
    pixels, held_out = to_pixels(pictures), 1_600
    data = pixels[held_out:], labels[held_out:], pixels[:held_out], labels[:held_out], len(names)
    linear = linear_accuracy(data[0], data[2], data[1], data[3], len(names))
    cnn = network_accuracy(*data, epochs=4)
    print(f"\n{held_out} products in {len(names)} categories: linear {linear:.3f}, CNN {cnn:.3f}")
    assert cnn > linear + 0.20


def test_titles_find_the_pictures_of_products_that_were_held_out(market):
    products, pictures = market
    titles, held_out = products["title"].to_list(), 1_600
    rows = len(titles) - held_out
    tokenizer = train_vocabulary(titles[held_out:], size=2_000)

    def tokenize(texts):
        return pack(tokenizer(list(texts), truncation=True, max_length=48)["input_ids"])

    image = ResidualNetwork()
    shape = TransformerConfig(len(tokenizer), width=128, layers=2, heads=4, feedforward=384, norm="pre")
    model = DualEncoder(image, TextTower(shape), tokenize, image.width, shape.width)

    def loss(step):
        chosen = held_out + batch_of(step, rows, 128)
        pixels = augment(to_pixels(pictures[chosen]), seed=step)
        return image_text_contrastive(*model(pixels, tokenize([titles[row] for row in chosen])))

    config = TrainConfig(learning_rate=2e-3, weight_decay=0.05)
    fit(model, loss, 8 * (rows // 128), config, progress=False)

    images = model.encode_images(pictures[:held_out])
    _, ids = model.search(titles[:held_out], images, k=10)
    hit = ids == torch.arange(held_out)[:, None]
    recall, first = hit.any(1).float().mean().item(), hit[:, 0].float().mean().item()
    chance = 10 / held_out  # also of any list that is the same for all texts: it holds ten of the products
    # Whoever knew only the true category would put the others of it in any order.
    sizes = dict(products["category"][:held_out].value_counts().iter_rows())
    category = np.mean([min(1.0, 10 / sizes[name]) for name in products["category"][:held_out]])
    print(
        f"\ntitle to picture among {held_out}: recall@10 {recall:.3f}, recall@1 {first:.3f}; "
        f"recall@10 without the text {chance:.4f}, of the true category alone {category:.3f}"
    )
    assert recall > 50 * chance
