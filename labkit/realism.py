"""How like real data the simulated market is: the same statistic, by the same function, on both.

Every section measures something on the simulated year and on each real set that is here, says what was done
to make the two comparable, and says in words how far they agree. Nothing is tuned to look good: where the
simulation differs, the section says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.compare import Comparison, compare_chorus, compare_judged
from labkit.realism_search import judged_sample
from labkit.realism_sections import (
    Section,
    Sets,
    activity,
    clicks,
    grades,
    mailings,
    order,
    popularity,
    query_length,
    voices,
)
from labkit.shop import load


@dataclass(frozen=True)
class Realism:
    """The report: its sections, the real sets that were not here, and where it was written."""

    market: str
    sections: list[Section]
    missing: list[str]
    comparisons: dict[str, Comparison]  # the order of methods: "simulated", "Chorus"
    path: Path
    figures: list[Path]

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return {
            "market": self.market,
            "missing": self.missing,
            "sections": [
                {
                    "title": section.title,
                    "table": [dict(zip(section.columns, row, strict=True)) for row in section.rows],
                    "said": section.said,
                }
                for section in self.sections
            ],
            "comparisons": {name: comparison.as_json() for name, comparison in self.comparisons.items()},
            "path": str(self.path),
            "figures": [str(path) for path in self.figures],
        }


def report(
    size: str = "medium",
    seed: int = 0,
    folder: str | Path = "docs",
    methods: bool = True,
    device: str | None = None,
) -> Realism:
    """Compare the simulated market with the real sets that LABKIT_DATA names, and write what was found.

    Args:
        size: of the market; "medium" has as many products as Chorus, on which the order of methods depends.
        seed: of the market.
        folder: gets realism.md and images/realism_*.png.
        methods: whether to compare search methods too: BM25, an encoder as it is and fine-tuned, and the
            hybrid. That takes some ten minutes on a laptop, the rest one.
        device: where the encoder runs; the fastest one when left out.

    Returns:
        The report. Without the real sets it names those that are missing and gives the simulated side.
    """
    from labkit.realism_figures import draw
    from labkit.realism_text import written

    market, sets = load(size, seed), Sets()
    data, complete = judged_sample(market, seed=seed)
    sections = [
        popularity(market, sets),
        activity(market, sets),
        clicks(market, sets),
        query_length(market, sets),
        grades(data, sets),
        voices(market, sets),
        mailings(market, sets),
    ]
    comparisons = {}
    if methods:
        title = "Search in the simulated shop, traffic sampled"
        comparisons["simulated"] = compare_judged(data, title, complete, device=device)
        chorus = sets.get(lambda: compare_chorus(device=device), "Chorus Electronics")
        if chorus is not None:
            comparisons["Chorus"] = chorus
        sections.append(order(comparisons, data))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures = draw(sections, comparisons, folder / "images")
    found = Realism(
        f"{size}, seed {seed}", sections, sets.missing, comparisons, folder / "realism.md", figures
    )
    found.path.write_text(written(found), encoding="utf-8")
    return found
