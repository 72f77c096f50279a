"""Text whose bytes were read in the wrong alphabet: "CafÃ©" for "Café"."""

from __future__ import annotations

import polars as pl

from labkit.data.steps import Change, corrected, rows

# Marks that UTF-8 leaves when it is read as Latin-1 or Windows-1252: only texts with one go to ftfy, which
# looks at every character in Python (about 20 000 titles a second; this filter, several millions).
SIGN = "[\u0080-\u009f\u00a0-\u00ff\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2018-\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122]"


def repaired(text: str) -> str:
    """A text as it was before UTF-8 was read as Latin-1 or Windows-1252; other texts come back as they are.

    Only the decoding is undone. ftfy would also straighten quotes, ligatures and HTML, and a cleaner must not
    rewrite what a seller wrote. Source: ftfy (Speer, 2019).

    Example:
        >>> repaired("CafÃ© crÃ¨me"), repaired("Café crème")
        ('Café crème', 'Café crème')
    """
    import ftfy

    return ftfy.fix_encoding(text)


def find_damage(frame: pl.LazyFrame, columns: list[str], row: str = "row") -> pl.DataFrame:
    """Texts that decode to something else than what stands there.

    Args:
        frame: any table with a key column.
        columns: text columns.
        row: name of the key.

    Returns:
        row, column str, was str, value str (as it should read), ordered by column as given, then row.

    Example:
        >>> find_damage(pl.LazyFrame({"row": [0, 1], "title": ["Café", "CafÃ©"]}), ["title"]).rows()
        [(1, 'title', 'CafÃ©', 'Café')]
    """
    found = []
    for column in columns:
        suspects = (
            frame.filter(pl.col(column).str.contains(SIGN))
            .select(pl.col(row).cast(pl.Int64).alias("row"), column=pl.lit(column), was=pl.col(column))
            .collect(engine="streaming")
            .sort("row")
        )
        values = [repaired(text) for text in suspects["was"]]
        found.append(
            suspects.with_columns(value=pl.Series(values, dtype=pl.String)).filter(
                pl.col("value") != pl.col("was")
            )
        )
    return pl.concat(found)


def repair_encoding(frame: pl.LazyFrame, columns: list[str], row: str = "row") -> tuple[pl.LazyFrame, Change]:
    """Undo wrong decoding in text columns; sound texts are not touched.

    Example:
        >>> frame, change = repair_encoding(pl.LazyFrame({"row": [0], "title": ["CafÃ©"]}), ["title"])
        >>> frame.collect()["title"].item(), change.changed
        ('Café', 1)
    """
    found, count = find_damage(frame, columns, row), rows(frame)
    for column in columns:
        values = found.filter(pl.col("column") == column).select(pl.col("row").alias(row), "value")
        if values.height:
            frame = corrected(frame, column, values, row)
    return frame, Change("encoding", count, count, found["row"].n_unique(), f"in {', '.join(columns)}")
