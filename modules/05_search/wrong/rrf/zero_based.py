"""hint: zero_based
en: Counts ranks from 0.
zh: 名次从 0 数起。
"""


def rrf(rankings, k=60, depth=10):
    scores = defaultdict(float)
    for ranking in rankings:
        for rank, product in enumerate(ranking):
            scores[product] += 1 / (k + rank)
    fused = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return fused[:depth]
