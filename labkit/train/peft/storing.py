"""The small file: only what was trained, and what it has to be put on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn


def save_trained(model: nn.Module, path: str | Path, method: str, settings: Mapping[str, Any]) -> int:
    """Write the parameters that train, and a fingerprint of those that do not.

    Args:
        model: frozen but for the small weights.
        path: the file, replaced in one step.
        method: what reads it again, such as "lora".
        settings: plain data that it needs beside the weights.

    Returns:
        The file's size in bytes.
    """
    path = Path(path)
    tensors = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
    about = {"method": method, "settings": json.dumps(dict(settings)), "base": fingerprint(model, tensors)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, metadata=about)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path.stat().st_size


def read_trained(path: str | Path, method: str) -> tuple[dict[str, torch.Tensor], dict[str, Any], str]:
    """Read what :func:`save_trained` wrote: tensors by name, settings, the fingerprint of the base.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of that method.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file ({error}).") from error
    if about.get("method") != method:
        raise ValueError(f"{path} holds {about.get('method', 'other')!r} weights, not {method!r} ones.")
    return tensors, json.loads(about["settings"]), about["base"]


def require_base(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], base: str, path: str | Path, added: str
) -> None:
    """Check, before anything is changed, that a model is the one that small weights were trained on.

    Args:
        model: without the method's own parameters yet.
        tensors, base: from :func:`read_trained`.
        path: for messages.
        added: occurs in the names of the parameters that the method adds, and of no others.

    Raises:
        ValueError: it is another one, whose outputs would be wrong in silence, or it lacks a part, such as a
            head, that was trained too.
    """
    own = dict(model.named_parameters())
    if missing := [name for name in tensors if name not in own and added not in name]:
        raise ValueError(
            f"{path} holds {missing[0]}, which this model has no place for; add that part first."
        )
    unlike = [name for name, value in tensors.items() if name in own and own[name].shape != value.shape]
    if unlike or fingerprint(model, tensors) != base:
        raise ValueError(
            f"The weights in {path} were trained on top of another model than this one; load the model that "
            "they were trained on first."
        )


def fill(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy small weights into a model that has places for them, and freeze the rest."""
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.requires_grad_(name in tensors)
        for name, value in tensors.items():
            own[name].copy_(value)


def fingerprint(model: nn.Module, without: Mapping[str, object]) -> str:
    """A hash of the model's parameters but for those named in ``without``."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if name not in without:
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
