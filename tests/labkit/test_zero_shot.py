"""Zero-shot scores equal what the logits say, computed the long way."""

import copy

import numpy as np
import pytest
import torch

from labkit.models.zero_shot import calibrated, causal_scores, cloze_scores, encoder_scores
from labkit.text import resolve_encoder

TEXTS = ["red shoes for running", "an oak table", "usb cable 2 m"]
LABELS = ["furniture", "footwear", "electronics accessory"]
TEMPLATE = "{text}. This is about {label} today."


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve_encoder())


@pytest.fixture(scope="module")
def masked(tokenizer):
    """A small masked language model with random weights: every token matters to it, nothing makes sense."""
    from transformers import BertConfig, BertForMaskedLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=48, initializer_range=0.3,
        )  # fmt: skip
        return BertForMaskedLM(config).double().eval()


@pytest.fixture(scope="module")
def causal(tokenizer):
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, initializer_range=0.3,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        return GPT2LMHeadModel(config).double().eval()


def logits_of(model):
    return lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits


def test_cloze_equals_the_long_way(tokenizer, masked):
    """One prompt at a time, without padding, from the softmax over the vocabulary."""
    found = cloze_scores(logits_of(masked), tokenizer, TEXTS, TEMPLATE, LABELS)
    for i, text in enumerate(TEXTS):
        for j, label in enumerate(LABELS):
            words = tokenizer(label, add_special_tokens=False)["input_ids"]
            masks = " ".join(["[MASK]"] * len(words))
            ids = tokenizer(f"{text}. This is about {masks} today.", return_tensors="pt")["input_ids"]
            assert (ids == tokenizer.mask_token_id).sum() == len(words)
            with torch.no_grad():
                p = masked(input_ids=ids).logits.softmax(-1)[0]
            places = (ids[0] == tokenizer.mask_token_id).nonzero().flatten()
            product = 1.0
            for place, word in zip(places, words, strict=True):
                product *= p[place, word].item()
            assert found[i, j] == pytest.approx(np.log(product) / len(words), abs=1e-8)
    assert len({len(tokenizer(label)["input_ids"]) for label in LABELS}) > 1, "labels of several lengths"


def test_causal_equals_the_long_way(tokenizer, causal):
    """The chain rule, one token at a time."""
    template = "{text} is a kind of {label}"
    summed = causal_scores(logits_of(causal), tokenizer, TEXTS, template, LABELS, per_token=False)
    mean = causal_scores(logits_of(causal), tokenizer, TEXTS, template, LABELS)
    for i, text in enumerate(TEXTS):
        for j, label in enumerate(LABELS):
            ids = tokenizer(f"{text} is a kind of", add_special_tokens=False)["input_ids"]
            words = tokenizer(label, add_special_tokens=False)["input_ids"]
            total = 0.0
            for word in words:
                with torch.no_grad():
                    total += causal(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)[word].item()
                ids = [*ids, word]
            assert summed[i, j] == pytest.approx(total, abs=1e-8)
            assert mean[i, j] == pytest.approx(total / len(words), abs=1e-8)


def test_long_texts_are_cut_and_the_template_is_not(tokenizer, masked, causal):
    tokenizer = copy.copy(tokenizer)
    tokenizer.model_max_length = 32
    long = "very " * 60 + "red"
    prompts = []

    def record(ids, mask):
        prompts.append(ids[0].tolist())
        return torch.zeros(*ids.shape, len(tokenizer))

    cloze_scores(record, tokenizer, [long], TEMPLATE, ["shoe"])
    causal_scores(record, tokenizer, [long], "{text} is about {label}", ["shoe", "electronics accessory"])
    assert len(prompts[0]) <= tokenizer.model_max_length
    assert tokenizer.decode(prompts[0]).endswith("this is about [MASK] today. [SEP]")
    assert len(prompts[1]) <= tokenizer.model_max_length
    assert max(len(prompt) for prompt in prompts) > tokenizer.model_max_length - 8


def test_calibration_takes_out_what_the_text_does_not_say():
    generator = np.random.default_rng(0)
    scores, free = generator.normal(size=(5, 4)), generator.normal(size=(1, 4))
    found = calibrated(scores, free)
    np.testing.assert_allclose(np.exp(found).sum(1), 1)
    # Zhao et al.: W = diag(p_cf)^-1, renormalised.
    softmax = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    prior = np.exp(free) / np.exp(free).sum()
    expected = softmax / prior
    np.testing.assert_allclose(np.exp(found), expected / expected.sum(1, keepdims=True))
    # The content-free text itself comes out undecided, and a label's constant advantage disappears.
    np.testing.assert_allclose(np.exp(calibrated(free, free)), 0.25)
    bias = np.array([3.0, 0.0, -1.0, 0.5])
    np.testing.assert_allclose(calibrated(scores + bias, free + bias), found, atol=1e-12)
    # Several are averaged as probabilities.
    two = np.log([[0.9, 0.1], [0.3, 0.7]])
    np.testing.assert_allclose(np.exp(calibrated(np.log([[0.6, 0.4]]), two)), [[0.5, 0.5]])
    with pytest.raises(ValueError, match=r"\(K, 4\)"):
        calibrated(scores, free[:, :3])


def test_encoder_scores_average_wordings():
    from labkit.models import BiEncoder

    encoder = BiEncoder.from_pretrained("minilm", device="cpu")
    several = [["a sofa", "a couch"], "running shoes"]
    found = encoder_scores(encoder, TEXTS, several)
    texts, a, b, c = (encoder.encode(x) for x in (TEXTS, ["a sofa"], ["a couch"], ["running shoes"]))
    centre = (a + b) / np.linalg.norm(a + b)
    np.testing.assert_allclose(found, np.concatenate([texts @ centre.T, texts @ c.T], 1), atol=1e-6)
    for wrong in ([], [[]], ["a", []]):
        with pytest.raises(ValueError, match="at least one label"):
            encoder_scores(encoder, TEXTS, wrong)


def test_wrong_prompts_are_refused(tokenizer, masked):
    run = logits_of(masked)
    with pytest.raises(ValueError, match="once each"):
        cloze_scores(run, tokenizer, TEXTS, "{text} is a", LABELS)
    with pytest.raises(ValueError, match="must end with"):
        causal_scores(run, tokenizer, TEXTS, TEMPLATE, LABELS)
    # A label without a token before it would be worth log 1 = 0, more than any other.
    with pytest.raises(ValueError, match="A text is empty"):
        causal_scores(run, tokenizer, ["lamp", ""], "{text} {label}", LABELS)
    with pytest.raises(ValueError, match="none of them empty"):
        cloze_scores(run, tokenizer, TEXTS, TEMPLATE, ["sofa", " "])
    with pytest.raises(ValueError, match=r"holds \[MASK\]"):
        cloze_scores(run, tokenizer, ["a [MASK]"], TEMPLATE, LABELS)
