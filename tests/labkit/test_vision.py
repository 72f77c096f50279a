"""Vision models against torch's own layers, formulas and loops."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from labkit.models.vision import CNNConfig, ResidualNetwork, VisionTransformer, ViTConfig, augment, to_pixels
from labkit.models.vision.cnn import ConvNorm


@pytest.fixture(autouse=True)
def _one_thread(request):
    before = torch.get_num_threads()
    if "slow" not in request.keywords:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- pixels


def test_pixels():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    pixels = to_pixels(pictures)
    assert pixels.shape == (3, 3, 5, 7)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    for b, c, y, x in [(0, 0, 0, 0), (2, 1, 4, 6), (1, 2, 3, 2)]:
        assert pixels[b, c, y, x].item() == pytest.approx(2 * float(pictures[b, y, x, c]) / 255 - 1, abs=1e-6)
    assert to_pixels(np.array([[[[0, 0, 255]]]], dtype=np.uint8)).flatten().tolist() == [-1, -1, 1]
    with pytest.raises(ValueError, match="uint8"):
        to_pixels(np.zeros((1, 4, 4, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="uint8"):
        to_pixels(np.zeros((1, 3, 4, 4), dtype=np.uint8))


def test_augment_moves_and_mirrors():
    pixels = draw(400, 3, 12, 10)
    state = torch.get_rng_state()
    found = augment(pixels, seed=3, shift=2)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers stay as they are"
    assert torch.equal(found, augment(pixels, seed=3, shift=2))
    assert not torch.equal(found, augment(pixels, seed=4, shift=2))
    seen = set()
    for before, after in zip(pixels, found, strict=True):
        middle = after[:, 3:9, 3:7]  # what stays inside whatever the move
        places = [
            (mirrored, down, across)
            for mirrored in (False, True)
            for down in range(-2, 3)
            for across in range(-2, 3)
            if torch.equal(
                (before.flip(2) if mirrored else before)[:, 3 + down : 9 + down, 3 + across : 7 + across],
                middle,
            )
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 2 * 5 * 5  # every move, mirrored and not


# --- residual network


def settled(network, seed=0):
    """A network whose batch normalisations have numbers of their own, in eval mode."""
    for number, module in enumerate(network.modules()):
        if isinstance(module, nn.BatchNorm2d):
            for values, low in ((module.running_mean, -1), (module.running_var, 0.5), (module.weight, 0.5)):
                values.data.copy_(
                    low + torch.rand(len(values), generator=torch.Generator().manual_seed(number))
                )
            nn.init.normal_(module.bias)
    return network.double().eval()


def test_shapes_of_the_residual_network():
    network = ResidualNetwork(CNNConfig(widths=(4, 6, 8, 10), blocks=2))
    assert network.features(torch.zeros(2, 3, 64, 64)).shape == (2, 10, 4, 4)
    assert network.features(torch.zeros(2, 3, 61, 35)).shape == (2, 10, 4, 3)  # each halving rounds up
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 10)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 + 2 * 8 + 3  # the stem, two in each of 8 blocks, three shortcuts


def test_the_block_is_the_papers():
    network = settled(ResidualNetwork(CNNConfig(widths=(4, 6))))
    x = draw(2, 3, 9, 9)

    def conv_norm(part, x, stride=1):
        weight, norm = part.conv.weight, part.norm
        y = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
        y = (y - norm.running_mean[:, None, None]) / (norm.running_var + 1e-5).sqrt()[:, None, None]
        return y * norm.weight[:, None, None] + norm.bias[:, None, None]

    y = conv_norm(network.stem, x, 2).clamp(min=0)
    first, second = network.blocks
    y = (y + conv_norm(first.second, conv_norm(first.first, y).clamp(min=0))).clamp(min=0)
    inner = conv_norm(second.second, conv_norm(second.first, y, 2).clamp(min=0))
    y = (conv_norm(second.shortcut, y, 2) + inner).clamp(min=0)
    torch.testing.assert_close(network.features(x), y)
    torch.testing.assert_close(network(x), y.flatten(2).mean(2))


def test_receptive_field():
    """How far a place of the last stage sees: each 3 x 3 convolution adds 2 of its input's steps."""
    network = settled(ResidualNetwork(CNNConfig(widths=(3, 3, 3))))
    reach, step = 1, 1
    for stride in (2, 1, 1, 2, 1, 2, 1):  # the stem, then two convolutions in each of three blocks
        reach, step = reach + 2 * step, step * stride
    assert (reach, step) == (47, 8)
    x = draw(1, 3, 128, 128).requires_grad_()
    features = network.features(x)
    features[0, :, 8, 8].sum().backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    # Dead ReLUs may hide the rim, nothing may lie outside.
    centre = 8 * step
    assert rows.min() >= centre - reach // 2
    assert rows.max() <= centre + reach // 2
    assert rows.max() - rows.min() + 1 >= reach - 4


def test_folded_batch_norm_is_equal():
    network = settled(ResidualNetwork(CNNConfig(widths=(4, 6, 8), blocks=2)))
    x = draw(3, 3, 32, 32)
    folded = network.folded()
    torch.testing.assert_close(folded(x), network(x))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules()), "the original is left as it was"
    part = next(m for m in network.modules() if isinstance(m, ConvNorm))
    theirs = fuse_conv_bn_eval(part.conv, part.norm)
    torch.testing.assert_close(part.folded().weight, theirs.weight)
    torch.testing.assert_close(part.folded().bias, theirs.bias)


def test_a_new_block_passes_its_input_on():
    network = ResidualNetwork(CNNConfig(widths=(4,), blocks=3)).double()
    x = draw(2, 3, 16, 16)
    torch.testing.assert_close(network.features(x), torch.relu(network.stem(x)))


# --- vision transformer


SMALL = ViTConfig(size=24, patch=8, width=20, layers=3, heads=4, feedforward=36)


def test_patch_embedding_is_unfold_and_a_matrix():
    model, x = VisionTransformer(SMALL).double(), draw(2, 3, 24, 24)
    cut = F.unfold(x, 8, stride=8).transpose(1, 2)  # (B, 9, 3 * 8 * 8)
    expected = F.linear(cut, model.patches.weight.flatten(1), model.patches.bias) + model.places
    torch.testing.assert_close(model.embed(x), expected)
    # Row by row: the second patch is the one to the right of the first.
    torch.testing.assert_close(cut[:, 1].unflatten(1, (3, 8, 8)), x[:, :, :8, 8:16])


def test_vision_transformer_equals_torchs_encoder():
    model, x = VisionTransformer(SMALL).double().eval(), draw(2, 3, 24, 24)
    layer = nn.TransformerEncoderLayer(
        20, 4, 36, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    theirs = nn.TransformerEncoder(layer, 3, nn.LayerNorm(20, eps=1e-6), enable_nested_tensor=False).double()
    for ours, other in zip(model.blocks, theirs.layers, strict=True):
        pairs = [
            (other.self_attn.in_proj_weight, ours.attention.qkv.weight),
            (other.self_attn.in_proj_bias, ours.attention.qkv.bias),
            (other.self_attn.out_proj.weight, ours.attention.out.weight),
            (other.self_attn.out_proj.bias, ours.attention.out.bias),
            (other.norm1.weight, ours.attention_norm.weight),
            (other.norm1.bias, ours.attention_norm.bias),
            (other.linear1.weight, ours.feedforward.up.weight),
            (other.linear1.bias, ours.feedforward.up.bias),
            (other.linear2.weight, ours.feedforward.down.weight),
            (other.linear2.bias, ours.feedforward.down.bias),
            (other.norm2.weight, ours.feedforward_norm.weight),
            (other.norm2.bias, ours.feedforward_norm.bias),
        ]
        for target, source in pairs:
            nn.init.normal_(source, std=0.3)
            target.data.copy_(source)
    nn.init.normal_(model.norm.weight)
    theirs.norm.weight.data.copy_(model.norm.weight)
    expected = theirs.eval()(model.embed(x))
    torch.testing.assert_close(model.states(x), expected)
    torch.testing.assert_close(model(x), expected.mean(1))


def test_places_are_what_tells_patches_apart():
    model, x = VisionTransformer(SMALL).double().eval(), draw(1, 3, 24, 24)
    shuffled = x.roll(8, dims=3)  # the same patches in other places
    assert not torch.allclose(model(x), model(shuffled))
    with torch.no_grad():
        model.places.zero_()
    torch.testing.assert_close(model(x), model(shuffled))


@pytest.mark.parametrize("make", [lambda: ResidualNetwork(CNNConfig((4,))), lambda: VisionTransformer(SMALL)])
def test_vision_errors(make):
    model = make()
    with pytest.raises(ValueError, match="to_pixels"):
        model(torch.zeros(1, 24, 24, 3))
    with pytest.raises(ValueError, match="to_pixels"):
        model(torch.zeros(1, 3, 24, 24, dtype=torch.uint8))
    with pytest.raises(ValueError, match="no picture"):
        model(torch.zeros(0, 3, 24, 24))
    with pytest.raises(ValueError, match="24 x 24"):
        VisionTransformer(SMALL)(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="cut into patches"):
        ViTConfig(size=60, patch=8)
    with pytest.raises(ValueError, match="at least one stage"):
        CNNConfig(widths=())


def test_seeds_leave_the_callers_random_numbers_alone():
    state = torch.get_rng_state()
    first, again = VisionTransformer(SMALL, seed=1), VisionTransformer(SMALL, seed=1)
    assert torch.equal(first.places, again.places)
    assert not torch.equal(first.places, VisionTransformer(SMALL, seed=2).places)
    a, b = ResidualNetwork(seed=1), ResidualNetwork(seed=2)
    assert not torch.equal(a.stem.conv.weight, b.stem.conv.weight)
    assert torch.equal(torch.get_rng_state(), state)
