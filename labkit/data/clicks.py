"""What a click log says about relevance once the position is taken out of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl


def click_rates(sessions: pl.DataFrame, propensities: Sequence[float]) -> pl.DataFrame:
    """Estimate how attractive each product is to those who see it, per query, from logged clicks.

    A product low on the page is clicked rarely because few shoppers look there. Weighting each click by 1 /
    (chance that its position is looked at) removes that: the mean of click / propensity over impressions is
    an unbiased estimate of P(click | seen). Source: Joachims, Swaminathan and Schnabel, "Unbiased
    learning-to-rank with biased feedback", WSDM 2017.

    Args:
        sessions: the log: query_id, product_id, position (from 1), clicked (bool), one row per product shown.
        propensities: P(seen) of position 1, 2, …, each above 0 and at most 1.

    Returns:
        query_id, product_id, shown (impressions), clicks, rate (f64, may exceed 1 where there are few
        impressions), ordered by query and product.

    Raises:
        ValueError: the log has positions for which there is no propensity, or one is not in (0, 1].

    Example:
        >>> log = pl.DataFrame({"query_id": [0, 0], "product_id": [7, 7]})
        >>> log = log.with_columns(position=pl.Series([1, 2]), clicked=pl.Series([False, True]))
        >>> click_rates(log, [1.0, 0.5])["rate"].to_list()
        [1.0]
    """
    seen = np.asarray(propensities, dtype=np.float64)
    if not ((seen > 0) & (seen <= 1)).all():
        raise ValueError(f"Propensities are chances above 0 and at most 1, not {list(propensities)}.")
    position = sessions["position"].to_numpy()
    if len(position) and not 1 <= position.min() <= position.max() <= len(propensities):
        raise ValueError(
            f"The log has positions {position.min()} to {position.max()}, but propensities are known "
            f"for 1 to {len(propensities)}."
        )
    weight = 1.0 / seen[position - 1]
    return (
        sessions.with_columns(weighted=pl.col("clicked") * pl.Series(weight, dtype=pl.Float64))
        .group_by("query_id", "product_id")
        .agg(shown=pl.len(), clicks=pl.col("clicked").sum(), rate=pl.col("weighted").sum() / pl.len())
        .sort("query_id", "product_id")
    )
