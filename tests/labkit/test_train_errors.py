"""Wrong input and mishaps: one clear sentence, the weights before the failed step, the last checkpoint."""

import resource
import subprocess
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from labkit.train import TrainConfig, fit, info_nce
from labkit.train.checkpoint import Checkpoint

CONFIG = TrainConfig(learning_rate=1e-2, accumulate=2, checkpoint_every=2, precision="fp32")
ROWS, CLASSES = 10, 4


pytestmark = pytest.mark.usefixtures("one_thread")


class Classifier(nn.Module):
    def __init__(self, rows=ROWS):
        super().__init__()
        self.items = nn.Embedding(rows, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, ids):
        return self.head(self.items(ids))  # (B, C)


def classifier(rows=ROWS):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier(rows)


def good(model):
    def step_loss(micro):
        generator = torch.Generator().manual_seed(micro)
        ids = torch.randint(ROWS, (6,), generator=generator)
        return F.cross_entropy(model(ids), ids % CLASSES)

    return step_loss


def wrong_id(model, loss):
    return F.cross_entropy(model(torch.tensor([3, ROWS + 2])), torch.tensor([0, 1]))


def negative_id(model, loss):
    return model(torch.tensor([-1])).sum()


def wrong_label(model, loss):
    return F.cross_entropy(model(torch.tensor([3, 4])), torch.tensor([0, CLASSES]))


def empty(model, loss):
    return F.cross_entropy(model(torch.tensor([], dtype=torch.int64)), torch.tensor([], dtype=torch.int64))


def infinite(model, loss):
    return loss + float("inf")


def steep(model, loss):
    """A finite loss with an infinite gradient: the root of a sum of squares that is 0."""
    return loss + (model.head.weight * 0).square().sum().sqrt()


class Asserted(torch.autograd.Function):
    """What a GPU does with a label out of range: the kernels go on, and a later call gets the error."""

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("CUDA error: device-side assert triggered")


def reported_late(model, loss):
    return Asserted.apply(loss)


def not_reduced(model, loss):
    return F.cross_entropy(model(torch.tensor([3, 4])), torch.tensor([0, 1]), reduction="none")


MISHAPS = [
    (wrong_id, ValueError, r"Micro-batch 7 holds the ids 3 to 12, but the embedding 'items' has 10 rows"),
    (negative_id, ValueError, r"Micro-batch 7 holds the ids -1 to -1, but the embedding 'items'"),
    (wrong_label, ValueError, r"A label of micro-batch 7 is not one of the model's classes: Target 4 is out"),
    (empty, FloatingPointError, r"micro-batch 7 \(step 3\) is nan; look at that batch \(an empty one"),
    (infinite, FloatingPointError, r"micro-batch 7 \(step 3\) is inf"),
    (steep, FloatingPointError, r"The gradient of step 3 is nan, although its loss is finite"),
    (reported_late, ValueError, r"label of micro-batch 7, or of one shortly before it, is out of range"),
    (not_reduced, ValueError, r"micro-batch 7 must be one number, not a tensor of shape \(2,\)"),
]


@pytest.mark.parametrize(("mishap", "kind", "message"), MISHAPS, ids=[m[0].__name__ for m in MISHAPS])
def test_a_mishap_says_what_happened_and_keeps_weights_and_checkpoint(mishap, kind, message, tmp_path):
    """In the second micro-batch of the last step but two; the run goes on once it is mended."""
    file = tmp_path / "run"
    model = classifier()
    seen = {}

    def step_loss(micro):
        loss = good(model)(micro)
        if micro == 6:
            seen.update({name: value.clone() for name, value in model.state_dict().items()})
        return mishap(model, loss) if micro == 7 else loss

    with pytest.raises(kind, match=message) as raised:
        fit(model, step_loss, 6, CONFIG, checkpoint=file, progress=False)
    assert "\n" not in str(raised.value)
    assert all(torch.equal(value, seen[name]) for name, value in model.state_dict().items())
    assert len(Checkpoint.read(file).progress["history"]["losses"]) == 2

    model, whole = classifier(), classifier()
    resumed = fit(model, good(model), 6, CONFIG, checkpoint=file, progress=False)
    assert resumed.resumed_at == 2
    assert resumed.losses == fit(whole, good(whole), 6, CONFIG, progress=False).losses
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in model.state_dict().items())


def test_other_errors_pass_as_they_are():
    """An IndexError of the caller's own is not about a vocabulary."""
    model = classifier()
    with pytest.raises(IndexError, match="list index out of range"):
        fit(model, lambda micro: [][micro], 1, CONFIG, progress=False)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        fit(model, lambda micro: model.head(torch.ones(1, 3)).sum(), 1, CONFIG, progress=False)


def test_an_empty_batch_of_pairs():
    model = nn.Linear(4, 4)
    with pytest.raises((ValueError, FloatingPointError), match="empty"):
        fit(model, lambda micro: info_nce(*[model(torch.ones(0, 4))] * 2), 1, CONFIG, progress=False)


def test_a_checkpoint_of_another_vocabulary_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "run"
    model = classifier()
    fit(model, good(model), 2, CONFIG, checkpoint=file, progress=False)
    before = file.read_bytes()
    larger = classifier(ROWS + 5)
    with pytest.raises(
        ValueError, match=r"'items.weight' with the shape \(10, 8\), but the model's has \(15, 8\)"
    ):
        fit(larger, good(larger), 2, CONFIG, checkpoint=file, progress=False)
    other = classifier()
    with pytest.raises(ValueError, match="other data, settings or starting weights"):
        fit(other, good(other), 2, replace(CONFIG, seed=1), checkpoint=file, progress=False)
    with pytest.raises(ValueError, match="other data, settings or starting weights"):
        fit(other, good(other), 2, CONFIG, checkpoint=file, progress=False, rates={"head": 0.5})
    assert file.read_bytes() == before


@pytest.mark.parametrize("change", ["dropout", "frozen"])
def test_a_checkpoint_of_another_model_with_the_same_weights_is_refused(change, tmp_path):
    """Or the finished run of the one would come back as the result of the other."""
    file = tmp_path / "run"
    model, other = (nn.Sequential(classifier(), nn.Dropout(0.1)) for _ in range(2))
    fit(model, good(model), 2, CONFIG, checkpoint=file, progress=False)
    if change == "dropout":
        other[1].p = 0.5
    else:
        other[0].items.requires_grad_(False)
    with pytest.raises(ValueError, match="other data, settings or starting weights"):
        fit(other, good(other), 2, CONFIG, checkpoint=file, progress=False)


def test_nothing_to_train_is_refused():
    model = classifier()
    with pytest.raises(ValueError, match="nothing to train: 0 steps"):
        fit(model, good(model), 0, CONFIG, progress=False)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter to train"):
        fit(model, good(model), 1, CONFIG, progress=False)
    with pytest.raises(ValueError, match="no parameter to train"):
        fit(nn.ReLU(), good(model), 1, CONFIG, progress=False)


def full_disk(file, fill):
    """Train until the disk is full, which is before the second checkpoint; what the error says."""
    model = classifier()

    def step_loss(micro):
        if micro == 5:
            fill()
        return good(model)(micro)

    with pytest.raises(OSError, match="could not be written") as raised:
        fit(model, step_loss, 6, CONFIG, checkpoint=file, progress=False)
    return str(raised.value)


def assert_kept(message, file):
    assert f"the last good one is still there, {file}" in message
    assert "\n" not in message
    assert [path.name for path in file.parent.iterdir() if path.name != "filling"] == [file.name]
    assert len(Checkpoint.read(file).progress["history"]["losses"]) == 2
    model, whole = classifier(), classifier()
    resumed = fit(model, good(model), 6, CONFIG, checkpoint=file, progress=False)
    assert resumed.resumed_at == 2
    assert resumed.losses == fit(whole, good(whole), 6, CONFIG, progress=False).losses


def test_a_file_that_may_not_grow(tmp_path):
    """The kernel refuses to write beyond 1 000 bytes of any file (RLIMIT_FSIZE)."""
    file = tmp_path / "place" / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        message = full_disk(file, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1])))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in message
    assert_kept(message, file)


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small file system needs root: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up(tiny_disk):
    file = tiny_disk / "run"

    def fill():
        with suppress(OSError), open(tiny_disk / "filling", "wb", buffering=0) as filling:
            while True:
                filling.write(bytes(1024))

    message = full_disk(file, fill)
    assert "No space left on device" in message
    (tiny_disk / "filling").unlink()
    assert_kept(message, file)


def test_a_place_that_cannot_be_written_before_there_is_any_checkpoint(tmp_path):
    (tmp_path / "file").write_text("")
    model = classifier()
    with pytest.raises(OSError, match="could not be written") as raised:
        fit(model, good(model), 2, CONFIG, checkpoint=tmp_path / "file" / "run", progress=False)
    assert "last good" not in str(raised.value)


def test_what_a_killed_writer_left_is_no_checkpoint_and_is_overwritten(tmp_path):
    file = tmp_path / "run"
    (tmp_path / ".run.part").write_bytes(b"half a checkpoint")
    model = classifier()
    assert fit(model, good(model), 2, CONFIG, checkpoint=file, progress=False).resumed_at is None
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert {key.split("|")[0] for key in load_file(file)} == {"model", "optimizer"}
