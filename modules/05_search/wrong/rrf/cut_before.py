"""hint: cut_early
en: Cuts every list to depth before fusing, and loses what both lists rank a little lower.
zh: 先把每个列表截到 depth 再融合，两路都排得稍靠后的商品就丢了。
"""


def rrf(rankings, k=60, depth=10):
    scores = defaultdict(float)
    for ranking in rankings:
        for rank, product in enumerate(ranking[:depth], start=1):
            scores[product] += 1 / (k + rank)
    fused = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return fused[:depth]
