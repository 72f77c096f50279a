"""Prefix tuning: equal to peft's past keys and values, in encoders, decoders, and packed batches."""

import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, DynamicCache, GPT2Config, GPT2Model

from labkit.models.packed import enable_packing, packed_states
from labkit.text.packing import pack
from labkit.train import TrainConfig, fit
from labkit.train.peft import add_prefix, count, load_prefix, save_prefix
from labkit.train.peft.prefix import Prefix

P, D, H, LAYERS = 3, 32, 4, 2
WORDS = torch.tensor([7, 8, 9])
PLACES = torch.arange(P, P + 6)[None]  # where texts stand behind a prefix that takes places


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def bert():
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=50, hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=H, intermediate_size=64
    )
    return BertModel(config, add_pooling_layer=False).double().eval()


@pytest.fixture
def gpt():
    torch.manual_seed(1)
    return GPT2Model(GPT2Config(vocab_size=50, n_embd=D, n_layer=LAYERS, n_head=H, n_positions=64)).double()


@pytest.fixture
def batch():
    ids = torch.randint(1, 50, (4, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(4, 6, dtype=torch.long)
    mask[0, 4:] = mask[2, 1:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def prefixes(model):
    found = [module for module in model.modules() if isinstance(module, Prefix)]
    assert len(found) == LAYERS
    return found


def disturb(model):
    torch.manual_seed(2)
    for prefix in prefixes(model):
        prefix.keys.data.normal_()
        prefix.values.data.normal_()


def test_equals_pefts_prefix_tuning(bert, batch):
    from peft import PrefixTuningConfig, get_peft_model

    theirs = get_peft_model(
        copy.deepcopy(bert), PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=P)
    ).eval()
    add_prefix(bert, WORDS)
    disturb(bert)
    stacked = torch.stack([torch.stack([p.keys, p.values]) for p in prefixes(bert)])  # (L, 2, H, P, Dh)
    flat = stacked.detach().permute(3, 0, 1, 2, 4).reshape(P, -1)  # as peft keeps them
    encoder = theirs.prompt_encoder["default"].double()
    encoder.embedding.weight.data.copy_(flat)
    a = bert(**batch, position_ids=PLACES).last_hidden_state
    b = theirs(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(a[real], b[real], rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(a[real])
    (a[real] * weight).sum().backward()
    (b[real] * weight).sum().backward()
    grads = torch.stack([torch.stack([p.keys.grad, p.values.grad]) for p in prefixes(bert)])
    torch.testing.assert_close(
        grads.permute(3, 0, 1, 2, 4).reshape(P, -1), encoder.embedding.weight.grad, rtol=1e-10, atol=1e-12
    )


def test_equals_past_keys_and_values_of_a_decoder(gpt, batch):
    """Where the prefix is left as it starts, it is the very state that reading its words leaves behind."""
    base = copy.deepcopy(gpt).eval()
    add_prefix(gpt.eval(), WORDS)
    past = base(input_ids=WORDS.expand(4, -1), use_cache=True).past_key_values
    assert isinstance(past, DynamicCache)
    expected = base(input_ids=batch["input_ids"], past_key_values=past, position_ids=PLACES).last_hidden_state
    found = gpt(input_ids=batch["input_ids"], position_ids=PLACES).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_packed_equals_padded(bert, batch):
    enable_packing(bert)
    add_prefix(bert, WORDS)
    disturb(bert)
    real = batch["attention_mask"].bool()
    sequences = [ids[keep].tolist() for ids, keep in zip(batch["input_ids"], real, strict=True)]
    padded = bert(**batch).last_hidden_state[real]
    torch.testing.assert_close(packed_states(bert, pack(sequences)), padded, rtol=1e-12, atol=1e-12)


def test_only_the_prefix_trains(bert, batch):
    model = nn.ModuleDict({"body": bert, "head": nn.Linear(D, 2).double()})
    add_prefix(model, WORDS, keep=("head",))
    before = copy.deepcopy(model.state_dict())
    assert count(model).trainable == LAYERS * 2 * P * D + (2 * D + 2)

    def loss(step):
        return model["head"](model["body"](**batch).last_hidden_state).square().mean()

    fit(model, loss, 3, TrainConfig(learning_rate=1e-2, precision="fp32"), progress=False)
    for name, value in model.state_dict().items():
        learns = "prefix" in name or "head" in name
        assert torch.equal(value, before[name]) != learns, name


def test_starts_from_what_the_words_give(bert):
    keys = bert.encoder.layer[0].attention.self.key(bert.embeddings(input_ids=WORDS[None]))  # (1, P, D)
    add_prefix(bert, WORDS)
    torch.testing.assert_close(prefixes(bert)[0].keys, keys[0].view(P, H, -1).transpose(0, 1))


def test_saved_and_loaded(bert, batch, tmp_path):
    fresh = copy.deepcopy(bert)
    add_prefix(bert, WORDS)
    disturb(bert)
    size = save_prefix(bert, tmp_path / "small.safetensors")
    assert size < 8 * count(bert).trainable + 3000
    load_prefix(fresh, tmp_path / "small.safetensors")
    assert torch.equal(fresh(**batch).last_hidden_state, bert(**batch).last_hidden_state)


def test_clear_refusals(bert, tmp_path):
    with pytest.raises(ValueError, match="Hugging Face transformer"):
        add_prefix(nn.Linear(2, 2), WORDS)
    with pytest.raises(ValueError, match="flat tensor of token ids"):
        add_prefix(bert, WORDS[None])
    for wrong in (torch.tensor([1, 50]), torch.tensor([-1]), torch.ones(513, dtype=torch.long)):
        with pytest.raises(ValueError, match="at most 512 token ids of 0 to 49"):
            add_prefix(bert, wrong)
    assert bert.config._attn_implementation == "sdpa"
    assert all(parameter.requires_grad for parameter in bert.parameters()), "left as it was"
    with pytest.raises(ValueError, match="add_prefix first"):
        save_prefix(bert, tmp_path / "small.safetensors")
    add_prefix(bert, WORDS)
    with pytest.raises(ValueError, match="already"):
        add_prefix(bert, WORDS)
