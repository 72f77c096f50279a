"""The transformer against torch.nn and Hugging Face, packed against padded, and what tokens may see."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from labkit.models.attention import flash_takes, padded_attention, varlen_attention
from labkit.models.dual_encoder import DualEncoder
from labkit.models.hugging_face import from_hugging_face, load_transformer, to_hugging_face
from labkit.models.language import LanguageModel
from labkit.models.positions import rotate, rotation
from labkit.models.pretrained import load_body
from labkit.models.rq_vae import RQVAE
from labkit.models.sequential import HSTU, GRU4Rec
from labkit.models.transformer import Transformer, TransformerConfig
from labkit.models.vision import CNNConfig, ResidualNetwork, VisionTransformer, ViTConfig
from labkit.text.packing import (
    Packed,
    from_padded,
    offsets_of,
    pack,
    to_padded,
    tokens_by_length,
    unpack,
)

LENGTHS = [3, 7, 1, 3, 12, 7, 7]  # unsorted, with repetitions and a single token


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def sequences(lengths=LENGTHS, vocabulary=50):
    return [torch.randint(1, vocabulary, (length,)) for length in lengths]


def small(**changes):
    shape = {"vocabulary": 50, "width": 16, "layers": 2, "heads": 4, "feedforward": 24, "longest": 16}
    return Transformer(TransformerConfig(**shape | changes), seed=1).double()


def attention_by_hand(q, k, v, allowed=None, bias=None):
    """softmax(q kᵀ / √Dh) v for one sequence, one head and one query at a time."""
    states = torch.zeros_like(q)
    for h in range(q.shape[1]):
        for i in range(len(q)):
            scores = torch.stack([q[i, h] @ k[j, h] / q.shape[2] ** 0.5 for j in range(len(k))])
            if bias is not None:
                scores = scores + bias[h, i, : len(k)]
            weights = scores.exp()
            if allowed is not None:
                weights = weights * torch.tensor([float(allowed(i, j)) for j in range(len(k))])
            states[i, h] = (weights[:, None] * v[:, h]).sum(0) / weights.sum()
    return states


class TestPacking:
    def test_pack_and_unpack_are_inverse(self):
        parts = sequences()
        batch = pack(parts)
        assert batch.offsets.dtype == torch.int32
        assert batch.longest == 12
        assert batch.positions.tolist() == [place for n in LENGTHS for place in range(n)]
        assert batch.rows.tolist() == [row for row, n in enumerate(LENGTHS) for _ in range(n)]
        for ours, theirs in zip(unpack(batch.ids, batch.offsets), parts, strict=True):
            assert torch.equal(ours, theirs)

    @pytest.mark.parametrize("kind", [list, lambda part: part.numpy(), lambda part: part])
    def test_takes_lists_arrays_and_tensors(self, kind):
        parts = sequences()
        assert torch.equal(pack([kind(part) for part in parts]).ids, torch.cat(parts))

    def test_padded_and_back_with_gradients(self):
        batch = pack(sequences())
        values = torch.randn(len(batch.ids), 2, requires_grad=True)
        padded, mask = to_padded(values, batch.offsets)
        assert padded.shape == (7, 12, 2)
        assert mask.sum(1).tolist() == LENGTHS
        assert not padded[~mask].any()
        again, offsets = from_padded(padded, mask)
        assert torch.equal(again, values)
        assert torch.equal(offsets, batch.offsets)
        weights = torch.randn_like(again)
        (again * weights).sum().backward()
        assert torch.equal(values.grad, weights)

    def test_left_padding(self):
        values, offsets = from_padded(torch.tensor([[0, 1], [2, 3]]), torch.tensor([[0, 1], [1, 1]]))
        assert values.tolist() == [1, 2, 3]
        assert offsets.tolist() == [0, 1, 3]

    def test_by_length(self):
        segments = [[i % 2] * n for i, n in enumerate(LENGTHS)]
        batch = pack(sequences(), segments)
        ordered, order = batch.by_length()
        assert ordered.lengths.tolist() == sorted(LENGTHS)
        # A stable sort: those of equal length keep their order, found here by Python's own sort.
        expected = sorted(unpack(batch.ids, batch.offsets), key=len)
        assert torch.equal(ordered.ids, torch.cat(expected))
        assert torch.equal(batch.segments[order], ordered.segments)
        assert torch.equal(ordered.ids.index_copy(0, order, ordered.ids), batch.ids)
        assert ordered.by_length()[1] is None
        assert torch.equal(tokens_by_length(batch.offsets), order)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([],), "no sequence to pack"),
            (([[1], []],), "Sequence 1 of the batch has no token"),
            (([[1, 2]], [[0]]), "lengths differ"),
        ],
    )
    def test_wrong_input(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            pack(*arguments)


class TestAttention:
    @pytest.mark.parametrize("grad", [True, False])  # two ways to compute it on the CPU
    @pytest.mark.parametrize(
        ("causal", "window", "biased"),
        [(False, None, False), (True, None, False), (False, 2, False), (True, 2, True), (False, None, True)],
    )
    def test_equals_the_formula(self, causal, window, biased, grad):
        offsets = offsets_of(torch.tensor(LENGTHS))
        q, k, v = torch.randn(3, sum(LENGTHS), 2, 4, dtype=torch.float64, requires_grad=grad)
        bias = torch.randn(2, 12, 12, dtype=torch.float64) if biased else None

        def allowed(i, j):
            return (not causal or j <= i) and (window is None or abs(i - j) <= window)

        expected = torch.cat(
            [
                attention_by_hand(*parts, allowed, bias)
                for parts in zip(*(unpack(x.detach(), offsets) for x in (q, k, v)), strict=True)
            ]
        )
        states = varlen_attention(q, k, v, offsets, 12, causal, window=window, bias=bias)
        torch.testing.assert_close(states.detach(), expected, rtol=0, atol=1e-12)

        padded = [to_padded(x, offsets)[0] for x in (q, k, v)]
        mask = to_padded(q, offsets)[1]
        states = padded_attention(*padded, mask, causal, window=window, bias=bias)
        torch.testing.assert_close(states[mask].detach(), expected, rtol=0, atol=1e-12)

    def test_left_padding_makes_no_nan(self):
        q, k, v = torch.randn(3, 1, 4, 2, 8, requires_grad=True)
        states = padded_attention(q, k, v, torch.tensor([[False, False, True, True]]), causal=True)
        assert states.isfinite().all()

    @pytest.mark.parametrize("causal", [False, True])
    def test_a_sequence_of_padding_spoils_no_gradient(self, causal):
        x = torch.randn(2, 3, 2, 4)
        weight = torch.ones(4, requires_grad=True)
        states = padded_attention(
            *[x * weight] * 3, torch.tensor([[True, True, False], [False] * 3]), causal=causal
        )
        (spoilt,) = torch.autograd.grad(states[0, :2].sum(), weight)
        alone = padded_attention(*[x[:1, :2] * weight] * 3, causal=causal)
        torch.testing.assert_close(spoilt, torch.autograd.grad(alone.sum(), weight)[0])

    @pytest.mark.parametrize("autocast", [False, True])
    def test_bf16(self, autocast):
        """The format of the inputs comes back, and only inputs and outputs are rounded to it."""
        offsets = offsets_of(torch.tensor(LENGTHS))
        q, k, v = torch.randn(3, sum(LENGTHS), 2, 8).bfloat16()
        q.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            states = varlen_attention(q, k, v, offsets, 12)
        assert states.dtype == torch.bfloat16
        expected = varlen_attention(q.double(), k.double(), v.double(), offsets, 12)
        torch.testing.assert_close(states.double(), expected, rtol=2**-8, atol=1e-6)

    def test_gradient(self):
        offsets = offsets_of(torch.tensor([2, 1, 3, 2]))
        q, k, v = (torch.randn(8, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
        assert torch.autograd.gradcheck(lambda *x: varlen_attention(*x, offsets, 3, causal=True), (q, k, v))

    def test_cross_attention(self):
        rows, columns = torch.tensor([2, 1, 3]), torch.tensor([4, 5, 1])
        q = torch.randn(6, 2, 4, dtype=torch.float64)
        k, v = torch.randn(2, 10, 2, 4, dtype=torch.float64)
        offsets, key_offsets = offsets_of(rows), offsets_of(columns)
        states = varlen_attention(q, k, v, offsets, 3, key_offsets=key_offsets, key_longest=5)
        parts = zip(unpack(q, offsets), unpack(k, key_offsets), unpack(v, key_offsets), strict=True)
        expected = torch.cat([attention_by_hand(*part) for part in parts])
        torch.testing.assert_close(states, expected, rtol=0, atol=1e-12)

    def test_dropout_keeps_the_mean(self):
        q, k = torch.randn(2, 4, 1, 8, requires_grad=True)
        v = torch.ones(4, 1, 8)
        offsets = offsets_of(torch.tensor([4]))
        means = torch.stack([varlen_attention(q, k, v, offsets, 4, dropout=0.5).mean() for _ in range(2000)])
        # A kept weight counts double; the mean over 4 queries of 2000 draws is 1 within 5 deviations.
        assert abs(float(means.mean().detach()) - 1) < 5 * float(means.std().detach()) / 2000**0.5
        assert float(means.std().detach()) > 0.1

    def test_wrong_input(self):
        q = k = v = torch.randn(5, 2, 4)
        with pytest.raises(ValueError, match="offsets end at 4, but there are 5 queries"):
            varlen_attention(q, k, v, torch.tensor([0, 4]), 4)
        with pytest.raises(ValueError, match="knows no causal order"):
            varlen_attention(q, k, v, torch.tensor([0, 5]), 5, True, key_offsets=torch.tensor([0, 5]))
        with pytest.raises(ValueError, match="1 sequences of queries cannot read 2"):
            varlen_attention(q, k, v, torch.tensor([0, 5]), 5, key_offsets=torch.tensor([0, 2, 5]))


class TestRotary:
    def test_scores_depend_on_distances_alone(self):
        q, k = torch.randn(2, 1, 1, 16, dtype=torch.float64)

        def score(i, j):
            turned = [
                rotate(x, *rotation(torch.tensor([at]), 16, torch.float64)) for x, at in ((q, i), (k, j))
            ]
            return float((turned[0] * turned[1]).sum())

        assert score(3, 1) == pytest.approx(score(1003, 1001), abs=1e-9)
        assert abs(score(3, 1) - score(1, 3)) > 1e-3  # before is not after
        assert abs(score(3, 1) - score(4, 1)) > 1e-3

    def test_equals_hugging_face(self):
        config = LlamaConfig(hidden_size=32, num_attention_heads=2, max_position_embeddings=64)
        q, k = torch.randn(2, 1, 2, 9, 16)
        places = torch.arange(9)[None]
        cos, sin = LlamaRotaryEmbedding(config)(q, places)
        theirs = apply_rotary_pos_emb(q, k, cos, sin)
        turn = rotation(torch.arange(9), 16)
        for ours, other in zip((q, k), theirs, strict=True):
            turned = rotate(ours[0].transpose(0, 1), *turn)
            torch.testing.assert_close(turned, other[0].transpose(0, 1), rtol=1e-5, atol=1e-5)

    def test_places_of_a_text_count_from_its_own_start(self):
        model = small(positions="rotary").eval()
        text = torch.arange(1, 8)
        alone, together = model(pack([text])), model(pack([sequences([12])[0], text]))
        torch.testing.assert_close(alone, together[12:], rtol=0, atol=1e-12)
        assert (alone - model(pack([text.flip(0)])).flip(0)).abs().max() > 1e-6  # the order matters


class TestTorch:
    @pytest.mark.parametrize("norm", ["post", "pre"])
    @pytest.mark.parametrize("causal", [False, True])
    def test_blocks_equal_torch_encoder(self, norm, causal):
        model = small(norm=norm, causal=causal, activation="gelu").eval()
        layer = nn.TransformerEncoderLayer(
            16, 4, 24, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm == "pre"
        )
        theirs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().eval()
        for block, other in zip(model.blocks, theirs.layers, strict=True):
            with torch.no_grad():
                other.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
                other.self_attn.in_proj_bias.copy_(block.attention.qkv.bias)
            for mine, its in [
                (block.attention.out, other.self_attn.out_proj),
                (block.feedforward.up, other.linear1),
                (block.feedforward.down, other.linear2),
                (block.attention_norm, other.norm1),
                (block.feedforward_norm, other.norm2),
            ]:
                its.load_state_dict(mine.state_dict())
            other.norm1.eps = other.norm2.eps = 1e-12
        batch = pack(sequences())
        padded, mask = to_padded(batch.ids, batch.offsets)
        with torch.no_grad():
            x = model.embed(padded, torch.arange(12).expand(7, 12), 12, None)
            blind = torch.ones(12, 12, dtype=torch.bool).triu(1) if causal else None
            expected = theirs(x, mask=blind, src_key_padding_mask=~mask)
            if norm == "pre":
                expected = model.norm(expected)
            torch.testing.assert_close(model(batch), expected[mask], rtol=0, atol=1e-12)

    def test_cross_attention_equals_torch_decoder(self):
        model = small(norm="pre", causal=True, cross=True, activation="relu").eval()
        layer = nn.TransformerDecoderLayer(16, 4, 24, dropout=0.0, batch_first=True, norm_first=True)
        theirs = nn.TransformerDecoder(layer, 2).double().eval()
        for block, other in zip(model.blocks, theirs.layers, strict=True):
            with torch.no_grad():
                other.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
                other.self_attn.in_proj_bias.copy_(block.attention.qkv.bias)
                other.multihead_attn.in_proj_weight.copy_(
                    torch.cat([block.cross.q.weight, block.cross.kv.weight])
                )
                other.multihead_attn.in_proj_bias.copy_(torch.cat([block.cross.q.bias, block.cross.kv.bias]))
            for mine, its in [
                (block.attention.out, other.self_attn.out_proj),
                (block.cross.out, other.multihead_attn.out_proj),
                (block.feedforward.up, other.linear1),
                (block.feedforward.down, other.linear2),
                (block.attention_norm, other.norm1),
                (block.cross_norm, other.norm2),
                (block.feedforward_norm, other.norm3),
            ]:
                its.load_state_dict(mine.state_dict())
            other.norm1.eps = other.norm2.eps = other.norm3.eps = 1e-12
        batch, source = pack(sequences([3, 6, 2])), pack(sequences([5, 1, 4]))
        states = torch.randn(10, 16, dtype=torch.float64)
        padded, mask = to_padded(batch.ids, batch.offsets)
        memory, real = to_padded(states, source.offsets)
        with torch.no_grad():
            x = model.embed(padded, torch.arange(6).expand(3, 6), 6, None)
            blind = torch.ones(6, 6, dtype=torch.bool).triu(1)
            expected = model.norm(theirs(x, memory, tgt_mask=blind, memory_key_padding_mask=~real))
            ours = model(batch, memory=(states, source))
        torch.testing.assert_close(ours, expected[mask], rtol=0, atol=1e-12)


def bert(dtype=torch.float64):
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=16,
    )
    return BertModel(config, add_pooling_layer=False).to(dtype).eval()


def gpt2(dtype=torch.float64, **changes):
    shape = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16}
    config = GPT2Config(**shape, bos_token_id=None, eos_token_id=None, **changes)
    return GPT2Model(config).to(dtype).eval()


class TestHuggingFace:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
    @pytest.mark.parametrize("make", [bert, gpt2])
    def test_hidden_states_and_gradients_are_equal(self, make, dtype, tolerance):
        body = make(dtype)
        with torch.no_grad():
            for parameter in body.parameters():  # fresh biases are 0 and would hide a lost one
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model = from_hugging_face(body)
        segments = [[0] * (n // 2) + [1] * (n - n // 2) for n in LENGTHS] if make is bert else None
        batch = pack(sequences(), segments)
        ids, mask = to_padded(batch.ids, batch.offsets)
        more = {"token_type_ids": to_padded(batch.segments, batch.offsets)[0]} if segments else {}
        theirs = body(input_ids=ids, attention_mask=mask.long(), **more).last_hidden_state[mask]
        packed = model(batch)
        padded = model(ids, mask, more.get("token_type_ids"))[mask]
        weights = torch.randn_like(theirs)
        for ours in (packed, padded):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * 10)
            model.zero_grad()
            (ours * weights).sum().backward()
            ours_grad = {name: p.grad for name, p in to_named_gradients(model).items()}
            body.zero_grad()
            (theirs * weights).sum().backward(retain_graph=True)
            for name, parameter in body.named_parameters():
                torch.testing.assert_close(
                    ours_grad[name], parameter.grad, rtol=tolerance, atol=tolerance * 100, msg=name
                )

    @pytest.mark.parametrize("make", [bert, gpt2])
    def test_there_and_back(self, make, tmp_path):
        body = make(torch.float32)
        again = to_hugging_face(from_hugging_face(body))
        again.save_pretrained(tmp_path)
        read = type(body).from_pretrained(tmp_path, **({"add_pooling_layer": False} if make is bert else {}))
        state = read.state_dict()
        assert state.keys() == body.state_dict().keys()
        for name, tensor in body.state_dict().items():
            assert torch.equal(state[name], tensor), name
        ids = sequences([9])[0][None]
        assert torch.equal(read.eval()(ids).last_hidden_state, body(ids).last_hidden_state)

    def test_minilm(self):
        model, tokenizer, longest = load_transformer("minilm")
        body, _, _ = load_body("minilm")
        texts = ["sofa", "a grey corner sofa with wooden legs", "running shoes, size 44", "", "desk lamp"]
        batch = pack(tokenizer(texts)["input_ids"])
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            theirs = body(**inputs).last_hidden_state[inputs["attention_mask"].bool()]
            torch.testing.assert_close(model(batch), theirs, rtol=0, atol=1e-5)
        assert longest == 256

    def test_refusals(self):
        with pytest.raises(ValueError, match="type 'gpt2' with these settings"):
            from_hugging_face(gpt2(scale_attn_by_inverse_layer_idx=True))
        with pytest.raises(ValueError, match="this is neither"):
            to_hugging_face(small(positions="rotary"))


def to_named_gradients(model):
    """Our parameters' gradients under Hugging Face's names: a body whose weights are the gradients."""
    gradients = Transformer(model.config).to(next(model.parameters()).dtype)
    gradients.load_state_dict({name: p.grad for name, p in model.named_parameters()})
    body = to_hugging_face(gradients)
    for parameter in body.parameters():
        parameter.grad = parameter.data
    return dict(body.named_parameters())


class TestWhatTokensSee:
    @pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
    def test_the_future_does_not_change_the_past(self, positions):
        model = small(causal=True, norm="pre", positions=positions).eval()
        text = sequences([10])[0]
        changed = text.clone()
        changed[6:] = (changed[6:] + 1) % 50
        with torch.no_grad():
            before, after = model(pack([text])), model(pack([changed]))
        assert torch.equal(before[:6], after[:6])
        assert (before[6:] - after[6:]).abs().max() > 1e-3

    @pytest.mark.parametrize("causal", [False, True])
    @pytest.mark.parametrize("grad", [False, True])
    def test_documents_do_not_see_each_other(self, causal, grad):
        model = small(causal=causal).eval()
        parts = sequences()
        changed = [part if i != 1 else (part + 1) % 50 for i, part in enumerate(parts)]
        with torch.set_grad_enabled(grad):
            before = unpack(model(pack(parts)), pack(parts).offsets)
            after = unpack(model(pack(changed)), pack(parts).offsets)
        for i, (x, y) in enumerate(zip(before, after, strict=True)):
            assert torch.equal(x, y) == (i != 1)

    def test_order_of_the_batch_does_not_matter(self):
        model = small().eval()
        parts = sequences()
        states = unpack(model(pack(parts)), pack(parts).offsets)
        backwards = unpack(model(pack(parts[::-1])), pack(parts[::-1]).offsets)
        for x, y in zip(states, backwards[::-1], strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


class TestTransformer:
    def test_first_weights_come_from_the_seed_alone(self):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first, second, other = (Transformer(small().config, seed) for seed in (3, 3, 4))
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(first.tokens.weight, second.tokens.weight)
        assert not torch.equal(first.tokens.weight, other.tokens.weight)

    def test_a_new_model_does_not_reseed_the_gpus(self, monkeypatch):
        """They belong to the caller; fork_rng(devices=[]) does not give their random numbers back."""
        reseeded = []
        monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
        shape = small().config
        LanguageModel(shape)  # a transformer, and a head of its own
        GRU4Rec(5, width=4, hidden=4)
        HSTU(5, width=8)
        RQVAE(4, sizes=(2,), latent=2, hidden=())
        ResidualNetwork(CNNConfig(widths=(2,)))
        VisionTransformer(ViTConfig(width=4, layers=1, heads=1, feedforward=4))
        DualEncoder(nn.Identity(), nn.Identity(), list, 2, 2)
        assert not reseeded

    def test_dropout_only_while_training(self):
        model = small(dropout=0.5, attention_dropout=0.5)
        batch = pack(sequences())
        assert not torch.equal(model(batch), model(batch))
        model.eval()
        assert torch.equal(model(batch), model(batch))

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda model: model(pack([[1, 77]])), "Token 77 is not among the 50"),
            (lambda model: model(pack([[1, -1]])), "Token -1 is not among the 50"),
            (lambda model: model(pack([[1] * 17])), "17 tokens, and this transformer knows 16 places"),
            (
                lambda model: model(pack([[1]]), memory=(torch.zeros(1, 16), pack([[1]]))),
                "no cross-attention",
            ),
            (lambda model: small(cross=True)(pack([[1]])), "needs the memory"),
            (lambda model: small(heads=3), "cannot be shared equally by 3 heads"),
            (lambda model: small(heads=16, positions="rotary"), "even number per head"),
            (lambda model: small(layers=0), "layers must be at least 1"),
        ],
    )
    def test_wrong_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call(small())


@pytest.mark.parametrize(
    ("width", "generation", "dtype", "taken"),
    [(64, 9, torch.bfloat16, True), (256, 8, torch.float16, True), (25, 9, torch.bfloat16, False),
     (264, 9, torch.bfloat16, False), (64, 7, torch.float16, False), (64, 9, torch.float32, False)],
)  # fmt: skip
def test_flash_attention_is_used_only_where_it_has_a_kernel(width, generation, dtype, taken, monkeypatch):
    """On tensors that claim to be on a GPU: torch refuses other heads and older cards only on a real one."""
    card = SimpleNamespace(major=generation)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    with FakeTensorMode():
        q = torch.empty(7, 2, width, dtype=dtype, device="cuda")
        assert flash_takes(q) == taken


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="SKIPPED: no CUDA device; attention there is untested"
)
@pytest.mark.parametrize("width", [32, 25])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (True, 3)])
def test_gpu_equals_cpu(dtype, causal, window, width):
    offsets = offsets_of(torch.tensor(LENGTHS))
    inputs = [torch.randn(sum(LENGTHS), 4, width) for _ in range(3)]
    ours = [x.cuda().to(dtype).requires_grad_() for x in inputs]
    theirs = [x.detach().double().cpu().requires_grad_() for x in ours]
    states = varlen_attention(*ours, offsets.cuda(), 12, causal, window=window)
    expected = varlen_attention(*theirs, offsets, 12, causal, window=window)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(states.double().cpu(), expected, rtol=tolerance, atol=tolerance)
    states.square().sum().backward()
    expected.square().sum().backward()
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.grad.double().cpu(), y.grad, rtol=4 * tolerance, atol=4 * tolerance)


def test_packed_moves_between_devices():
    batch = pack([[1, 2], [3]], [[0, 1], [0]]).to("cpu")
    assert isinstance(batch, Packed)
    assert batch.segments.tolist() == [0, 1, 0]
