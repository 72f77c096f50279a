"""A generator of allowed products and a heap that keeps the hardest."""

import heapq


def hard_negatives(scores, positive, known, count=4, share=0.95):
    def allowed(i):
        limit = share * scores[i][positive[i]]
        for product, score in enumerate(scores[i]):
            if product not in known[i] and score <= limit:
                yield -float(score), product

    return [[product for _, product in heapq.nsmallest(count, allowed(i))] for i in range(len(known))]
