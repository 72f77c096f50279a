"""The numerical core imports on a machine with nothing but torch, numpy, scipy and transformers."""

import subprocess
import sys

import pytest

CHILD = r'''
import importlib.metadata, re, sys

def with_dependencies(names):
    allowed, todo = set(), list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in allowed:
            continue
        allowed.add(name)
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        todo += [re.match(r"[\w.-]+", line)[0] for line in requires if "extra ==" not in line]
    return allowed

allowed = with_dependencies(["torch", "numpy", "scipy", "transformers"])
blocked = {
    module: owners
    for module, owners in importlib.metadata.packages_distributions().items()
    if not any(re.sub(r"[-_.]+", "-", owner).lower() in allowed for owner in owners)
}
assert {"bm25s", "polars", "lightgbm", "matplotlib"} <= set(blocked), sorted(blocked)

class Bare:
    """As if the other packages were not installed: they are not found, and asking for them is no error."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        root = name.split(".")[0]
        return None if root in blocked and root != "labkit" else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path]
try:
    import bm25s
    raise AssertionError("the blocker does not block")
except ModuleNotFoundError:
    pass
'''


@pytest.mark.parametrize(
    "module",
    ["labkit.rank", "labkit.train", "labkit.models", "labkit.evaluate", "labkit.kernels", "labkit.text"],
)
def test_core_imports_on_a_bare_machine(module):
    subprocess.run([sys.executable, "-c", f"{CHILD}\nimport {module}"], check=True)


def test_core_works_on_a_bare_machine():
    code = """
import numpy as np
from labkit.rank import rrf, top_k
from labkit.evaluate import evaluate_ranked, nDCG
_, ids = top_k(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), 2)
values = evaluate_ranked([nDCG @ 2], rrf([ids])[1], {q: {q: 1} for q in range(3)})
assert values[nDCG @ 2].tolist() == [1, 1, 1]
from labkit.models import BiEncoder
from labkit.train import TrainConfig, fit
import torch
model = torch.nn.Linear(2, 1)
fit(model, lambda step: model(torch.ones(1, 2)).square().sum(), 2, TrainConfig(), progress=False)
"""
    subprocess.run([sys.executable, "-c", CHILD + code], check=True)
