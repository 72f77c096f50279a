"""Builds one rank table per list and sums over the union of ids."""


def rrf(rankings, k=60, depth=10):
    tables = [{product: rank for rank, product in enumerate(ranking, 1)} for ranking in rankings]
    everything = sorted(set().union(*tables))
    scored = [(p, sum(1 / (k + table[p]) for table in tables if p in table)) for p in everything]
    scored.sort(key=lambda pair: -pair[1])  # stable: smaller ids stay first
    return scored[:depth]
