"""hint: ties
en: Leaves tied products in the order in which they were met.
zh: 同分商品按先遇到的先排，没有按编号定先后。
"""


def rrf(rankings, k=60, depth=10):
    scores = defaultdict(float)
    for ranking in rankings:
        for rank, product in enumerate(ranking, start=1):
            scores[product] += 1 / (k + rank)
    return sorted(scores.items(), key=lambda pair: -pair[1])[:depth]
