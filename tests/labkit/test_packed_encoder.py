"""Hugging Face encoders on packed tokens: states and gradients of the padded batch, for every sequence."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from labkit.models import BiEncoder, CrossEncoder
from labkit.models.packed import enable_packing, packed_mean, packed_states
from labkit.text.packing import pack, to_padded

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "vocab_size": 90, "max_position_embeddings": 40, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
KINDS = {
    "bert": lambda: BertModel(BertConfig(**SMALL), add_pooling_layer=False),
    "roberta": lambda: RobertaModel(RobertaConfig(**SMALL, pad_token_id=1), add_pooling_layer=False),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def draw(seed, sizes=(9, 1, 17, 9, 4)):
    generator = torch.Generator().manual_seed(seed)
    # From 5 up, so that no token is taken for padding.
    return [torch.randint(5, 90, (size,), generator=generator).tolist() for size in sizes]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_packed_equals_padded_with_gradients(kind, seed):
    torch.manual_seed(seed)
    plain = KINDS[kind]().double().train()  # without dropout, so that training mode is exact
    body = KINDS[kind]().double().train()
    body.load_state_dict(plain.state_dict())
    assert enable_packing(body)
    batch = pack(draw(seed))
    ids, mask = to_padded(batch.ids, batch.offsets)
    ids = ids.masked_fill(~mask, 1 if kind == "roberta" else 0)
    expected = plain(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask]  # (T, D)
    states = packed_states(body, batch)
    torch.testing.assert_close(states, expected, rtol=1e-10, atol=1e-12)
    wanted = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (expected * wanted).sum().backward()
    (states * wanted).sum().backward()
    for ours, theirs in zip(body.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-10)
    # A packable body still takes padded batches.
    again = body(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask]
    torch.testing.assert_close(again, expected, rtol=1e-10, atol=1e-12)


def test_a_sequence_does_not_see_its_neighbours():
    body = KINDS["bert"]().double().eval()
    enable_packing(body)
    sequences = draw(0)
    changed = [*sequences[:2], draw(1)[2], *sequences[3:]]
    before, after = (packed_states(body, pack(part)) for part in (sequences, changed))
    kept = torch.ones(len(before), dtype=torch.bool)
    kept[10:27] = False
    assert torch.equal(before[kept], after[kept])
    assert not torch.allclose(before[~kept], after[~kept])


def test_means_are_those_of_each_sequence_alone():
    values = torch.randn(40, 3, dtype=torch.float64)
    batch = pack(draw(0))
    means = [values[a:b].mean(0) for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)]
    torch.testing.assert_close(packed_mean(values, batch), torch.stack(means))


def test_encoders_give_the_same_packed_and_padded():
    encoder = BiEncoder.from_pretrained("minilm", device="cpu")
    texts = ["sofa", "", "waterproof running jacket, breathable, with hood", "无线耳机", "sofa"]
    with torch.inference_mode():
        padded, packed = encoder.embed(encoder.tokenize(texts)), encoder.embed(encoder.pack(texts))
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(texts), padded.numpy(), rtol=0, atol=1e-5)
    reranker = CrossEncoder.from_pretrained("minilm", device="cpu")
    pairs = [("sofa", text) for text in texts]
    with torch.inference_mode():  # here the second text's segment number matters
        padded, packed = reranker(reranker.tokenize(pairs)), reranker(reranker.pack(pairs))
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)


def test_what_does_not_fit_is_said():
    body = KINDS["roberta"]().eval()
    enable_packing(body)
    assert packed_states(body, pack([[5] * 38])).shape == (38, 32)
    with pytest.raises(ValueError, match="39 tokens, the model has 38 places"):
        packed_states(body, pack([[5] * 39]))
    with pytest.raises(ValueError, match="the number 90, but the model knows 90"):
        packed_states(body, pack([[5, 90]]))
