"""Encoders against sentence-transformers and against themselves."""

import numpy as np
import pytest
import torch

from labkit.models import BiEncoder, CrossEncoder
from labkit.models.pretrained import mean_pool
from labkit.text import resolve_encoder

TEXTS = [
    "running shoes",
    "",
    "A three-seat sofa in grey velvet with oak legs, 200 cm wide",
    "sofa",
    "IPX7 rainproof jacket " * 90,  # longer than the model reads
    "无线耳机 🎧",
]


@pytest.fixture(scope="module")
def encoder():
    return BiEncoder.from_pretrained("minilm", device="cpu")


def test_encode_equals_sentence_transformers(encoder):
    peer = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed to compare with"
    )
    expected = peer.SentenceTransformer(resolve_encoder("minilm"), device="cpu").encode(
        TEXTS, normalize_embeddings=True
    )
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, rtol=0, atol=1e-5)


def test_saved_encoder_reads_back_here_and_in_sentence_transformers(encoder, tmp_path):
    encoder.save(tmp_path / "model")
    ours = encoder.encode(TEXTS)
    np.testing.assert_array_equal(
        BiEncoder.from_pretrained(str(tmp_path / "model"), device="cpu").encode(TEXTS), ours
    )
    peer = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed to compare with"
    )
    theirs = peer.SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)


def test_order_batching_and_mode_do_not_change_vectors(encoder):
    together = encoder.encode(TEXTS)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    encoder.train()
    np.testing.assert_array_equal(encoder.encode(TEXTS), together)
    assert encoder.training
    encoder.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # exact means exact, whatever surrounds it
        np.testing.assert_array_equal(encoder.encode(TEXTS), together)
    assert encoder.encode([]).shape == (0, 384)
    with pytest.raises(ValueError, match=r"encode\(\[text\]\)"):
        encoder.encode("sofa")


def test_fast_format_stays_close(encoder):
    exact = encoder.encode(TEXTS)
    # Forced, since a processor without bf16 instructions takes float32 as its own fast format.
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        fast = encoder.embed(encoder.tokenize(TEXTS)).numpy()
    assert not np.array_equal(fast, exact)
    assert (exact * fast).sum(axis=1).min() > 0.995


def test_the_head_of_a_cross_encoder_keeps_its_precision_under_autocast():
    model = CrossEncoder.from_pretrained("minilm", device="cpu")
    batch = model.tokenize([("sofa", "grey couch"), ("sofa", "desk lamp"), ("rug", "wool rug")])
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        logits = model.logits(batch)
        states = model.body(**batch).last_hidden_state.float()
    expected = model.head(mean_pool(states, batch["attention_mask"])).squeeze(-1)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


def small_bert(kind):
    from transformers import BertConfig

    return kind(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16))


def test_a_trained_head_of_another_make_is_never_dropped_in_silence(encoder, tmp_path):
    from transformers import BertForSequenceClassification

    small_bert(BertForSequenceClassification).save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trained head"):
        CrossEncoder.from_pretrained(str(tmp_path), device="cpu")


def test_pooling_concerns_the_bi_encoder_alone(encoder, tmp_path):
    from transformers import BertModel

    small_bert(BertModel).save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    with pytest.raises(ValueError, match="by their mean"):
        BiEncoder.from_pretrained(str(tmp_path), device="cpu")
    assert CrossEncoder.from_pretrained(str(tmp_path), device="cpu").score([("a", "b")]).shape == (1,)


def test_embed_carries_gradients_and_agrees_with_encode(encoder):
    batch = encoder.tokenize(["sofa", "grey couch"], max_length=16)
    vectors = encoder.embed(batch)
    vectors[0].sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    encoder.zero_grad()
    np.testing.assert_allclose(vectors.detach().numpy(), encoder.encode(["sofa", "grey couch"]), atol=1e-5)


def test_mean_pool_ignores_padding_and_survives_an_empty_mask():
    states = torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]])
    pooled = mean_pool(states, mask)
    torch.testing.assert_close(pooled[0], states[0, :2].mean(0))
    assert not pooled[1].any()


def test_cross_encoder_scores_save_and_repeat(tmp_path):
    pairs = [("sofa", "grey couch"), ("sofa", "desk lamp " * 60), ("", "")]
    torch.manual_seed(5)
    expected_next = torch.rand(1)
    torch.manual_seed(5)
    model = CrossEncoder.from_pretrained("minilm", device="cpu", seed=3)
    assert torch.equal(torch.rand(1), expected_next), "loading moved the caller's random numbers"
    scores = model.score(pairs)
    assert scores.shape == (3,)
    np.testing.assert_array_equal(
        CrossEncoder.from_pretrained("minilm", device="cpu", seed=3).score(pairs), scores
    )
    alone = np.concatenate([model.score([pair]) for pair in pairs])
    np.testing.assert_allclose(scores, alone, atol=1e-4)
    with torch.no_grad():
        np.testing.assert_allclose(model.logits(model.tokenize(pairs)).numpy(), scores, atol=1e-4)
    model.save(tmp_path / "reranker")
    np.testing.assert_array_equal(
        CrossEncoder.from_pretrained(str(tmp_path / "reranker"), device="cpu", seed=9).score(pairs), scores
    )


def test_a_model_that_does_not_exist_is_said_plainly(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="no/such-model"):
        BiEncoder.from_pretrained("no/such-model")
