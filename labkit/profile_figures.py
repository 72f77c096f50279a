"""The figures of a market's profile: how people click, the seasons, what is wrong with the raw data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from labkit.learn.figures import FAINT, INK, PALETTE, figure_style
from labkit.profile import Profile
from labkit.shop import Market
from labkit.shop.behaviour import EXAMINE
from labkit.shop.crowd import DEVICES

_DEVICE_STYLE = {
    "phone": (PALETTE["blue"], "o"),
    "desktop": (PALETTE["orange"], "s"),
    "tablet": (PALETTE["green"], "^"),
}
_WHAT_STYLE = {
    "shopper": (PALETTE["sky"], "o", 8),
    "bot": (PALETTE["orange"], "^", 26),
    "test account": (PALETTE["blue"], "D", 30),
}


def draw_profile(market: Market, found: Profile, folder: Path) -> list[Path]:
    """Draw the gallery: pictures, clicks, seasons, defects.

    Args:
        market: whose products are photographed.
        found: its profile.
        folder: where the PNG files go; made if it is not there.

    Returns:
        The files.
    """
    from labkit.shop.gallery import catalogue_sheet

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in ("catalogue", "clicks", "seasons", "defects")]
    catalogue_sheet(market, paths[0])
    title = f"{market.size} market, seed {market.seed}"
    with figure_style():
        for path, draw in zip(paths[1:], (_clicks, _seasons, _defects), strict=True):
            figure = draw(found, title)
            figure.savefig(path, metadata={"Software": None})
    return paths


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _clicks(found: Profile, title: str) -> Any:
    figure = _figure(11, 7)
    figure.suptitle(f"How shoppers look, click and buy: {title}", fontweight="bold")
    (curve, skew), (price, length) = figure.subplots(2, 2)
    for number, device in enumerate(DEVICES):
        rows = found.positions.filter(pl.col("device") == device)
        colour, marker = _DEVICE_STYLE[device]
        relative = rows["click_rate"] / rows["click_rate"][0]
        curve.plot(rows["position"], relative, marker=marker, color=colour, label=f"{device}, clicks")
        curve.plot(range(1, 11), EXAMINE[number], color=colour, linestyle=":", linewidth=1.2)
    curve.plot([], [], color=INK, linestyle=":", linewidth=1.2, label="true chance of a look")
    curve.set(
        title="Clicks fall with the position", xlabel="position on the page", ylabel="relative to position 1"
    )
    curve.set_ylim(0, 1.05)
    curve.legend()
    skew.plot(100 * found.popularity["products"], 100 * found.popularity["clicks"], color=PALETTE["blue"])
    skew.plot([0, 100], [0, 100], color=FAINT)
    tenth = float(np.interp(0.1, found.popularity["products"], found.popularity["clicks"]))
    skew.annotate(
        f"the top tenth draws {100 * tenth:.0f} % of the clicks",
        (10, 100 * tenth),
        xytext=(22, 100 * tenth - 12),
        arrowprops={"arrowstyle": "-", "color": INK},
    )
    skew.set(
        title="A few products draw most clicks",
        xlabel="products, the most clicked first (%)",
        ylabel="clicks (%)",
    )
    offers = found.prices.filter(pl.col("impressions") >= 100)
    for column, colour, marker, label in (
        ("click_rate", PALETTE["blue"], "o", "clicked, of those shown"),
        ("purchase_rate", PALETTE["orange"], "s", "bought, of those clicked"),
    ):
        price.plot(
            100 * offers["discount"],
            100 * offers[column],
            marker=marker,
            color=colour,
            label=label,
        )
    price.set(title="Discounts sell", xlabel="below the first list price (%)", ylabel="share (%)")
    price.set_ylim(bottom=0)
    price.legend()
    shown = found.lengths.filter(pl.col("requests") <= 12)
    length.bar(
        shown["requests"], 100 * shown["sessions"] / found.lengths["sessions"].sum(), color=PALETTE["sky"]
    )
    length.set(title="Most sessions are short", xlabel="requests in a session", ylabel="sessions (%)")
    return figure


def _seasons(found: Profile, title: str) -> Any:
    departments = found.weeks["department"].unique(maintain_order=True).to_list()
    columns = min(4, len(departments))
    lines = -(-len(departments) // columns)
    figure = _figure(11, 1.9 * lines + 1.2)
    figure.suptitle(f"Clicks by week, 1 is the department's mean: {title}", fontweight="bold")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    whole = found.weeks.group_by("week").agg(pl.col("clicks").sum()).sort("week")["clicks"]
    for axes, name in zip(grid.flat, departments, strict=False):
        rows = found.weeks.filter(pl.col("department") == name)
        axes.plot(rows["week"], whole / whole.mean(), color=FAINT, linewidth=1.5)
        axes.plot(rows["week"], rows["index"], color=PALETTE["blue"], linewidth=1.2)
        axes.set_title(name, fontsize=9)
        axes.set_xticks([0, 13, 26, 39, 51], ["Sep", "Dec", "Mar", "Jun", "Aug"])
    for axes in list(grid.flat)[len(departments) :]:
        axes.set_axis_off()
    grid.flat[0].set_ylim(0, 3)
    figure.supylabel("clicks relative to the mean week")
    figure.supxlabel("week from September to August (grey: the whole shop)")
    return figure


def _defects(found: Profile, title: str) -> Any:
    figure = _figure(11, 7.5)
    figure.suptitle(f"What is wrong with the raw tables: {title}", fontweight="bold")
    (share, ratio), (clock, account) = figure.subplots(2, 2)
    table = found.defects.sort("table", "defect", descending=True)
    names = [f"{t}: {d.replace('_', ' ')}" for t, d in table.select("table", "defect").iter_rows()]
    share.barh(names, 100 * table["share"], color=PALETTE["orange"])
    for place, (rows, part) in enumerate(table.select("rows", "share").iter_rows()):
        share.annotate(f" {rows:,}", (100 * part, place), va="center", fontsize=8)
    share.set_xscale("log")
    share.margins(x=0.3)
    share.set(
        title="Rows that are wrong, by the planted truth", xlabel="share of the table's rows (%, log scale)"
    )
    share.tick_params(axis="y", labelsize=8)
    share.grid(axis="y", visible=False)
    ratio.bar(
        10 ** found.ratios["ratio"],
        found.ratios["events"],
        width=0.11 * 10 ** found.ratios["ratio"],
        color=PALETTE["blue"],
    )
    ratio.set_xscale("log")
    ratio.set_yscale("log")
    ratio.set(
        title="One app logs pence for pounds",
        xlabel="price in the log / list price",
        ylabel="raw events (log scale)",
    )
    clock.bar(found.clocks["hours"], found.clocks["requests"], color=PALETTE["blue"])
    clock.set_yscale("log")
    clock.set(
        title="Clocks that are hours off (the ends hold all beyond)",
        xlabel="time in the log minus time of arrival (hours)",
        ylabel="raw requests (log scale)",
    )
    for what, (colour, marker, size) in _WHAT_STYLE.items():
        rows = found.accounts.filter(pl.col("what") == what)
        account.scatter(
            rows["requests"],
            100 * rows["click_rate"],
            s=size,
            color=colour,
            marker=marker,
            alpha=0.7,
            label=what,
            linewidths=0,
        )
    account.set_xscale("log")
    account.set(
        title="Who clicks like nobody else",
        xlabel="requests in the year (log scale)",
        ylabel="impressions clicked (%)",
    )
    account.legend()
    return figure
