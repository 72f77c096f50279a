"""8 and 4 bits: errors within half a step, exact integers, and what it costs on real queries."""

import copy
import os

import numpy as np
import pytest
import torch
from torch import nn

from labkit.models import BiEncoder
from labkit.models.quantisation import (
    Int4Linear,
    Int8Embedding,
    Int8Linear,
    integer_product,
    model_bytes,
    pack_int4,
    quantize,
    quantize_rows,
    unpack_int4,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(inputs, outputs, bias=True, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(inputs, outputs, bias=bias)


def test_rows_come_back_within_half_a_step():
    matrix = drawn(50, 33) * torch.logspace(-20, 20, 50).unsqueeze(1)  # rows of very different size
    matrix[7] = 0
    integers, scales = quantize_rows(matrix)
    assert integers.dtype == torch.int8
    assert int(integers.abs().amax()) == 127
    error = (integers.double() * scales.double() - matrix.double()).abs()
    assert (error <= scales.double() / 2 * (1 + 1e-5)).all()
    assert (integers[7] == 0).all()
    torch.testing.assert_close(quantize_rows(-matrix)[0], -integers)
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="NaN or infinite"):
            quantize_rows(torch.tensor([[1.0, wrong]]))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (17, 64, 24), (33, 1537, 7), (40, 2500, 5), (0, 8, 8)])
def test_the_integer_product_is_exact(fast, m, k, n, monkeypatch):
    """Also at the corners of the range, where float32 or 16-bit sums would round or overflow."""
    if not fast:
        monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    generator = torch.Generator().manual_seed(k)
    a = torch.randint(-127, 128, (m, k), generator=generator, dtype=torch.int8)
    b = torch.randint(-127, 128, (k, n), generator=generator, dtype=torch.int8)
    for left, right in ((a, b), (torch.full_like(a, 127), torch.full_like(b, 127)),
                        (torch.full_like(a, -127), torch.full_like(b, 127))):  # fmt: skip
        expected = left.numpy().astype(np.int64) @ right.numpy().astype(np.int64)
        assert np.array_equal(integer_product(left, right).numpy(), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_the_int8_layer_is_the_dequantised_product_in_float64(bias):
    linear = layer(96, 40, bias)
    quantised = Int8Linear(linear)
    x = drawn(2, 9, 96) * torch.tensor([1e-3, 1e3]).view(2, 1, 1)
    x[0, 0] = 0
    weight, weight_scale = quantize_rows(linear.weight.detach())
    tokens, token_scale = quantize_rows(x.view(-1, 96))
    w = weight.double() * weight_scale.double()
    expected = (tokens.double() * token_scale.double()) @ w.T
    if bias:
        expected = expected + linear.bias.double()
    found = quantised(x)
    assert found.shape == (2, 9, 40)
    torch.testing.assert_close(found.double().view(-1, 40), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(quantised.weight, w.float())
    # Close to the real layer, and a token does not depend on its neighbours.
    relative = (found - linear(x))[1].norm() / linear(x)[1].norm()
    assert relative < 0.015
    assert torch.equal(quantised(x[1, 3]), found[1, 3])
    assert quantised(x.bfloat16()).dtype == torch.bfloat16
    assert quantised(torch.full((1, 96), float("nan"))).isnan().all()


def test_the_int8_table():
    table = nn.Embedding.from_pretrained(drawn(30, 16) * torch.logspace(-3, 3, 30).unsqueeze(1))
    quantised = Int8Embedding(table)
    ids = torch.tensor([[3, 29], [0, 3]])
    found = quantised(ids)
    step = quantised.scales[ids]
    assert found.shape == (2, 2, 16)
    assert ((found - table(ids)).abs() <= step / 2 * (1 + 1e-5)).all()
    assert model_bytes(quantised) == 30 * 16 + 30 * 4


def test_packing_is_exact():
    numbers = torch.randint(0, 16, (37, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    packed = pack_int4(numbers)
    assert packed.shape == (37, 32)
    assert torch.equal(unpack_int4(packed), numbers)
    both = torch.arange(256, dtype=torch.uint8).view(1, 256)
    assert torch.equal(pack_int4(unpack_int4(both)), both), "all 256 pairs"
    for wrong in (numbers[:, :63], numbers + 1, numbers.int()):
        with pytest.raises(ValueError, match="0 to 15"):
            pack_int4(wrong)


@pytest.mark.parametrize("group", [2, 16, 64])
def test_the_int4_layer(group):
    linear = layer(64, 24)
    with torch.no_grad():
        linear.weight[0] = 0.25  # a constant group: no range at all
        linear.weight[1] *= 100
        linear.weight[2] += 5  # far from 0: what a range, and not a scale alone, is for
    quantised = Int4Linear(linear, group)
    error = (quantised.weight - linear.weight).view(24, -1, group).abs()
    step = quantised.scale.float()
    # Half a step, and what rounding the range to half precision moves (2^-11 of the numbers' size).
    size = linear.weight.abs().view(24, -1, group).amax(-1, keepdim=True)
    assert (error <= step / 2 + size * 2**-10).all()
    x = drawn(5, 64)
    expected = x.double() @ quantised.weight.double().T + linear.bias.double()
    torch.testing.assert_close(quantised(x).double(), expected, rtol=1e-4, atol=1e-4)
    assert model_bytes(quantised) == 24 * 64 // 2 + 2 * 2 * 24 * 64 // group + 24 * 4


def test_smaller_groups_err_less():
    linear = layer(384, 64)
    errors = [(Int4Linear(linear, g).weight - linear.weight).norm().item() for g in (16, 32, 128, 384)]
    assert errors == sorted(errors)
    int8 = quantize_rows(linear.weight.detach())
    assert (int8[0] * int8[1] - linear.weight).norm() < errors[0] / 5
    for group in (7, 1, 256):
        with pytest.raises(ValueError, match="does not fit 384 inputs"):
            Int4Linear(linear, group)
    for wrong in (float("nan"), 70_000.0):
        with torch.no_grad():
            linear.weight[3, 5] = wrong
        with pytest.raises(ValueError, match="beyond half precision"):
            Int4Linear(linear)


class Scorer(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.inner, self.head = nn.Embedding(100, 64), layer(64, 64), layer(64, 2)
        self.norm = nn.LayerNorm(64)

    def forward(self, ids):
        return self.head(self.norm(self.inner(self.table(ids))))


def test_a_whole_model_is_replaced_and_measured():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Scorer()
    ids = torch.arange(100)
    expected = model(ids)
    sizes = quantize(model, skip=["head"])
    assert type(model.head) is nn.Linear
    assert isinstance(model.inner, Int8Linear)
    assert isinstance(model.table, Int8Embedding)
    rest = 64 * 4 + 2 * 64 * 4 + (2 * 64 + 2) * 4  # bias, normalisation, head
    assert sizes.before == (100 * 64 + 64 * 64) * 4 + rest
    assert sizes.after == (100 * 64 + 64 * 64) + (100 + 64) * 4 + rest
    assert ((model(ids) - expected).norm() / expected.norm()).item() < 0.03
    again = Scorer()
    again.inner, again.table = Int8Linear(again.inner), Int8Embedding(again.table)
    again.load_state_dict(model.state_dict())  # its state is plain tensors
    assert torch.equal(again(ids), model(ids))
    with pytest.raises(ValueError, match="no linear layer or embedding"):
        quantize(nn.LayerNorm(3))
    with pytest.raises(ValueError, match="int8 or int4"):
        quantize(Scorer(), linear="int2")


def test_a_table_that_two_parts_share_stays_one_table():
    """As in T5, whose encoder and decoder hold the same embedding under their own names."""
    table, linear = nn.Embedding(100, 64), layer(64, 64)
    inner = nn.ModuleDict({"tokens": table, "first": linear, "second": linear})
    shared = nn.ModuleDict({"tokens": table, "inner": inner})
    sizes = quantize(shared)
    assert shared["tokens"] is shared["inner"]["tokens"]
    assert shared["inner"]["first"] is shared["inner"]["second"]
    # A scale for each row, and the layer's bias.
    assert sizes.after == (100 * 64 + 100 * 4) + (64 * 64 + 64 * 4 + 64 * 4)


def test_the_encoder_in_8_bits_finds_the_same_neighbours():
    exact = BiEncoder.from_pretrained("minilm", device="cpu")
    fast = copy.deepcopy(exact)
    sizes = quantize(fast)
    assert sizes.after < 0.27 * sizes.before
    colours, things = ["red", "oak", "cheap", "garden"], ["table", "lamp", "shoes", "hose", "phone case"]
    texts = [
        f"{colour} {thing} for {room}" for colour in colours for thing in things for room in ("him", "two")
    ]
    a, b = exact.encode(texts), fast.encode(texts)
    assert (a * b).sum(1).min() > 0.985
    near = [
        set(row) & set(other)
        for row, other in zip((a @ a.T).argsort()[:, -5:], (b @ b.T).argsort()[:, -5:], strict=True)
    ]
    assert np.mean([len(both) / 5 for both in near]) > 0.85
    np.testing.assert_allclose(fast.encode(texts[:1]), b[:1], atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif("LABKIT_DATA" not in os.environ, reason="LABKIT_DATA is not set: no judged queries here")
def test_what_8_bits_cost_on_real_judged_queries():
    """Printed with -s: overlap of the first ten, nDCG@10, bytes, seconds.

    Measured among the 2 517 judged products alone: nDCG@10 .5238 in float32, .5212 in 8 bits, overlap .911.
    """
    import time

    from labkit.data.sets import load_chorus
    from labkit.evaluate import evaluate_ranked, nDCG
    from labkit.rank import top_k

    data = load_chorus()
    titles, queries = data.titles(), data.queries["text"].to_list()
    qrels = data.qrels()
    ids, values = {}, {}
    for name in ("float32", "int8", "int4"):
        encoder = BiEncoder.from_pretrained("minilm", device="cpu")
        size = model_bytes(encoder) if name == "float32" else quantize(encoder, linear=name).after
        start = time.perf_counter()
        items = encoder.encode(titles, max_length=64)
        seconds = time.perf_counter() - start
        ids[name] = top_k(encoder.encode(queries), items, 10)[1]
        values[name] = evaluate_ranked([nDCG @ 10], ids[name], qrels)[nDCG @ 10]
        pairs = zip(ids[name], ids["float32"], strict=True)
        overlap = np.mean([len(set(a) & set(b)) / 10 for a, b in pairs])
        print(f"{name}: {size / 1e6:.1f} MB, {seconds:.1f} s, overlap {overlap:.3f}, "
              f"nDCG@10 {values[name].mean():.4f}")  # fmt: skip
        assert overlap > (0.5 if name == "int4" else 0.8)
    assert values["int8"].mean() > values["float32"].mean() - 0.01
