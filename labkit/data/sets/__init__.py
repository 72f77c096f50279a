"""One small file for each family of real data sets: its declaration, its loader, its schemas."""

from labkit.data.sets.amazon import (
    AMAZON_BEAUTY,
    AMAZON_REVIEWS,
    amazon_reviews,
    load_amazon_beauty,
    load_amazon_reviews,
)
from labkit.data.sets.bandit import OPEN_BANDIT, load_open_bandit
from labkit.data.sets.chorus import CHORUS, load_chorus, load_chorus_raters
from labkit.data.sets.ciao import CIAO, load_ciao
from labkit.data.sets.clothing import CLOTHING, load_clothing
from labkit.data.sets.diginetica import DIGINETICA, load_diginetica
from labkit.data.sets.esci import ESCI, ESCI_SAMPLE, load_esci, load_esci_sample
from labkit.data.sets.hillstrom import HILLSTROM, load_hillstrom
from labkit.data.sets.hm import HM, load_hm
from labkit.data.sets.intents import BANKING77, BITEXT, load_banking77, load_bitext
from labkit.data.sets.matching import PRODUCT_MATCHING, load_product_matching
from labkit.data.sets.movielens import MOVIELENS, load_movielens
from labkit.data.sets.retailrocket import RETAILROCKET, load_retailrocket
from labkit.data.sets.sentiment import (
    FINANCE,
    ZH_REVIEWS,
    load_finance_scores,
    load_phrasebank,
    load_zh_reviews,
)
from labkit.data.sets.wands import WANDS, WANDS_QUERIES, load_wands, load_wands_queries
from labkit.data.sources import DataMissing, DataSet, find

DATA_SETS: dict[str, DataSet] = {
    data.name: data
    for data in (
        CHORUS,
        ESCI,
        ESCI_SAMPLE,
        WANDS,
        WANDS_QUERIES,
        AMAZON_REVIEWS,
        AMAZON_BEAUTY,
        *MOVIELENS.values(),
        RETAILROCKET,
        HM,
        CIAO,
        DIGINETICA,
        OPEN_BANDIT,
        HILLSTROM,
        PRODUCT_MATCHING,
        CLOTHING,
        BANKING77,
        BITEXT,
        ZH_REVIEWS,
        FINANCE,
    )
}


def describe_sets() -> list[dict[str, str | bool]]:
    """What is known of each data set and whether it is here, for a list.

    Returns:
        name, what, source, licence, found (bool), where (its folder, or a sentence that says how to get it),
        how ("here", "labkit data fetch <name>" or "by hand": the same, short), one dict per set, in the order
        of the registry.

    Example:
        >>> [entry["name"] for entry in describe_sets()][:2]
        ['chorus_electronics_search', 'esci']
    """
    entries: list[dict[str, str | bool]] = []
    for data in DATA_SETS.values():
        try:
            found, where = True, str(find(data, used=False)[0])
        except (DataMissing, ValueError) as error:
            found, where = False, str(error)
        entries.append(
            {
                "name": data.name,
                "what": data.title,
                "source": data.source,
                "licence": data.licence,
                "found": found,
                "where": where,
                "how": "here" if found else f"labkit data fetch {data.name}" if data.fetchable else "by hand",
            }
        )
    return entries


__all__ = [
    "AMAZON_BEAUTY",
    "AMAZON_REVIEWS",
    "BANKING77",
    "BITEXT",
    "CHORUS",
    "CIAO",
    "CLOTHING",
    "DATA_SETS",
    "DIGINETICA",
    "ESCI",
    "ESCI_SAMPLE",
    "FINANCE",
    "HILLSTROM",
    "HM",
    "MOVIELENS",
    "OPEN_BANDIT",
    "PRODUCT_MATCHING",
    "RETAILROCKET",
    "WANDS",
    "WANDS_QUERIES",
    "ZH_REVIEWS",
    "amazon_reviews",
    "describe_sets",
    "load_amazon_beauty",
    "load_amazon_reviews",
    "load_banking77",
    "load_bitext",
    "load_chorus",
    "load_chorus_raters",
    "load_ciao",
    "load_clothing",
    "load_diginetica",
    "load_esci",
    "load_esci_sample",
    "load_finance_scores",
    "load_hillstrom",
    "load_hm",
    "load_movielens",
    "load_open_bandit",
    "load_phrasebank",
    "load_product_matching",
    "load_retailrocket",
    "load_wands",
    "load_wands_queries",
    "load_zh_reviews",
]
