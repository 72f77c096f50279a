"""The figure of a comparison of ways of tuning: what quality costs in parameters, memory and time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.evaluate import bootstrap_interval
from labkit.learn.figures import FAINT, INK, PALETTE, figure_style

if TYPE_CHECKING:
    from labkit.train.peft import Comparison

# The markers tell the methods apart where colours do not.
STYLE = {
    "full": (PALETTE["blue"], "D"),
    "frozen": (INK, "s"),
    "discriminative": (PALETTE["sky"], "d"),
    "adapter": (PALETTE["green"], "^"),
    "prefix": (PALETTE["purple"], "v"),
    "LoRA": (PALETTE["vermillion"], "o"),
    "AdaLoRA": (PALETTE["orange"], "P"),
}


def draw_tuning(comparisons: Mapping[str, Comparison], path: str | Path) -> Path:
    """Draw each comparison as a row: quality against trainable parameters, peak memory and time.

    Args:
        comparisons: by title.
        path: where to; the ending decides the format (png, svg, pdf).

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with figure_style():
        figure = Figure(figsize=(12, 0.4 + 3.4 * len(comparisons)), layout="constrained")
        grid = figure.subplots(len(comparisons), 3, squeeze=False, width_ratios=[1.7, 1, 1])
        for (title, comparison), (left, middle, right) in zip(comparisons.items(), grid, strict=True):
            _quality(left, comparison)
            left.set_title(title)
            _bars(middle, comparison, "peak memory in MB", [r.peak_bytes / 2**20 for r in comparison.rows])
            _bars(right, comparison, "seconds of training", [r.seconds for r in comparison.rows])
            right.tick_params(left=False, labelleft=False)
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
        figure.savefig(path)
    return path


def _quality(axes: Any, comparison: Comparison) -> None:
    before = float(comparison.before.mean())
    axes.axhline(before, color=INK, linestyle="--", linewidth=1)
    axes.annotate(
        f"before tuning {before:.3f}", (0.01, before), xycoords=("axes fraction", "data"),
        xytext=(0, 4), textcoords="offset points", fontsize=9,
    )  # fmt: skip
    for row in comparison.rows:
        colour, marker = STYLE.get(row.method, (INK, "o"))
        low, high = bootstrap_interval(row.values)
        reach = [[row.mean - low], [high - row.mean]]
        # A little apart, so that two methods that train everything do not hide each other.
        size = row.parameters.trainable * (1.25 if row.method == "discriminative" else 1)
        axes.errorbar(
            size, row.mean, yerr=reach, fmt=marker, color=colour, markersize=8, capsize=4, label=row.method
        )
    axes.set_xscale("log")
    axes.set_xlabel("trainable parameters")
    axes.set_ylabel("quality, with its 95 % interval")


def _bars(axes: Any, comparison: Comparison, label: str, values: list[float]) -> None:
    places = list(range(len(values)))[::-1]
    colours = [STYLE.get(row.method, (INK, "o"))[0] for row in comparison.rows]
    axes.barh(places, values, color=colours, height=0.65)
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:,.0f}" if value >= 10 else f"{value:.1f}", (value, place),
            xytext=(3, 0), textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    axes.set_yticks(places, [row.method for row in comparison.rows])
    axes.set_xlim(0, 1.18 * max(values))
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_color(FAINT)
