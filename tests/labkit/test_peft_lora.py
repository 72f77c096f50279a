"""Our LoRA beside peft's, merged and unmerged, saved and loaded, in BERT and in our transformer."""

import copy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from labkit.models.transformer import Transformer, TransformerConfig
from labkit.text.packing import pack
from labkit.train import TrainConfig, fit
from labkit.train.peft import LoRA, add_lora, count, fold_lora, load_lora, merge_lora, save_lora, unmerge_lora
from labkit.train.peft.lora import LoRALinear

pytestmark = pytest.mark.usefixtures("one_thread")


def bert(dtype=torch.float32, dropout=0.0):
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BertModel(config, add_pooling_layer=False).to(dtype).eval()


def ids(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(50, (4, 7), generator=generator)


def states(model, seed=0):
    return model(input_ids=ids(seed)).last_hidden_state


def disturb(model, seed=3):
    """As if trained: every B gets a value."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.lora_B.data.normal_(std=0.1)


def both(config, dtype=torch.float64):
    """The same model with our LoRA and with peft's, with the same A and B."""
    from peft import LoraConfig, get_peft_model

    ours = bert(dtype)
    theirs = copy.deepcopy(ours)
    names = add_lora(ours, config, seed=5)
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=list(config.targets),
        lora_dropout=config.dropout,
    )
    theirs = get_peft_model(theirs, settings, autocast_adapter_dtype=False)
    for name in names:
        own = ours.get_submodule(name)
        other = theirs.base_model.model.get_submodule(name)
        with torch.no_grad():
            other.lora_A["default"].weight.copy_(own.lora_A)
            other.lora_B["default"].weight.copy_(own.lora_B)
    return ours, theirs, names


def test_equals_pefts_output_and_gradients():
    ours, theirs, names = both(LoRA(targets=("query", "value", "output.dense"), rank=3, alpha=7))
    disturb(ours)
    for name in names:
        theirs.base_model.model.get_submodule(name).lora_B["default"].weight.data.copy_(
            ours.get_submodule(name).lora_B.data
        )
    a, b = states(ours), states(theirs)
    assert (a - states(bert(torch.float64))).abs().max() > 1e-2, "the change must change something"
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(a)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    for name in names:
        own, other = ours.get_submodule(name), theirs.base_model.model.get_submodule(name)
        for mine, yours in (
            (own.lora_A, other.lora_A["default"].weight),
            (own.lora_B, other.lora_B["default"].weight),
        ):
            torch.testing.assert_close(mine.grad, yours.grad, rtol=1e-10, atol=1e-12)


def test_equals_peft_after_twenty_steps():
    ours, theirs, names = both(LoRA(rank=4, alpha=8))
    target = torch.randn(4, 7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    config = TrainConfig(learning_rate=1e-2, precision="fp32")
    for model in (ours, theirs):
        fit(model, lambda i: (states(model, i) - target).square().mean(), 20, config, progress=False)  # noqa: B023
    a, b = states(ours), states(theirs)
    assert (a - states(bert(torch.float64))).abs().max() > 0.1, "training must have changed something"
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)
    for name in names:
        other = theirs.base_model.model.get_submodule(name)
        torch.testing.assert_close(
            ours.get_submodule(name).lora_B, other.lora_B["default"].weight, rtol=1e-7, atol=1e-9
        )


def test_starts_as_the_same_model_with_pefts_distribution():
    model = bert()
    before = states(model)
    names = add_lora(model, LoRA(targets=("query", "key", "value", "dense"), rank=16))
    assert len(names) == 12
    assert torch.equal(states(model), before)
    bound = (6 / 6 / 32) ** 0.5  # kaiming with a = sqrt(5): uniform within 1 / sqrt(inputs)
    starts = [model.get_submodule(name).lora_A.detach() for name in names if name.endswith("query")]
    values = torch.cat(starts)
    assert values.abs().max() <= bound
    assert abs(float(values.std()) - bound / 3**0.5) < 0.01


@pytest.mark.parametrize("rank", [1, 4])
def test_trainable_parameters_by_formula(rank):
    model = bert()
    add_lora(model, LoRA(targets=("query", "output.dense"), rank=rank))
    by_hand = 2 * rank * ((32 + 32) + (32 + 32) + (64 + 32))  # query, attention.output.dense, output.dense
    assert count(model).trainable == by_hand


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_merged_computes_the_same_and_unmerged_is_the_same(dtype, close):
    model = bert(dtype)
    add_lora(model)
    disturb(model)
    frozen = {name: value.clone() for name, value in model.state_dict().items()}
    before = states(model)
    merge_lora(model)
    merge_lora(model)  # once more changes nothing
    torch.testing.assert_close(states(model), before, rtol=close, atol=close)
    query = "encoder.layer.0.attention.self.query"
    layer = model.get_submodule(query)
    expected = frozen[f"{query}.weight"] + layer.lora_B @ layer.lora_A * 2
    torch.testing.assert_close(layer.weight, expected, rtol=close, atol=close)
    unmerge_lora(model)
    assert all(torch.equal(value, frozen[name]) for name, value in model.state_dict().items())
    assert torch.equal(states(model), before)


def test_folded_is_a_plain_model_under_the_old_names():
    model = bert(torch.float64)
    plain = set(model.state_dict())
    add_lora(model)
    disturb(model)
    before = states(model)
    fold_lora(model)
    assert set(model.state_dict()) == plain
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    torch.testing.assert_close(states(model), before, rtol=1e-13, atol=1e-13)


def test_merged_weights_refuse_training():
    model = bert()
    add_lora(model)
    merge_lora(model)
    with pytest.raises(RuntimeError, match="unmerge_lora"):
        states(model.train())


def test_dropout_is_on_the_changes_input_and_only_in_training():
    linear = nn.Linear(64, 64)
    layer = LoRALinear(linear, LoRA(rank=64, alpha=64, dropout=0.5))
    with torch.no_grad():
        layer.lora_A.copy_(torch.eye(64))
        layer.lora_B.copy_(torch.eye(64))
    x = torch.randn(8, 64)
    torch.testing.assert_close(layer.eval()(x), linear(x) + x)
    change = (layer.train()(x) - linear(x)) / x  # 0 or 1 / (1 - 0.5) for each input
    assert ((change.abs() < 1e-3) | ((change - 2).abs() < 1e-3)).all()
    assert 0.3 < (change > 1).float().mean() < 0.7


def test_works_in_our_transformer_packed():
    model = Transformer(TransformerConfig(vocabulary=50, width=32, layers=2, heads=4, feedforward=64))
    batch = pack([[1, 2, 3], [4, 5]])
    before = model(batch)
    add_lora(model, LoRA(targets=("qkv",), rank=2))
    assert torch.equal(model(batch), before)
    assert count(model).trainable == 2 * 2 * (32 + 96)
    model(batch).square().sum().backward()
    assert all(m.lora_B.grad.abs().sum() > 0 for m in model.modules() if isinstance(m, LoRALinear))


def test_saved_and_loaded(tmp_path):
    model = nn.ModuleDict({"body": bert(), "head": nn.Linear(32, 3)})
    base = copy.deepcopy(model)
    add_lora(model["body"], LoRA(rank=2, alpha=3))
    model["head"].requires_grad_(True)
    disturb(model)
    model["head"].weight.data.normal_()
    size = save_lora(model, tmp_path / "small.safetensors")
    trained = count(model).trainable * 4
    assert trained < size < trained + 4000
    load_lora(base, tmp_path / "small.safetensors")
    assert torch.equal(states(base["body"]), states(model["body"]))
    assert torch.equal(base["head"].weight, model["head"].weight)
    assert count(base) == count(model)


def test_refused_on_another_base(tmp_path):
    model, other = bert(), bert()
    other.encoder.layer[0].output.dense.weight.data[0, 0] += 1e-3
    add_lora(model)
    save_lora(model, tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="another model"):
        load_lora(other, tmp_path / "small.safetensors")
    assert not any(isinstance(module, LoRALinear) for module in other.modules()), "left as it was"


def test_refused_without_the_head_that_was_trained_too(tmp_path):
    model = nn.ModuleDict({"body": bert(), "head": nn.Linear(32, 3)})
    bare = nn.ModuleDict({"body": copy.deepcopy(model["body"])})
    add_lora(model, LoRA(), keep=["head"])
    save_lora(model, tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="holds head"):
        load_lora(bare, tmp_path / "small.safetensors")
    assert not any(isinstance(module, LoRALinear) for module in bare.modules()), "left as it was"
    assert all(parameter.requires_grad for parameter in bare.parameters())


def test_clear_refusals(tmp_path):
    model = bert()
    with pytest.raises(ValueError, match="'keys'; this model's are encoder"):
        add_lora(model, LoRA(targets=("query", "keys")))
    with pytest.raises(ValueError, match="No parameter's name holds 'head'"):
        add_lora(model, keep=("head",))
    assert all(parameter.requires_grad for parameter in model.parameters()), "nothing was changed"
    with pytest.raises(ValueError, match="add_lora"):
        save_lora(model, tmp_path / "small.safetensors")
    add_lora(model)
    with pytest.raises(ValueError, match="already"):
        add_lora(model)
    merge_lora(model)
    with pytest.raises(ValueError, match="unmerge_lora"):
        save_lora(model, tmp_path / "small.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_lora(bert(), tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match="rank"):
        LoRA(rank=0)


@pytest.mark.parametrize("target", ["linear1", "out_proj"])
def test_layers_whose_weight_torch_reads_by_itself_are_refused(target):
    """Its fast path (linear1) and its attention (out_proj) would leave the change out, in silence."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.raises(ValueError, match="reads its weight and does not call it"):
        add_lora(nn.Sequential(layer), LoRA(targets=[target]))
    with pytest.raises(ValueError, match="reads its weight and does not call it"):
        add_lora(layer, LoRA(targets=[target]))
    assert all(parameter.requires_grad for parameter in layer.parameters()), "left as it was"


def test_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(9)
    expected = torch.rand(1)
    model = bert()
    torch.manual_seed(9)
    add_lora(model)
    assert torch.equal(torch.rand(1), expected)
