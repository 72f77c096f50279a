"""Accounts of the shop's own testers, and what they did."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from labkit.data.steps import Change, rows, without

# Names that RFC 2606 keeps out of the real internet, and words that testers use.
RESERVED = r"(?:\.test|\.invalid|\.example|\.localhost|[@.]example\.(?:com|org|net)|\.local|\.internal)$"
WORDS = (
    r"(?i)(?:^|[\s._+@-])(?:test(?:er|ing|user|account)?|qa|dummy|do[ _-]?not[ _-]?ship)\d*(?:$|[\s._+@-])"
)
PENNY = 0.01
COMMON = 0.02  # a domain that a larger share of all shoppers has is a mail provider's


def find_testers(
    shoppers: pl.DataFrame,
    events: pl.LazyFrame | None = None,
    domains: Sequence[str] = (),
    penny: float = PENNY,
) -> pl.DataFrame:
    """Find test accounts by their address, their name and what they paid.

    A reserved or company domain is enough by itself, unless so many have it that it is nobody's own. A name
    or a mailbox that says "test" needs nothing else either, because whole words are compared ("Testino" is a
    name). Paying a penny counts for shoppers who did so in most purchases.

    Args:
        shoppers: shopper_id, email, name.
        events: the log (shopper_id, price, bought); None leaves prices out.
        domains: the company's own mail domains.
        penny: the price testers set.

    Returns:
        shopper_id, reason str, ordered by shopper.

    Example:
        >>> people = {"shopper_id": [1, 2], "email": ["a@mail.org", "qa+7@mail.org"], "name": ["A", "B"]}
        >>> find_testers(pl.DataFrame(people))["shopper_id"].to_list()
        [2]
    """
    email = pl.col("email").str.to_lowercase()
    own = email.str.extract(r"@(.+)$", 1).is_in([name.lower() for name in domains])
    usual = pl.len().over(email.str.extract(r"@(.+)$", 1)) > max(COMMON * shoppers.height, 10)
    signs = {
        "reserved domain": email.str.contains(RESERVED) & ~usual,
        "company domain": own,
        "address says test": email.str.extract(r"^(.*)@", 1).str.contains(WORDS)
        | email.str.extract(r"@(.+)$", 1).str.contains(WORDS),
        "name says test": pl.col("name").str.contains(WORDS),
    }
    table = shoppers.select("shopper_id", **{name: sign.fill_null(False) for name, sign in signs.items()})
    names = list(signs)
    if events is not None:
        paid = (
            events.filter(pl.col("bought"))
            .group_by("shopper_id")
            .agg(share=(pl.col("price") <= penny).mean())
            .filter(pl.col("share") > 0.5)
            .collect(engine="streaming")
        )
        table = table.with_columns(
            pl.col("shopper_id").is_in(paid["shopper_id"].implode()).alias("paid a penny")
        )
        names.append("paid a penny")
    reason = pl.concat_str(
        [pl.when(name).then(pl.lit(name)) for name in names], separator=", ", ignore_nulls=True
    )
    return table.filter(pl.any_horizontal(names)).select("shopper_id", reason=reason).sort("shopper_id")


def drop_testers(
    frame: pl.LazyFrame, testers: pl.DataFrame, shopper: str = "shopper_id"
) -> tuple[pl.LazyFrame, Change]:
    """Leave out the rows of test accounts, in any table that names the shopper."""
    kept = without(frame, testers["shopper_id"], shopper)
    before, after = rows(frame), rows(kept)
    return kept, Change("test shoppers", before, after, before - after, f"{testers.height} accounts")
