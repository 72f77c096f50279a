"""Tokens for keyword search: shop text is full of sizes, model numbers and mixed scripts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# Units that sellers write glued to the number, after a space or after a hyphen; all must give the same token.
# Units that are also words or letters ("3 in 1", "6 in stock", "2 l shaped", "5 g") join only where glued.
_UNITS = (
    "mm|cm|km|inch|ft|kg|mg|lb|oz|ml|cl|kw|mah|wh|hz|khz|mhz|ghz|kb|mb|gb|tb|mbps|gbps|mp|px|dpi|rpm|db|nm"
)
_TOKEN = re.compile(
    rf"""
    (?P<number>\d+(?:[.,]\d+)*) [ \-\u2010] (?P<unit>{_UNITS}) (?!\w)   # "500 ml", "13.3-inch"
    | \d+(?:[.,]\d+)+[^\W_]*                                            # "1.5l", "13.3", "1,024"
    | [^\W_]+(?:'[^\W\d_]+)?                                            # words, "1000xm4", "women's"
    """,
    re.VERBOSE,
)
# A double quote straight after a number means inches, unless it closes a quotation; NFKC makes ″ two primes.
_QUOTE = re.compile(r'(?P<quoted>(?<!\d)"[^"]*")|(?<=\d)(?:"|\u2032\u2032)')
# Chinese and Japanese write no spaces; pairs of neighbouring characters stand in for words.
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")


def tokenize(text: str) -> list[str]:
    """Split text into lower-case tokens for an inverted index.

    Unicode compatibility forms are unified (NFKC), case is folded, a number keeps its decimals and its unit
    in one token whether or not a space or a hyphen stands between them, a double quote after a number is
    inches, and Chinese or Japanese runs become overlapping
    pairs of characters, as Lucene's CJKAnalyzer does.

    Args:
        text: any text.

    Returns:
        The tokens in their order; punctuation is dropped.

    Example:
        >>> tokenize("Women's WATERPROOF jacket, 500 ml or 1.5L — IPX7")
        ["women's", 'waterproof', 'jacket', '500ml', 'or', '1.5l', 'ipx7']
        >>> tokenize("跑步鞋 42")
        ['跑步', '步鞋', '42']
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = _QUOTE.sub(lambda match: match["quoted"] or "inch ", text)
    return [token for match in _TOKEN.finditer(text) for token in _pieces(match)]


def _pieces(match: re.Match[str]) -> Iterator[str]:
    if match["unit"]:
        yield match["number"] + match["unit"]
        return
    token = match[0]
    start = 0
    for run in _UNSPACED.finditer(token):
        if token[start : run.start()]:
            yield token[start : run.start()]
        start = run.end()
        if len(run[0]) == 1:
            yield run[0]
        yield from (run[0][i : i + 2] for i in range(len(run[0]) - 1))
    if token[start:]:
        yield token[start:]


def stem(token: str) -> str:
    """Bring an English plural to its singular and drop a possessive: the S-stemmer.

    It joins "shoes" with "shoe" and leaves everything else alone, which suits shop text: brand names and
    model numbers survive. Source: Harman, "How effective is suffixing?", JASIS 1991.

    Args:
        token: one lower-case token.

    Returns:
        The token, or its singular.

    Example:
        >>> [stem(token) for token in ("batteries", "shoes", "women's", "glass", "bus", "lens")]
        ['battery', 'shoe', 'women', 'glass', 'bus', 'len']
    """
    token = token.removesuffix("'s")
    if len(token) > 4 and token.endswith("ies") and not token.endswith(("eies", "aies")):
        return token[:-3] + "y"
    if len(token) > 3 and token.endswith("es") and not token.endswith(("aes", "ees", "oes")):
        return token[:-1]
    if len(token) > 3 and token.endswith("s") and not token.endswith(("us", "ss")):
        return token[:-1]
    return token
