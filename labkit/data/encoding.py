"""Text whose bytes were read in the wrong alphabet: "CafÃ©" for "Café"."""

from __future__ import annotations

import polars as pl

from labkit.data.steps import Change, corrected, rows

# How the first and second byte of a UTF-8 character look when read as Latin-1 or Windows-1252 (the space is a
# non-breaking one that was tidied up). Only texts with such a pair go to ftfy, which is thorough and slow.
_HIGH = bytes(b for b in range(0x80, 0xA0) if b not in b"\x81\x8d\x8f\x90\x9d").decode("cp1252")
SIGN = f"[\u00c2-\u00f4][ \u0080-\u00bf{_HIGH}]"


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
