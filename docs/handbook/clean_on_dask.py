"""The first cleaning steps of the event log on a Dask cluster: the same result as on one machine.

    python docs/handbook/clean_on_dask.py --size small      # workers of its own, on this machine
    python docs/handbook/clean_on_dask.py --size full --cluster tcp://HOST:8786

The raw tables must lie where all workers read them (a shared folder or an object store): set LABKIT_HOME.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pandas as pd
import polars as pl

from labkit.shop import Market, load

TESTER = r"@persimmon\.test$"


def clean_events(market: Market, target: Path) -> dict[str, int]:
    """Drop copies and test accounts, put pence back into pounds; write parquet, one file a partition.

    Args:
        market: its raw tables are read, not its truth.
        target: a folder all workers can write.

    Returns:
        Rows read, copies, tester rows, prices corrected and rows written.
    """
    import dask
    import dask.dataframe as dd

    # Partitions are the log's files, one a month; a copy arrives within minutes of its original.
    log = dd.read_parquet([str(path) for path in market.files("raw_events")])
    log = log.astype(dict.fromkeys(("surface", "device", "app"), "string"))
    shoppers = market.read("raw_shoppers")
    testers = shoppers.filter(pl.col("email").str.contains(TESTER))["shopper_id"].to_list()
    columns = [name for name in log.columns if name != "row"]
    # All copies of a line must meet in one partition: a copy shares its shopper with its original.
    unique = log.shuffle("shopper_id").map_partitions(_first_of_copies, columns)
    people = unique[~unique["shopper_id"].isin(testers)]
    # A median does not come together from parts, a minimum does; nothing is ever marked down by 95 %.
    lowest = people.groupby("product_id")["price"].min().rename("lowest").reset_index()
    priced = people.merge(lowest, on="product_id", how="left")
    pence = priced["price"] > 20 * priced["lowest"]
    fixed = priced.assign(price=priced["price"].where(~pence, (priced["price"] / 100).round(2)))
    counts = dask.compute(len(log), len(unique), len(people), pence.sum())
    fixed.drop(columns="lowest").to_parquet(str(target), write_index=False)
    read, kept, shown, corrected = map(int, counts)
    return {
        "rows": read,
        "copies": read - kept,
        "tester rows": kept - shown,
        "prices corrected": corrected,
        "rows written": shown,
    }


def _first_of_copies(part: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    return part.sort_values("row").drop_duplicates(columns)


def main() -> None:
    from dask.distributed import Client, LocalCluster

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cluster", help="address of a Dask scheduler; workers of its own when left out")
    parser.add_argument("--into", type=Path, help="folder for the result; thrown away when left out")
    chosen = parser.parse_args()
    market = load(chosen.size, chosen.seed)
    market.files("raw_events")  # made here, once, before the workers read it
    cluster = chosen.cluster or LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with Client(cluster) as client, tempfile.TemporaryDirectory(prefix="labkit-dask-") as target:
        print(f"{len(client.scheduler_info()['workers'])} workers")
        start = time.perf_counter()
        for what, count in clean_events(market, chosen.into or Path(target)).items():
            print(f"{what}: {count:,}")
        print(f"{time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
