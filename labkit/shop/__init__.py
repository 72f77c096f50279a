"""A simulated shop whose truth is known: products, queries with graded relevance, and a click log.

The shop exists so that decisions can be scored exactly. Sellers and shoppers use different words for the same
things (``labkit/shop/catalogue/*.yaml`` declares both), so keyword search leaves room for encoders and
encoders leave room for keyword search. Grades come from the structured intent behind a query and from the
products' attributes, never from words; clicks come from a position-based model whose propensities are known.

Example:
    >>> import labkit.shop
    >>> market = labkit.shop.load("tiny")
    >>> market.queries.filter(market.queries["kind"] == "vague")["text"].len() > 0
    True
    >>> best = market.qrels.filter((market.qrels["query_id"] == 0) & (market.qrels["grade"] == 3))
    >>> best.join(market.products, on="product_id").columns[:4]
    ['query_id', 'product_id', 'grade', 'title']

How it is made, each stage from its own named random stream, so that a new stage changes none of the others:
``declarations`` reads the YAML; ``products`` (with ``listing`` for the sellers' prose) fills the shelves;
``queries`` drafts what shoppers type; ``relevance`` grades; ``sessions`` simulates the log; ``market`` holds
and keeps the tables.
"""

from labkit.shop.making import SIZES, Size
from labkit.shop.market import Market, generate, load, version

__all__ = ["SIZES", "Market", "Size", "generate", "load", "version"]
