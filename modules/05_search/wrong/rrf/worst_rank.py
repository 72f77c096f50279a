"""hint: absent
en: Treats a missing product as if it stood right behind the last one of that list.
zh: 把某一路没召回的商品，当成排在该列表最后一名之后来给分。
"""


def rrf(rankings, k=60, depth=10):
    scores = defaultdict(float)
    everything = {product for ranking in rankings for product in ranking}
    for ranking in rankings:
        for product in everything:
            rank = ranking.index(product) + 1 if product in ranking else len(ranking) + 1
            scores[product] += 1 / (k + rank)
    fused = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return fused[:depth]
