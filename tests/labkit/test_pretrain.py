"""Pretraining: what is hidden and predicted, what a loss per byte means, and that models beat counting."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM

from labkit.models.language import LanguageModel
from labkit.models.perplexity import score_text
from labkit.models.transformer import TransformerConfig
from labkit.shop import load
from labkit.text.packing import pack
from labkit.text.sequences import hide_tokens, next_tokens, sequences
from labkit.text.vocabulary import train_vocabulary
from labkit.train.config import TrainConfig
from labkit.train.pretrain import held_out_loss, pretrain_job
from labkit.train.tasks import TASKS

TEXTS = ["red sofa, seats three", "blue chair", "沙发 sofa", "a  chair ,with spaces\nand lines", ""]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def titles():
    return load("small").titles()


@pytest.fixture(scope="module")
def tokenizer(titles):
    return train_vocabulary(titles, size=1000)


def small(tokenizer, causal, **changes):
    shape = {"width": 48, "layers": 2, "heads": 4, "feedforward": 96, "longest": 64, "segments": 2}
    if causal:
        shape |= {"norm": "pre", "segments": 0}
    return LanguageModel(TransformerConfig(len(tokenizer), **shape | changes, causal=causal))


class TestVocabulary:
    def test_every_text_comes_back(self, tokenizer):
        for text in [*TEXTS, "emoji 🛋️ and Ω, é", "\x00 control"]:
            ids = tokenizer(text)["input_ids"]
            assert ids[0] == tokenizer.cls_token_id
            assert ids[-1] == tokenizer.sep_token_id
            assert tokenizer.decode(ids, skip_special_tokens=True) == text

    def test_joins_the_most_frequent_pair_first(self):
        # Counted by hand: in "abab abac" the pair (a, b) occurs 3 times, any other at most twice.
        tokenizer = train_vocabulary(["abab", "abac"], size=261)
        assert tokenizer.tokenize("abac") == ["ab", "a", "c"]

    def test_is_deterministic_and_shorter_than_bytes(self, titles, tokenizer):
        again = train_vocabulary(titles, size=1000)
        assert again.get_vocab() == tokenizer.get_vocab()
        assert len(tokenizer) == 1000
        tokens = sum(len(ids) for ids in tokenizer(titles)["input_ids"])
        assert tokens < 0.45 * sum(len(title.encode()) for title in titles)

    def test_pairs_have_segments(self, tokenizer):
        pair = tokenizer("red", "sofa", return_token_type_ids=True)
        assert pair["token_type_ids"][0] == 0
        assert pair["token_type_ids"][-1] == 1

    def test_too_small(self):
        with pytest.raises(ValueError, match="no room beyond the 256 bytes"):
            train_vocabulary(["a"], size=260)


class TestSequences:
    @pytest.mark.parametrize("longest", [2, 3, 7, 64])
    def test_causal_parts_predict_each_token_once(self, tokenizer, longest):
        parts = sequences(tokenizer, TEXTS, longest, causal=True)
        assert max(map(len, parts)) <= longest
        targets = [next_tokens(pack([part])).tolist()[:-1] for part in parts]
        predicted = [token for part in targets for token in part]
        assert predicted == [token for ids in tokenizer(TEXTS)["input_ids"] for token in ids[1:]]

    def test_too_short_for_anything_to_predict(self, tokenizer):
        with pytest.raises(ValueError, match="tokens leave nothing to predict; take at least 2"):
            sequences(tokenizer, TEXTS, 1, causal=True)

    def test_masked_parts_hold_each_token_once(self, tokenizer):
        parts = sequences(tokenizer, TEXTS, 5, causal=False)
        special = set(tokenizer.all_special_ids)
        kept = [token for part in parts for token in part if token not in special]
        whole = [token for ids in tokenizer(TEXTS)["input_ids"] for token in ids if token not in special]
        assert kept == whole
        assert all(set(part) - special for part in parts)

    def test_next_tokens_stay_within_their_sequence(self):
        assert next_tokens(pack([[5, 6, 7], [8], [9, 4]])).tolist() == [6, 7, -100, -100, 4, -100]


class TestHideTokens:
    def test_rates(self):
        vocabulary, mask, special = 1000, 3, (0, 1, 2, 3)
        ids = torch.randint(4, vocabulary, (200_000,))
        ids[::10] = 1
        batch = pack(list(ids.split(100)))
        before = batch.ids.clone()
        hidden, targets = hide_tokens(batch, vocabulary, mask, special)
        assert torch.equal(batch.ids, before)  # the batch itself is left alone
        chosen = targets != -100
        eligible = ids != 1
        assert not chosen[~eligible].any()
        assert int(chosen.sum()) == round(0.15 * int(eligible.sum()))
        assert torch.equal(targets[chosen], ids[chosen])
        assert torch.equal(hidden.ids[~chosen], ids[~chosen])
        n = int(chosen.sum())
        masked = int((hidden.ids[chosen] == mask).sum())
        same = int((hidden.ids[chosen] == ids[chosen]).sum())
        other = n - masked - same
        # Binomial counts within 4.5 deviations (one false alarm in 150 000 for each); a random token is by
        # chance the mask or the true one in 2 of 1000 cases, which moves the shares by 0.0001 each.
        for count, share in [(masked, 0.8001), (same, 0.1001), (other, 0.0998)]:
            assert abs(count - n * share) < 4.5 * math.sqrt(n * share * (1 - share))
        # Places are spread evenly: halves of the batch get their half.
        first = int(chosen[: len(ids) // 2].sum())
        assert abs(first - n / 2) < 4.5 * math.sqrt(n / 4)
        # Random tokens are uniform over the vocabulary: their mean lies within 4.5 deviations of the middle.
        drawn = hidden.ids[chosen & (hidden.ids != ids) & (hidden.ids != mask)].double()
        assert abs(float(drawn.mean()) - 499.5) < 4.5 * 1000 / math.sqrt(12 * len(drawn))

    def test_follows_the_generator(self):
        batch = pack([list(range(4, 40))])
        results = [
            hide_tokens(batch, 50, 3, (), generator=torch.Generator().manual_seed(seed))[0].ids
            for seed in (1, 1, 2)
        ]
        assert torch.equal(results[0], results[1])
        assert not torch.equal(results[0], results[2])

    def test_nothing_to_hide(self):
        with pytest.raises(ValueError, match="every token of the batch is special"):
            hide_tokens(pack([[1, 2]]), 50, 3, (1, 2))


class TestPerplexity:
    @pytest.mark.parametrize("longest", [None, 6])
    def test_equals_a_computation_token_by_token(self, tokenizer, longest):
        model = small(tokenizer, causal=True).double().eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
        nats, tokens = 0.0, 0
        for text in TEXTS:
            ids = tokenizer(text)["input_ids"]
            for place in range(1, len(ids)):
                # The context goes back to the last beginning of a part, every longest - 1 tokens.
                start = 0 if longest is None else (place - 1) // (longest - 1) * (longest - 1)
                states = model.transformer(pack([ids[start:place]]))[-1]
                nats -= float(model.logits(states).log_softmax(-1)[ids[place]].detach())
                tokens += 1
        score = score_text(model, tokenizer, TEXTS, batch_size=2, longest=longest)
        size = len("".join(TEXTS).encode("utf-8"))
        assert (score.tokens, score.bytes) == (tokens, size)
        assert score.nats == pytest.approx(nats, rel=1e-6)
        assert score.perplexity_per_byte == pytest.approx(math.exp(nats / size), rel=1e-6)
        assert score.bits_per_byte == pytest.approx(nats / size / math.log(2), rel=1e-6)
        assert score.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-6)

    def test_a_model_that_knows_nothing_pays_for_uniform_tokens(self, tokenizer):
        model = small(tokenizer, causal=True)
        model.transformer.tokens.weight.data.zero_()
        score = score_text(model, tokenizer, TEXTS)
        assert score.perplexity == pytest.approx(len(tokenizer), rel=1e-5)

    def test_wrong_input(self, tokenizer):
        with pytest.raises(ValueError, match="gives no probability"):
            score_text(small(tokenizer, causal=False), tokenizer, TEXTS)
        with pytest.raises(ValueError, match="no text"):
            score_text(small(tokenizer, causal=True), tokenizer, [])

        def without_start(texts, **_):
            return {"input_ids": [[7, 8, 9] for _ in texts]}

        without_start.all_special_ids = [0, 1, 2, 3]
        with pytest.raises(ValueError, match="writes no start token"):
            score_text(small(tokenizer, causal=True), without_start, TEXTS)


def unigram_cross_entropy(train, targets, size):
    """Nats per target under the frequencies of the training tokens, with one added to each count."""
    counts = Counter(token for ids in train for token in ids)
    total = sum(counts.values()) + size
    return float(np.mean([-math.log((counts[token] + 1) / total) for token in targets]))


class TestPretraining:
    def test_a_model_of_frequencies_alone_gets_the_unigram_cross_entropy(self, titles, tokenizer):
        """The loss is in nats, over the right places: a bias of log-frequencies and nothing else."""
        train, held = titles[:2000], titles[2000:2400]
        ids = tokenizer(train)["input_ids"]
        model = small(tokenizer, causal=False)
        counts = np.bincount([token for part in ids for token in part], minlength=len(tokenizer)) + 1
        with torch.no_grad():
            model.norm.weight.zero_()
            model.norm.bias.zero_()
            model.bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))
        parts = sequences(tokenizer, held, 64, causal=False)
        batch = pack(parts)
        _, targets = hide_tokens(batch, len(tokenizer), 3, (0, 1, 2, 3))
        loss = float(model(batch, targets).detach())
        expected = unigram_cross_entropy(ids, targets[targets != -100].tolist(), len(tokenizer))
        assert loss == pytest.approx(expected, rel=1e-5)
        # No model of frequencies does better than the entropy of the targets' own frequencies.
        shares = np.bincount(targets[targets != -100]) / int((targets != -100).sum())
        assert loss > -float(np.sum(shares[shares > 0] * np.log(shares[shares > 0])))

    @pytest.mark.parametrize("causal", [False, True])
    def test_beats_the_unigram_model_on_held_out_titles(self, titles, causal):
        order = np.random.default_rng(0).permutation(len(titles))
        train, held = [titles[i] for i in order[:1500]], [titles[i] for i in order[1500:1800]]
        tokenizer = train_vocabulary(train, size=500)
        config = TrainConfig(epochs=3, batch_size=32, learning_rate=1e-2, precision="fp32")
        model = small(tokenizer, causal, layers=1)
        job = pretrain_job(model, tokenizer, train, config, held)
        history = job.run(config, progress=False)
        ids, held_ids = (tokenizer(part)["input_ids"] for part in (train, held))
        special = set(tokenizer.all_special_ids)
        if causal:
            targets = [token for part in held_ids for token in part[1:]]
        else:
            targets = [token for part in held_ids for token in part if token not in special]
        counted = [[token for token in part if causal or token not in special] for part in ids]
        unigram = unigram_cross_entropy(counted, targets, len(tokenizer))
        loss = held_out_loss(model, tokenizer, sequences(tokenizer, held, 64, causal))
        assert loss == pytest.approx(-max(value for _, value in history.valid), rel=1e-4)
        # Seen: 0.2 nats below after these 138 steps (masked), and already after 46 of them (causal). The mean
        # over 1400 targets and more is known to about 0.04.
        assert loss < unigram - 0.12

    def test_is_repeatable_and_saves_a_hugging_face_folder(self, titles, tokenizer, tmp_path):
        config = TrainConfig(epochs=1, batch_size=16, learning_rate=1e-3, precision="fp32")
        losses = []
        for _ in range(2):
            model = small(tokenizer, causal=False, dropout=0.1)
            job = pretrain_job(model, tokenizer, titles[:160], config)
            losses.append(job.run(config, progress=False).losses)
        assert losses[0] == losses[1]
        job.save(tmp_path)
        theirs = BertForMaskedLM.from_pretrained(tmp_path).eval()
        again = AutoTokenizer.from_pretrained(tmp_path)
        assert again(titles[:3])["input_ids"] == tokenizer(titles[:3])["input_ids"]
        batch = pack(tokenizer([titles[0]])["input_ids"])
        with torch.no_grad():
            ours = model.eval().logits(model.transformer(batch))
            torch.testing.assert_close(theirs(batch.ids[None]).logits[0], ours, rtol=1e-4, atol=1e-4)

    def test_wrong_input(self, tokenizer):
        config = TrainConfig()
        with pytest.raises(ValueError, match="1000 tokens and the model 999"):
            pretrain_job(LanguageModel(TransformerConfig(999)), tokenizer, TEXTS, config)
        with pytest.raises(ValueError, match="no examples"):
            pretrain_job(small(tokenizer, True), tokenizer, [], config)


@pytest.mark.parametrize("name", ["pretrain", "pretrain_causal"])
def test_tasks_learn_the_same_thing_in_every_process(name):
    """Two builds, as two processes of torchrun make them, give one loss and one identity."""
    config = TASKS[name].defaults
    jobs = [TASKS[name].build(config, "tiny", "cpu") for _ in range(2)]
    losses = []
    for job in jobs:
        torch.manual_seed(1)
        losses.append(float(job.step_loss(0).detach()))
    assert losses[0] == losses[1]
    assert jobs[0].identity == jobs[1].identity
    # Before training every token is about equally likely.
    vocabulary = jobs[0].model.transformer.config.vocabulary
    assert losses[0] == pytest.approx(math.log(vocabulary), rel=0.03)
