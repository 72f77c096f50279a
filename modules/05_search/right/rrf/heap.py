"""Keeps the best with a heap instead of sorting everything; accepts any sequence type."""

import heapq


def rrf(rankings, k=60, depth=10):
    scores = {}
    for ranking in rankings:
        for place, product in enumerate(ranking):
            scores[product] = scores.get(product, 0.0) + 1.0 / (k + place + 1)
    return [(p, s) for p, s in heapq.nsmallest(depth, scores.items(), key=lambda pair: (-pair[1], pair[0]))]
