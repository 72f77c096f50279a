"""How well a cleaning found what was planted."""

from __future__ import annotations

import polars as pl


def score(findings: pl.DataFrame, truth: pl.DataFrame) -> pl.DataFrame:
    """Precision and recall of each defect, over rows.

    Args:
        findings: table, row, defect: what the cleaning claims.
        truth: the market's truth table.

    Returns:
        table, defect, planted, found, right (rows), precision, recall (null where nothing was found or
        planted).

    Example:
        >>> claim = pl.DataFrame({"table": ["events"] * 2, "row": [1, 2], "defect": ["bot"] * 2})
        >>> fact = pl.DataFrame({"table": ["events"] * 4, "row": [2, 3, 4, 5], "defect": ["bot"] * 4})
        >>> score(claim, fact).select("precision", "recall").row(0)
        (0.5, 0.25)
    """
    key = ["table", "defect", "row"]
    claimed, planted = (frame.select(pl.col(key)).unique() for frame in (findings, truth))
    right = claimed.join(planted, on=key, how="semi")
    group = ["table", "defect"]
    counted = [
        frame.group_by(group).agg(pl.len().alias(name))
        for name, frame in (("planted", planted), ("found", claimed), ("right", right))
    ]
    table = counted[0].join(counted[1], on=group, how="full", coalesce=True)
    table = table.join(counted[2], on=group, how="left").with_columns(
        pl.col("planted", "found", "right").fill_null(0).cast(pl.Int64)
    )
    return table.sort(group).with_columns(
        precision=pl.when(pl.col("found") > 0).then(pl.col("right") / pl.col("found")),
        recall=pl.when(pl.col("planted") > 0).then(pl.col("right") / pl.col("planted")),
    )
