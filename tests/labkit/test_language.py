"""Language models against Hugging Face's, decoding against whole sequences, pretraining against counting."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from labkit.models.decoding import Decoder
from labkit.models.hugging_face import language_model_from_hugging_face, to_hugging_face
from labkit.models.language import LanguageModel
from labkit.models.transformer import Transformer, TransformerConfig
from labkit.text.packing import pack, to_padded, unpack

LENGTHS = [3, 7, 1, 12, 7]
SHAPE = {"vocabulary": 50, "width": 16, "layers": 2, "heads": 4, "feedforward": 24, "longest": 40}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def sequences(lengths=LENGTHS):
    return [torch.randint(1, 50, (length,)) for length in lengths]


def shaken(model):
    """Weights large enough that everything matters: fresh biases are 0 and would hide a lost one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.double().eval()


def bert():
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=40,
    )
    return shaken(BertForMaskedLM(config))


def gpt2(**changes):
    shape = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 40}
    return shaken(GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=None, eos_token_id=None, **changes)))


class TestHuggingFace:
    @pytest.mark.parametrize("make", [bert, gpt2])
    def test_logits_and_loss_are_equal(self, make):
        theirs = make()
        ours = language_model_from_hugging_face(theirs)
        batch = pack(sequences())
        ids, mask = to_padded(batch.ids, batch.offsets)
        logits = theirs(input_ids=ids, attention_mask=mask.long()).logits[mask]
        torch.testing.assert_close(ours.logits(ours.transformer(batch)), logits, rtol=0, atol=1e-10)
        targets = torch.where(torch.rand(len(batch.ids)) < 0.3, batch.ids, -100)
        expected = torch.nn.functional.cross_entropy(logits, targets)
        loss = ours(batch, targets)
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
        loss.backward()
        expected.backward()
        embedding = theirs.get_input_embeddings().weight.grad
        torch.testing.assert_close(ours.transformer.tokens.weight.grad, embedding, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("make", [bert, gpt2])
    def test_there_and_back(self, make, tmp_path):
        theirs = make().float()
        to_hugging_face(language_model_from_hugging_face(theirs)).save_pretrained(tmp_path)
        again = type(theirs).from_pretrained(tmp_path).eval()
        ids = sequences([9])[0][None]
        assert torch.equal(again(ids).logits, theirs(ids).logits)

    def test_generation_equals(self):
        theirs = gpt2()
        ours = language_model_from_hugging_face(theirs)
        for beginning in sequences([3, 5]):
            expected = theirs.generate(
                beginning[None],
                attention_mask=torch.ones(1, len(beginning)),
                max_new_tokens=12,
                do_sample=False,
                pad_token_id=0,
            )
            assert ours.generate([beginning.tolist()], most=12) == expected.tolist()

    def test_refusals(self):
        with pytest.raises(ValueError, match="GPT2Model is neither"):
            language_model_from_hugging_face(gpt2().transformer)
        with pytest.raises(ValueError, match="output layer is not its token embedding"):
            language_model_from_hugging_face(gpt2(tie_word_embeddings=False))


class TestDecoding:
    @pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
    @pytest.mark.parametrize("cross", [False, True])
    def test_states_equal_those_of_whole_sequences(self, positions, cross):
        shape = SHAPE | {"positions": positions, "cross": cross, "causal": True, "norm": "pre"}
        model = shaken(Transformer(TransformerConfig(**shape)))
        source = pack(sequences([4, 2, 6, 1, 3]))
        memory = (torch.randn(16, 16, dtype=torch.float64), source) if cross else None
        texts = [torch.cat([part, tail]) for part, tail in zip(sequences(), sequences([25] * 5), strict=True)]
        decoder = Decoder(model, pack([text[:-25] for text in texts]), memory)
        whole = unpack(model(pack(texts), memory=memory), pack(texts).offsets)
        for step in range(25):  # more than the longest beginning: the room for keys grows on the way
            expected = torch.stack([states[step - 26] for states in whole])
            torch.testing.assert_close(decoder.states, expected, rtol=0, atol=1e-10)
            decoder.step(torch.stack([text[step - 25] for text in texts]))

    @pytest.mark.parametrize("cross", [False, True])
    def test_choose(self, cross):
        shape = SHAPE | {"cross": cross, "causal": True}
        model = shaken(Transformer(TransformerConfig(**shape)))
        texts, source = sequences([3, 5, 2]), pack(sequences([2, 4, 3]))
        memory = (torch.randn(9, 16, dtype=torch.float64), source) if cross else None
        decoder = Decoder(model, pack(texts), memory)
        decoder.choose(torch.tensor([2, 0, 2, 1]))
        states = decoder.step(torch.tensor([7, 8, 9, 10]))
        for row, (which, token) in enumerate(zip([2, 0, 2, 1], [7, 8, 9, 10], strict=True)):
            text = torch.cat([texts[which], torch.tensor([token])])
            if memory is not None:
                part = unpack(source.ids, source.offsets)[which]
                own = (unpack(memory[0], source.offsets)[which], pack([part]))
            alone = model(pack([text]), memory=own if cross else None)[-1]
            torch.testing.assert_close(states[row], alone, rtol=0, atol=1e-10)

    def test_generation_equals_the_slow_way(self):
        model = shaken(LanguageModel(TransformerConfig(**SHAPE, causal=True, norm="pre")))
        beginnings = [part.tolist() for part in sequences([3, 1, 6])]
        expected = []
        for text in beginnings:
            text = list(text)
            for _ in range(20):
                text.append(int(model.logits(model.transformer(pack([text]))[-1]).argmax()))
                if text[-1] == 13:
                    break
            expected.append(text)
        assert model.generate(beginnings, most=20, end=13) == expected
        # Token 13 would never come up by itself in so small a model; one that does must stop its sequence.
        stop = expected[0][5]
        stopped = model.generate(beginnings, most=20, end=stop)
        assert stopped[0] == expected[0][:6]
        for long, short, start in zip(expected, stopped, beginnings, strict=True):
            new = long[len(start) :]
            assert short == start + (new[: new.index(stop) + 1] if stop in new else new)

    def test_a_finished_sequence_takes_no_places_from_a_shorter_one(self):
        model = shaken(LanguageModel(TransformerConfig(**SHAPE, causal=True)))  # 40 places
        long, short = [part.tolist() for part in sequences([38, 2])]
        alone = model.generate([short], most=6)[0]
        end = model.generate([long], most=1)[0][-1]
        assert end not in alone
        assert model.generate([long, short], most=6, end=end) == [[*long, end], alone]

    def test_draws_follow_the_distribution(self):
        model = shaken(LanguageModel(TransformerConfig(**SHAPE, causal=True)))
        shares = (model.logits(model.transformer(pack([[4, 5]]))[-1]) / 2).softmax(-1)
        drawn = model.generate([[4, 5]] * 4000, most=1, temperature=2.0, seed=3)
        counts = torch.bincount(torch.tensor([text[-1] for text in drawn]), minlength=50)
        expected = shares * 4000
        large = expected > 20
        deviations = (counts[large] - expected[large]).abs() / (expected * (1 - shares)).sqrt()[large]
        assert deviations.max() < 4.5
        assert large.sum() > 5
        again = model.generate([[4, 5]] * 4000, most=1, temperature=2.0, seed=3)
        assert drawn == again
        assert drawn != model.generate([[4, 5]] * 4000, most=1, temperature=2.0, seed=4)

    def test_wrong_input(self):
        with pytest.raises(ValueError, match="Only a causal transformer"):
            LanguageModel(TransformerConfig(**SHAPE)).generate([[1]])
        model = LanguageModel(TransformerConfig(**SHAPE, causal=True))
        with pytest.raises(ValueError, match="41 tokens, and this transformer knows 40 places"):
            model.generate([[1] * 30], most=12)
        assert len(model.generate([[1] * 30], most=11)[0]) == 41  # the last one need not be read
