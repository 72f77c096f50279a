"""What every benchmark reports, and where it is kept."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "transformers", "nbgrader", "nbclient", "ipykernel")


def report(
    name: str, size: str, device: str, peer: str, ratios: list[float], quality: dict[str, Any], **more: Any
) -> None:
    """Append a result and print it as the last line.

    Args:
        name: the benchmark's name.
        size, device: what was run, on what.
        peer: the program that was measured beside ours.
        ratios: our speed over the peer's, one per pair of runs; above 1 ours is faster; empty where
            only quality was measured.
        quality: what shows that both did the same work equally well.
        more: further figures worth keeping.
    """
    result = {
        "name": name,
        "size": size,
        "device": device,
        "peer": peer,
        "ratio": round(median(ratios), 3) if ratios else None,
        "spread": [round(min(ratios), 3), round(max(ratios), 3)] if ratios else None,
        "pairs": len(ratios),
        "quality": quality,
        **more,
    }
    machine = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_before": None if not hasattr(os, "getloadavg") else round(os.getloadavg()[2], 2),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(result | {"machine": machine}) + "\n")
    print(json.dumps(result))
