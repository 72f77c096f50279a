"""hint: sum
en: Keeps the best share instead of adding the shares.
zh: 只取各路中最高的一份，没有把各路得分相加。
"""


def rrf(rankings, k=60, depth=10):
    scores = defaultdict(float)
    for ranking in rankings:
        for rank, product in enumerate(ranking, start=1):
            scores[product] = max(scores[product], 1 / (k + rank))
    fused = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return fused[:depth]
