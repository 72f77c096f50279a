"""The course library's loss and loop, called with the same budget."""

from labkit.train import TrainConfig, info_nce
from labkit.train import fine_tune as train


def in_batch_loss(queries, titles, same, temperature=0.05):
    return info_nce(queries, titles, temperature, positives=same)


def fine_tune(pairs, queries, titles):
    encoder = BiEncoder.from_pretrained("minilm", device=str(choose_device().device))
    config = TrainConfig(epochs=4, batch_size=min(24, len(pairs)), learning_rate=2e-4)
    train(encoder, [tuple(pair) for pair in pairs], config, progress=False)
    return encoder.encode(queries), encoder.encode(titles)
