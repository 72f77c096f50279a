"""One look for every figure: colours that colour-blind readers tell apart, Chinese text, sharp lines."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito, "Color universal design" (2008). Black is left for text; yellow is too light for lines.
PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
}
INK, FAINT = "#222222", "#D9D9D9"

# Families that draw Chinese, by platform; the first that is installed follows the Latin family.
CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Noto Sans CJK JP",
    "Droid Sans Fallback",
)


def chinese_font() -> str | None:
    """The name of an installed family that draws Chinese, None when there is none."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return next((name for name in CHINESE_FONTS if name in installed), None)


def style(dpi: int = 144) -> dict[str, Any]:
    """Matplotlib's settings for the course's figures.

    Args:
        dpi: dots per inch; 144 is sharp on a high-density screen at the size a notebook shows.
    """
    from cycler import cycler

    chinese = chinese_font()
    return {
        "figure.dpi": dpi,
        "savefig.dpi": dpi,
        "savefig.bbox": "tight",
        "figure.figsize": (6.4, 3.6),
        "figure.constrained_layout.use": True,
        "font.family": ["DejaVu Sans", *([chinese] if chinese else [])],
        "font.size": 10,
        "axes.prop_cycle": cycler(color=list(PALETTE.values())),
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.unicode_minus": False,  # many Chinese fonts lack U+2212
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "svg.hashsalt": "labkit",  # the same figure is the same file
    }


@contextmanager
def figure_style(dpi: int = 144, **overrides: Any) -> Iterator[None]:
    """Draw figures in the course's look inside a ``with`` block; the notebook's own settings return after it.

    Args:
        dpi: dots per inch.
        overrides: further matplotlib settings, with ``__`` for each dot: ``figure__figsize=(8, 3)``.

    Example:
        >>> with figure_style():
        ...     import matplotlib.pyplot as plt
        ...     figure, axes = plt.subplots()
    """
    import matplotlib

    settings: Any = style(dpi) | {name.replace("__", "."): value for name, value in overrides.items()}
    with matplotlib.rc_context(settings):
        yield


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, without the time or the version that would make each one different."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
