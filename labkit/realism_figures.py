"""The figures of the realism report: simulated in colour, real sets in grey beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.figures import STYLE
from labkit.learn.figures import INK, PALETTE, figure_style

if TYPE_CHECKING:
    from labkit.compare import Comparison
    from labkit.realism_sections import Section

# Simulated sets are solid and coloured; real ones are dashed, each with a dash of its own.
MADE = (PALETTE["blue"], PALETTE["orange"], PALETTE["sky"], PALETTE["green"])
REAL = ((INK, "--"), ("#666666", "-."), (PALETTE["vermillion"], ":"), (PALETTE["purple"], "--"))


def draw(sections: list[Section], comparisons: dict[str, Comparison], folder: Path) -> list[Path]:
    """Draw what the sections hold.

    Args:
        sections: of the report.
        comparisons: of search methods, by source; may be empty.
        folder: gets realism_*.png.

    Returns:
        The paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Any] = {}
    for section in sections:
        drawn |= section.drawn
    paths = [_shapes(drawn, folder / "realism_shapes.png"), _answers(drawn, folder / "realism_answers.png")]
    if comparisons:
        paths.append(_methods(comparisons, folder / "realism_methods.png"))
    return paths


def _shapes(drawn: dict[str, Any], path: Path) -> Path:
    """Popularity, session length and query length."""
    from matplotlib.figure import Figure

    with figure_style():
        figure = Figure(figsize=(14, 4.6), layout="constrained")
        popular, session, query = figure.subplots(1, 3)
        for (name, count), look in _styled(drawn["counts"]):
            values, number = np.unique(count, return_counts=True)
            above = 1 - (np.cumsum(number) - number) / len(count)
            popular.loglog(values / count.mean(), above, label=name, **look)
        popular.set_title("Popularity of items")
        popular.set_xlabel("events of an item / mean of all items")
        popular.set_ylabel("share of items with at least so many")
        popular.legend(fontsize=7.5, loc="lower left")
        _shares(session, drawn["lengths"], 15, "clicks in a session")
        session.set_title("Length of sessions")
        _shares(query, drawn["words"], 9, "words in a query")
        query.set_title("Length of queries")
        figure.savefig(path, metadata={"Software": None})
    return path


def _answers(drawn: dict[str, Any], path: Path) -> Path:
    """Clicks by position, grades of judged pairs, stars."""
    from matplotlib.figure import Figure

    with figure_style():
        figure = Figure(figsize=(14, 4.6), layout="constrained")
        curve, grade, star = figure.subplots(1, 3)
        for (name, values), look in _styled(drawn["curves"]):
            places = np.array(list(values))
            height = np.array([v.value for v in values.values()])
            low = np.array([v.value if v.low is None else v.low for v in values.values()])
            high = np.array([v.value if v.high is None else v.high for v in values.values()])
            shift = 0.08 * (list(drawn["curves"]).index(name) - 2)
            curve.errorbar(
                places + shift, height, yerr=[height - low, high - height], marker="o", markersize=4,
                capsize=3, label=name, **look
            )  # fmt: skip
        curve.plot(np.arange(1, 11), drawn["look"], color=INK, linewidth=0.9, label="truth: looked at")
        curve.set_title("Click rate by position, relative to the first")
        curve.set_xlabel("position")
        curve.set_ylabel("click rate / click rate at position 1")
        curve.set_xticks(range(1, 11))
        curve.set_ylim(0, 2.6)
        curve.legend(fontsize=8)
        _bars(
            grade,
            {name: [v.value for v in values] for name, values in drawn["shares"].items()},
            {
                name: [[v.value - v.low for v in values], [v.high - v.value for v in values]]
                for name, values in drawn["shares"].items()
            },
            range(4),
            "grade",
        )
        grade.set_title("Grades of judged pairs")
        stars = {n: [float((v == k).mean()) for k in range(1, 6)] for n, v in drawn["stars"].items()}
        _bars(star, stars, {}, range(1, 6), "stars")
        star.set_title("Stars of reviews")
        figure.savefig(path, metadata={"Software": None})
    return path


def _methods(comparisons: dict[str, Comparison], path: Path) -> Path:
    """Each method's mean with its interval, a panel for each set and measure."""
    from matplotlib.figure import Figure

    panels = [
        (source, comparison, measure)
        for source, comparison in comparisons.items()
        for measure in comparison.measures
    ]
    with figure_style():
        figure = Figure(figsize=(2.9 * len(panels), 4.2), layout="constrained")
        for axes, (source, comparison, measure) in zip(
            np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels, strict=True
        ):
            for place, system in enumerate(comparison.measures[measure]):
                colour, marker = STYLE[system.name]
                reach = [[system.mean - system.low], [system.high - system.mean]]
                axes.errorbar(
                    place, system.mean, yerr=reach, fmt=marker, color=colour, markersize=8, capsize=5
                )
                axes.annotate(f"{system.mean:.2f}", (place, system.low), xytext=(0, -13), ha="center",
                              textcoords="offset points", fontsize=8)  # fmt: skip
            names = [system.name for system in comparison.measures[measure]]
            axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
            axes.set_xlim(-0.6, len(names) - 0.4)
            axes.set_xlabel("method")
            axes.set_title(f"{source}: {measure}\n{comparison.queries} queries", fontsize=9.5)
            axes.grid(axis="x", visible=False)
            axes.set_ylim(0.3, 1.0)
        figure.axes[0].set_ylabel("mean over queries, 95 % interval")
        figure.savefig(path, metadata={"Software": None})
    return path


def _styled(values: dict[str, Any]) -> list[tuple[tuple[str, Any], dict[str, Any]]]:
    """Each entry with its colour and line."""
    made, real, styled = iter(MADE), iter(REAL), []
    for name, value in values.items():
        if name.startswith("simulated"):
            styled.append(((name, value), {"color": next(made), "linestyle": "-"}))
        else:
            colour, dash = next(real)
            styled.append(((name, value), {"color": colour, "linestyle": dash}))
    return styled


def _shares(axes: Any, lengths: dict[str, np.ndarray], longest: int, what: str) -> None:
    ticks = np.arange(1, longest + 1)
    for (name, values), look in _styled(lengths):
        axes.plot(
            ticks, [(values == k).mean() for k in ticks], marker="o", markersize=3.5, label=name, **look
        )
    axes.set_xlabel(what)
    axes.set_ylabel("share")
    axes.set_ylim(bottom=0)
    axes.set_xticks(ticks)
    axes.legend(fontsize=8)


def _bars(
    axes: Any,
    heights: dict[str, list[float]],
    reach: dict[str, list[list[float]]],
    ticks: range,
    what: str,
) -> None:
    width = 0.8 / len(heights)
    for number, ((name, values), look) in enumerate(_styled(heights)):
        place = np.array(ticks) + width * (number - (len(heights) - 1) / 2)
        made = name.startswith("simulated")
        hatch = None if made else ("///", "...")[(number - 1) % 2]
        axes.bar(
            place, values, width, yerr=reach.get(name), capsize=2, label=name,
            color=look["color"] if made else "white", edgecolor=look["color"], hatch=hatch, ecolor=INK,
        )  # fmt: skip
    axes.set_xlabel(what)
    axes.set_ylabel("share")
    axes.set_xticks(list(ticks))
    axes.set_ylim(0, 1.25 * max(max(values) for values in heights.values()))
    axes.legend(fontsize=8, loc="upper left")
    axes.grid(axis="x", visible=False)
