"""Parameter-efficient tuning: train a small part of a model, or something small put into it."""

from labkit.train.peft.adalora import AdaLoRA, add_adalora
from labkit.train.peft.adapters import Adapters, add_adapters, load_adapters, save_adapters
from labkit.train.peft.compare import Comparison, Task, compare_tuning
from labkit.train.peft.freezing import count, freeze
from labkit.train.peft.lora import LoRA, add_lora, fold_lora, load_lora, merge_lora, save_lora, unmerge_lora
from labkit.train.peft.memory import peak_memory
from labkit.train.peft.methods import Method, Tuning, standard_methods
from labkit.train.peft.prefix import add_prefix, load_prefix, save_prefix
from labkit.train.peft.rates import layerwise_rates

__all__ = [
    "AdaLoRA",
    "Adapters",
    "Comparison",
    "LoRA",
    "Method",
    "Task",
    "Tuning",
    "add_adalora",
    "add_adapters",
    "add_lora",
    "add_prefix",
    "compare_tuning",
    "count",
    "fold_lora",
    "freeze",
    "layerwise_rates",
    "load_adapters",
    "load_lora",
    "load_prefix",
    "merge_lora",
    "peak_memory",
    "save_adapters",
    "save_lora",
    "save_prefix",
    "standard_methods",
    "unmerge_lora",
]
