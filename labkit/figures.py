"""The figure of a comparison, in the course's look, drawn without a display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.learn.figures import FAINT, PALETTE, figure_style

if TYPE_CHECKING:
    from labkit.compare import Comparison

# The markers tell the systems apart where colours do not.
STYLE = {
    "BM25": (PALETTE["orange"], "s"),
    "zero-shot": (PALETTE["sky"], "o"),
    "fine-tuned": (PALETTE["blue"], "D"),
    "hybrid": (PALETTE["green"], "^"),
}


def draw_comparison(comparison: Comparison, path: Path) -> Path:
    """Draw each system's mean with its 95 % interval; beside it the kinds of queries or a second measure.

    Args:
        comparison: from :func:`labkit.compare.compare_shop` or ``compare_chorus``.
        path: where to write; the ending decides the format.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    measure, *others = comparison.measures
    path.parent.mkdir(parents=True, exist_ok=True)
    with figure_style():
        figure = Figure(figsize=(11, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.25])
        figure.suptitle(comparison.title, fontweight="bold")
        _intervals(left, comparison, measure)
        left.set_title("All queries: mean and 95 % bootstrap interval")
        if comparison.kinds:
            _by_kind(right, comparison, measure)
        elif others:
            _intervals(right, comparison, others[0])
            right.set_title("The same rankings, unjudged products left out")
        figure.savefig(path)
    return path


def _intervals(axes: Any, comparison: Comparison, measure: str) -> None:
    systems = comparison.measures[measure]
    for place, system in enumerate(systems):
        colour, marker = STYLE[system.name]
        reach = [[system.mean - system.low], [system.high - system.mean]]
        axes.errorbar(
            place, system.mean, yerr=reach, fmt=marker, color=colour, markersize=9, capsize=6, linewidth=2
        )
        axes.annotate(
            f"{system.mean:.3f}",
            (place, system.mean),
            xytext=(12, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_xticks(range(len(systems)), [system.name for system in systems])
    axes.set_xlim(-0.5, len(systems) - 0.3)
    axes.set_xlabel("system")
    axes.set_ylabel(f"mean {measure} over {comparison.queries} queries")
    axes.grid(axis="x", visible=False)


def _by_kind(axes: Any, comparison: Comparison, measure: str) -> None:
    kinds = list(comparison.kinds)
    height = np.arange(len(kinds))[::-1]
    for number, (name, (colour, marker)) in enumerate(STYLE.items()):
        values = [comparison.kinds[kind][name] for kind in kinds]
        # A little apart, so that equal values do not hide each other.
        offset = 0.15 * (1.5 - number)
        axes.plot(values, height + offset, marker, color=colour, markersize=7, label=name)
    axes.set_yticks(height, [kind.replace("_", " ") for kind in kinds])
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.6, len(kinds) - 0.4)
    for between in height[:-1] - 0.5:
        axes.axhline(between, color=FAINT, linewidth=0.8)
    axes.set_xlabel(f"mean {measure}")
    axes.set_ylabel("kind of query")
    axes.set_title("By kind of query")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4)
    axes.grid(axis="y", visible=False)
