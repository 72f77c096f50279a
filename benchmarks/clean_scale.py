"""Cleaning the shop's raw tables: cost and memory as the rows grow, and MinHash beside a peer.

The same pipeline (``labkit data clean``) runs on three sizes of the market, each in a process of its own
whose time and peak memory are taken; the time for each million rows must not grow. The near-duplicate search
is measured against datasketch on the same products, threshold and shingles, alternating.

``--size small`` takes tiny, small and medium (up to 2 million events), ``--size full`` small, medium and full
(over 20 million); the markets are made first where they are not there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import polars as pl

from benchmarks.record import report

SIZES = {"small": ("tiny", "small", "medium"), "full": ("small", "medium", "full")}
PAIRS = 5
PRODUCTS = 3_000
LEAST = 0.67
CLEAN = """
import json, resource, sys, tempfile, time
from pathlib import Path
from labkit.data.clean_shop import clean_shop
from labkit.shop import load
from labkit.shop.scoring import score
market = load(sys.argv[1], 0)
raw = {name: market.scan(f"raw_{name}") for name in ("products", "shoppers", "reviews", "events")}
with tempfile.TemporaryDirectory() as folder:
    start = time.perf_counter()
    cleaned = clean_shop(raw, Path(folder), progress=False)
    seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
events = next(change.rows_in for change in cleaned.changes if change.step == "events: exact duplicate")
found = score(cleaned.findings, market.read("truth"))
print(json.dumps({"seconds": seconds, "mb": peak, "events": events, "scores": found.to_dicts()}))
"""
GATED = (("events", "exact_duplicate"), ("products", "near_duplicate"), ("events", "bot"), ("events", "unit"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--device", choices=["cpu"], default="cpu")
    chosen = parser.parse_args()
    scale = []
    for size in SIZES[chosen.size]:
        _make(size)
        print(f"cleaning the {size} market ...", file=sys.stderr)
        done = json.loads(_python(CLEAN, size))
        scores = {(row["table"], row["defect"]): row for row in done["scores"]}
        line = {
            "size": size,
            "events": done["events"],
            "seconds": round(done["seconds"], 2),
            "seconds_per_million": round(1e6 * done["seconds"] / done["events"], 2),
            "peak_mb": round(done["mb"]),
            "quality": {
                f"{table} {defect}": [round(scores[table, defect][m], 4) for m in ("precision", "recall")]
                for table, defect in GATED
            },
        }
        print(json.dumps(line), file=sys.stderr)
        scale.append(line)
    ratios, quality = _near_duplicates()
    report("clean_scale", chosen.size, "cpu", "datasketch", ratios, quality, scale=scale)


def _make(size: str) -> None:
    _python("import sys; from labkit.shop import load; load(sys.argv[1], 0).scan('truth')", size)


def _python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def _near_duplicates() -> tuple[list[float], dict[str, object]]:
    """Ours and datasketch's time to propose and check pairs; which of its copies we find."""
    from labkit.data.duplicates import clusters, near_duplicates
    from labkit.shop import load

    products = load("small", 0).read("raw_products").head(PRODUCTS)
    texts = products.select(pl.concat_str(["title", "description"], separator=" ")).to_series().to_list()
    ratios, mine, theirs = [], set(), set()
    for _ in range(PAIRS):
        start = time.perf_counter()
        found = near_duplicates(products, same=(), attributes=None, least=LEAST)
        middle = time.perf_counter()
        pairs = _datasketch(texts)
        end = time.perf_counter()
        # Groups, because of many in the same words we pair neighbours only.
        mine = set(clusters(found).iter_rows())
        rows = pl.DataFrame(list(pairs), schema={"of": pl.Int64, "row": pl.Int64}, orient="row")
        theirs = set(clusters(rows).iter_rows())
        ratios.append((end - middle) / (middle - start))
    return ratios, {
        "products": len(texts),
        "copies": len(mine),
        "copies_peer": len(theirs),
        "shared": round(len(mine & theirs) / max(1, len(mine | theirs)), 4),
    }


def _datasketch(texts: list[str]) -> set[tuple[int, int]]:
    from datasketch import MinHash, MinHashLSH

    from labkit.data.duplicates import BANDS, PERMUTATIONS, shingles

    codes, offsets = shingles(pl.Series(texts))
    sets = [codes[a:b] for a, b in pairwise(offsets)]
    hashes = [MinHash(num_perm=PERMUTATIONS, hashfunc=lambda code: int(code) & 0xFFFFFFFF) for _ in sets]
    for hashed, members in zip(hashes, sets, strict=True):
        hashed.update_batch(members)
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, PERMUTATIONS // BANDS))
    pairs = set()
    for row, hashed in enumerate(hashes):
        for other in index.query(hashed):
            shared = len(np.intersect1d(sets[row], sets[other], assume_unique=True))
            if shared >= LEAST * (len(sets[row]) + len(sets[other]) - shared):
                pairs.add((other, row))
        index.insert(row, hashed)
    return pairs


if __name__ == "__main__":
    main()
