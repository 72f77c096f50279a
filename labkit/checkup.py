"""What this machine has of what the course needs."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass

from labkit.home import home


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str  # what is there, or what to do
    needed: bool = True  # False: the course works without it


def examine() -> list[Check]:
    """Look at everything the course uses; takes a few seconds, because PyTorch is imported.

    Example:
        >>> [check.name for check in examine()][:2]
        ['Python', 'packages']
    """
    return [_python(), _packages(), _torch(), _encoder(), _home(), _lab(), *_data()]


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Check("Python", ok, version if ok else f"{version}; install Python 3.11, 3.12 or 3.13")


def _packages() -> Check:
    wanted = (
        *("numpy", "scipy", "transformers", "safetensors", "bm25s", "lightgbm", "polars", "pyarrow"),
        *("matplotlib", "rich", "typer", "yaml", "platformdirs"),
    )
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        return Check(
            "packages", False, f"install {', '.join(missing)} (pip install -e . in the course's folder)"
        )
    return Check("packages", True, f"all {len(wanted)} that labkit uses")


def _torch() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("PyTorch", False, "install it as the README says")
    import torch

    from labkit.device import choose_device

    return Check(
        "PyTorch", True, f"{torch.__version__}; {choose_device()}; {torch.get_num_threads()} threads"
    )


def _encoder() -> Check:
    from labkit.text import resolve_encoder

    try:
        resolve_encoder("minilm")
    except FileNotFoundError as error:
        return Check("encoder weights", False, str(error))
    return Check("encoder weights", True, "MiniLM is installed, no network needed")


def _home() -> Check:
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        return Check(
            "LABKIT_HOME", False, f"{folder} can't be written; the shop is made anew each time", needed=False
        )
    free = shutil.disk_usage(folder).free / 2**30
    return Check("LABKIT_HOME", free > 0.5, f"{folder}, {free:.1f} GiB free", needed=False)


def _lab() -> Check:
    ok = importlib.util.find_spec("jupyterlab") is not None
    return Check(
        "JupyterLab", ok, "installed" if ok else "pip install jupyterlab to open the lessons", needed=False
    )


def _data() -> list[Check]:
    if not os.environ.get("LABKIT_DATA"):
        return [
            Check("real data", False, "LABKIT_DATA is not set; lessons use the simulated shop", needed=False)
        ]
    from labkit.data import describe_sets

    return [
        Check(
            str(entry["name"]),
            bool(entry["found"]),
            str(entry["where" if entry["found"] else "how"]),
            needed=False,
        )
        for entry in describe_sets()
    ]
