"""Rows that stand twice: the same to the byte, or the same product told in other words."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from labkit.data.steps import Change, rows, without

PARTS = 32  # files that hashes are spilt into; each is sorted alone, so memory is 1/32 of all hashes
PERMUTATIONS, BANDS = 96, 32  # bands of 3: pairs of Jaccard .5 meet with chance .986, of .7 always
SEED = 20_250_901
WORD = r"\p{Han}|[\p{L}\p{N}--\p{Han}]+"  # Chinese is written without spaces: each character counts
PAIRS = 4_000_000  # pairs that are compared at once
FARTHEST = (
    1000  # with so many different ones before it in a bucket each is compared at most: memory is bounded
)
PIECE = 20_000  # products whose words are in memory at once
Check = Callable[[np.ndarray, np.ndarray], np.ndarray]


def exact_duplicates(frame: pl.LazyFrame, row: str = "row") -> pl.DataFrame:
    """Find rows that repeat an earlier one in every column but ``row``.

    Each row becomes a 64-bit hash; hashes are spilt to disk by their top bits and each file is searched
    alone, so memory does not grow with the log and time is linear. Rows whose hashes meet are compared
    column by column, so the answer is exact.

    Args:
        frame: any table with an integer ``row`` column that orders it (the first one is the original).
        row: name of that column.

    Returns:
        row i64, of i64 (the first row with the same content), ordered by row.

    Example:
        >>> log = pl.LazyFrame({"row": [0, 1, 2], "item": ["a", "b", "a"]})
        >>> exact_duplicates(log).rows()
        [(2, 0)]
    """
    content = [name for name in frame.collect_schema().names() if name != row]
    hashed = frame.select(pl.col(row).cast(pl.Int64), pl.struct(content).hash(seed=SEED).alias("hash"))
    suspects = [np.zeros(0, dtype=np.int64)]
    with tempfile.TemporaryDirectory(prefix="labkit-") as name:
        paths = [Path(name) / str(part) for part in range(PARTS)]
        files = [path.open("wb") for path in paths]
        try:
            for batch in hashed.collect_batches(engine="streaming", maintain_order=False):
                pairs = np.stack([batch["hash"].to_numpy(), batch[row].to_numpy().view(np.uint64)], axis=1)
                part = (pairs[:, 0] >> np.uint64(59)).astype(np.uint8)  # 5 bits = 32 parts
                pairs = pairs[np.argsort(part, kind="stable")]
                ends = np.cumsum(np.bincount(part, minlength=PARTS))
                for file, start, end in zip(files, [0, *ends[:-1]], ends, strict=True):
                    file.write(pairs[start:end].tobytes())
        finally:
            for file in files:
                file.close()
        for path in paths:
            pairs = np.fromfile(path, dtype=np.uint64).reshape(-1, 2)
            pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
            same = pairs[1:, 0] == pairs[:-1, 0]
            repeated = np.zeros(len(pairs), dtype=bool)
            repeated[1:] |= same
            repeated[:-1] |= same
            suspects.append(pairs[repeated, 1].view(np.int64))
    wanted = pl.Series(row, np.concatenate(suspects))
    close = frame.filter(pl.col(row).is_in(wanted.implode())).collect(engine="streaming")
    first = pl.col(row).min().over(content) if content else pl.col(row).min()
    return (
        close.select(pl.col(row).cast(pl.Int64), of=first.cast(pl.Int64))
        .filter(pl.col(row) != pl.col("of"))
        .sort(row)
    )


def drop_exact_duplicates(frame: pl.LazyFrame, row: str = "row") -> tuple[pl.LazyFrame, Change]:
    """Keep the first of rows that are the same in every column but ``row``.

    Example:
        >>> kept, change = drop_exact_duplicates(pl.LazyFrame({"row": [0, 1], "item": ["a", "a"]}))
        >>> kept.collect()["row"].to_list(), change.changed
        ([0], 1)
    """
    found = exact_duplicates(frame, row)
    before = rows(frame)
    change = Change("exact duplicates", before, before - found.height, found.height)
    return without(frame, found[row], row), change


def near_duplicates(
    products: pl.DataFrame,
    text: Sequence[str] = ("title", "description"),
    same: Sequence[str] = ("brand", "category"),
    within: Mapping[str, float] | None = None,
    attributes: str | None = "attributes",
    least: float = 0.5,
    row: str = "row",
) -> pl.DataFrame:
    """Find products that are listed again in slightly other words.

    MinHash signatures over words and word pairs, banded (LSH), propose pairs; a pair counts when the Jaccard
    similarity of its shingles is at least ``least`` and its structure agrees. Structure decides more than
    text: two colours of one shoe share nearly every word and are two products.

    Of products with the same words and structure a pair is left out when others join its two ends, so a
    thousand copies of one listing give about a thousand pairs and not half a million. The groups that
    `clusters` makes of the pairs are the same, whatever the rows' numbers. (Only where over 1000 products
    of one block share a band and no two their words, those farther apart in ``within`` are not compared.)

    Signatures come from rensa: the whole search takes a quarter of its time with datasketch (clean_scale).
    Source: Broder, "On the resemblance and containment of documents", 1997.

    Args:
        products: one row per product.
        text: columns whose words are compared.
        same: columns that must be equal (null equals nothing).
        within: columns that may differ by so large a share of the larger value: ``{"price": 0.1}``.
        attributes: a column of JSON objects that must not conflict: a key in both has the same value. None
            where there is none.
        least: smallest Jaccard similarity in [0, 1].
        row: integer key; the smaller one is the original.

    Returns:
        row i64, of i64 (of < row), similarity f64, ordered by row and of.

    Example:
        >>> words = ["Nike Air red running shoe for men", "Nike Air red running shoe for men new"]
        >>> listed = pl.DataFrame({"row": [0, 1], "title": words})
        >>> near_duplicates(listed, ["title"], [], attributes=None).rows()
        [(1, 0, 0.8666666666666667)]
    """
    nothing = pl.DataFrame(schema={"row": pl.Int64, "of": pl.Int64, "similarity": pl.Float64})
    if products.height < 2:
        return nothing
    products = products.sort(row)
    codes, offsets = shingles(
        products.select(pl.concat_str(text, separator=" ", ignore_nulls=True)).to_series()
    )
    blocks = np.zeros(products.height, dtype=np.uint64)
    if same:
        blocks = products.select(pl.struct(same).hash(seed=SEED)).to_series().to_numpy()
    checks = [_equal(products[name]) for name in same]
    checks += [_within(products[name], share) for name, share in (within or {}).items()]
    checks += [_agreeing(products[attributes])] if attributes is not None else []
    kinds, order = _kinds(products, blocks, codes, offsets, attributes, within or {})
    left, right = candidate_pairs(signatures(codes, offsets), blocks, checks=checks, kinds=kinds, order=order)
    alike = jaccard(codes, offsets, left, right)
    close = alike >= least
    left, right, alike = left[close], right[close], alike[close]
    keys = products[row].cast(pl.Int64).to_numpy()
    found = {"row": keys[right], "of": keys[left], "similarity": alike}
    return nothing if not len(left) else pl.DataFrame(found).sort("row", "of")


def _kinds(
    products: pl.DataFrame,
    blocks: np.ndarray,
    codes: np.ndarray,
    offsets: np.ndarray,
    attributes: str | None,
    within: Mapping[str, float],
) -> tuple[np.ndarray, np.ndarray]:
    """What tells products apart besides the first ``within`` column, as one number, and their order by it."""
    sums = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(codes)])  # modulo 2^64
    told = {"__block": blocks, "__words": sums[offsets[1:]] - sums[offsets[:-1]]}
    others = [*list(within)[1:], *([attributes] if attributes is not None else [])]
    content = pl.DataFrame(
        [*(pl.Series(name, value) for name, value in told.items()), *(products[name] for name in others)]
    )
    kinds = content.select(pl.struct(pl.all()).hash(seed=SEED)).to_series().to_numpy()
    first = [products[name].cast(pl.Float64).rank("dense") for name in list(within)[:1]]
    order = first[0].fill_null(0).to_numpy() if first else np.zeros(products.height, dtype=np.uint32)
    return kinds, order


def _equal(column: pl.Series) -> Check:
    code = column.rank("dense").cast(pl.Int64).fill_null(-1).to_numpy()
    return lambda left, right: (code[left] == code[right]) & (code[left] >= 0)


def _within(column: pl.Series, share: float) -> Check:
    value = column.cast(pl.Float64).to_numpy()
    return lambda left, right: (
        np.abs(value[left] - value[right]) <= share * np.maximum(value[left], value[right])
    )


def _agreeing(column: pl.Series) -> Check:
    """Attributes of two products do not conflict: a key that both have has the same value."""
    names: dict[str, int] = {}
    values: dict[str, int] = {}
    facts = [json.loads(text or "{}") for text in column]
    most = max(map(len, facts), default=0)
    keys = np.full((len(facts), most), -1, dtype=np.int32)
    held = np.zeros((len(facts), most), dtype=np.int32)
    for place, one in enumerate(facts):
        for slot, (name, value) in enumerate(one.items()):
            keys[place, slot] = names.setdefault(name, len(names))
            held[place, slot] = values.setdefault(json.dumps(value), len(values))

    def agree(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        sound = np.ones(len(left), dtype=bool)
        for one in range(most):
            for other in range(most):
                shared = (keys[left, one] == keys[right, other]) & (keys[left, one] >= 0)
                sound &= ~(shared & (held[left, one] != held[right, other]))
        return sound

    return agree


def clusters(pairs: pl.DataFrame) -> pl.DataFrame:
    """Join pairs into groups: whoever is like one of a group belongs to it.

    Args:
        pairs: row and of, both i64.

    Returns:
        row i64, of i64 (the smallest row of its group), for every member but the first, ordered by row.

    Example:
        >>> clusters(pl.DataFrame({"row": [1, 2], "of": [0, 1]})).rows()
        [(1, 0), (2, 0)]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.concatenate([pairs["row"].to_numpy(), pairs["of"].to_numpy()]).astype(np.int64)
    members, place = np.unique(ends, return_inverse=True)
    graph = coo_array(
        (np.ones(pairs.height), (place[: pairs.height], place[pairs.height :])), (len(members), len(members))
    )
    _, group = connected_components(graph, directed=False)
    table = pl.DataFrame({"row": members, "group": group})
    first = table.with_columns(of=pl.col("row").min().over("group"))
    return first.filter(pl.col("row") != pl.col("of")).select("row", "of").sort("row")


def drop_near_duplicates(
    frame: pl.LazyFrame, row: str = "row", **how: object
) -> tuple[pl.LazyFrame, Change, pl.DataFrame]:
    """Keep the first product of every group of near duplicates (see `near_duplicates` for ``how``).

    Products are few beside events, so they are collected; the events that show a dropped product can be
    pointed at the kept one by the third result.

    Returns:
        the frame, the change, and row, of: which row each dropped one repeats.

    Example:
        >>> words = ["Nike Air red running shoe for men", "Nike Air red running shoe for men new"]
        >>> frame = pl.LazyFrame({"row": [0, 1], "title": words})
        >>> kept, change, _ = drop_near_duplicates(frame, text=["title"], same=[], attributes=None)
        >>> kept.collect()["row"].to_list()
        [0]
    """
    table = frame.collect()
    pairs = near_duplicates(table, row=row, **how)  # type: ignore[arg-type]
    found = clusters(pairs)
    note = f"similarity from {pairs['similarity'].to_numpy().min():.2f}" if found.height else ""
    change = Change("near duplicates", table.height, table.height - found.height, found.height, note)
    return without(table.lazy(), found["row"], row), change, found


def shingles(texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """The distinct words and word pairs of each text, as sorted 64-bit hashes.

    Args:
        texts: str, N of them; null counts as empty.

    Returns:
        codes u64, all texts one after the other, and offsets i64 (N + 1) where each text begins.
    """
    # In pieces, because a table of all words of 200 000 products takes gigabytes and their hashes do not.
    pieces = [_shingles(texts[start : start + PIECE]) for start in range(0, len(texts), PIECE)]
    codes = [np.zeros(0, dtype=np.uint64), *(code for code, _ in pieces)]
    counts = [np.zeros(1, dtype=np.int64), *(count for _, count in pieces)]
    return np.concatenate(codes), np.cumsum(np.concatenate(counts))


def words_of(texts: pl.Series) -> pl.DataFrame:
    """The words of each text in their order: document u32 (place in ``texts``), word in lower case."""
    return (
        pl.DataFrame({"text": texts.fill_null("")})
        .with_row_index("document")
        .select("document", pl.col("text").str.to_lowercase().str.extract_all(WORD).alias("word"))
        .explode("word")
        .drop_nulls("word")
    )


def _shingles(texts: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    words = words_of(texts)
    pairs = words.with_columns(
        word=pl.col("word") + pl.lit(" ") + pl.col("word").shift(-1).over("document")
    ).drop_nulls("word")
    codes = (
        pl.concat([words, pairs])
        .select("document", pl.col("word").hash(seed=SEED).alias("code"))
        .unique()
        .sort("document", "code")
    )
    counts = np.bincount(codes["document"].to_numpy(), minlength=len(texts))
    return codes["code"].to_numpy(), counts.astype(np.int64)


def signatures(codes: np.ndarray, offsets: np.ndarray, permutations: int = PERMUTATIONS) -> np.ndarray:
    """MinHash signatures (N, permutations) u32 of documents given as shingle hashes."""
    from rensa import RMinHash

    blocks = [np.zeros((0, permutations), dtype=np.uint32)]
    for start in range(0, len(offsets) - 1, PIECE):  # the library returns Python lists: not all at once
        bounds = offsets[start : start + PIECE + 1]
        flat = np.ascontiguousarray(codes[bounds[0] : bounds[-1]])
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            flat, (bounds - bounds[0]).astype(np.uint64), permutations, SEED
        )
        blocks.append(np.array(matrix.to_rows(), dtype=np.uint32))
    return np.concatenate(blocks)


def candidate_pairs(
    signature: np.ndarray,
    blocks: np.ndarray,
    bands: int = BANDS,
    checks: Sequence[Check] = (),
    kinds: np.ndarray | None = None,
    order: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (left < right) whose signatures agree on a whole band and which are of one block.

    If a < b < c in ``order`` and b and c are of one kind, then a and c are alike only if a and b, and b and
    c, are too: the pair of a and c joins nothing new and is left out.

    Args:
        signature: (N, permutations) u32.
        blocks: (N,) u64; only members of one block are paired.
        bands: how many; a divisor of the number of permutations.
        checks: functions of left and right (P,) that say which pairs may stay; called on some pairs at a
            time, so that what structure rules out is never kept.
        kinds: (N,) equal for those that differ in nothing but ``order``; None: all differ.
        order: (N,) the number by which two of a kind may be too far apart; None: there is none.
    """
    width = signature.shape[1] // bands
    count = len(signature)
    kinds = np.arange(count) if kinds is None else np.unique(kinds, return_inverse=True)[1]
    sorted_by = np.lexsort((kinds, np.zeros(count) if order is None else order))
    found = [np.zeros(0, dtype=np.int64)]
    for band in range(bands):
        key = blocks.copy()
        for column in range(band * width, (band + 1) * width):
            key = (key ^ signature[:, column]) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        member = sorted_by[np.argsort(key[sorted_by], kind="stable")]
        ordered = key[member]
        starts = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])
        sizes = np.diff(np.append(starts, count))
        # Each is paired with those before it in its bucket, back to the last one of its kind.
        back = np.maximum(np.repeat(starts, sizes), _last_alike(kinds[member]))
        back = np.maximum(back, np.arange(count) - FARTHEST)
        ends = np.cumsum(np.arange(count) - back)
        cuts = np.searchsorted(ends, np.arange(PAIRS, ends[-1] if count else 0, PAIRS))
        for part in np.split(np.arange(count), cuts):
            reach = part - back[part]
            right = np.repeat(part, reach)
            left = right - 1 - (np.arange(len(right)) - np.repeat(np.cumsum(reach) - reach, reach))
            one, other = member[left], member[right]
            one, other = np.minimum(one, other), np.maximum(one, other)
            for check in checks:
                kept = check(one, other)
                one, other = one[kept], other[kept]
            found.append(one * count + other)
        found = [np.unique(np.concatenate(found))]
    pairs = found[0]
    return pairs // max(count, 1), pairs % max(count, 1)


def _last_alike(kinds: np.ndarray) -> np.ndarray:
    """For each place the place before it with the same number; -1 where there is none."""
    place = np.argsort(kinds, kind="stable")
    last = np.full(len(kinds), -1, dtype=np.int64)
    same = kinds[place[1:]] == kinds[place[:-1]]
    last[place[1:][same]] = place[:-1][same]
    return last


def jaccard(codes: np.ndarray, offsets: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Exact Jaccard similarity of pairs of documents (P,) f64; two empty ones are not alike (0)."""
    from scipy.sparse import csr_array

    # Only the documents that occur in a pair: they are few beside the catalogue.
    used, place = np.unique(np.concatenate([left, right]), return_inverse=True)
    left, right = place[: len(left)], place[len(left) :]
    size = np.diff(offsets)[used]
    codes = np.concatenate([codes[:0], *(codes[offsets[one] : offsets[one + 1]] for one in used)])
    offsets = np.concatenate([[0], np.cumsum(size)])
    _, column = np.unique(codes, return_inverse=True)
    table = csr_array(
        (np.ones(len(codes), dtype=np.float32), column, offsets), (len(size), max(len(codes), 1))
    )
    shared = np.zeros(len(left))
    for start in range(0, len(left), 100_000):
        part = slice(start, start + 100_000)
        shared[part] = table[left[part]].multiply(table[right[part]]).sum(axis=1)
    union = size[left] + size[right] - shared
    return np.divide(shared, union, out=np.zeros(len(left)), where=union > 0)
