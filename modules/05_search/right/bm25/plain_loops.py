"""Plain Python, document by document, word by word: no arrays until the end."""

import math


def bm25_scores(query, documents, k1=1.2, b=0.75):
    average = sum(len(document) for document in documents) / len(documents)
    containing = {word: sum(word in document for document in documents) for word in set(query)}
    scores = []
    for document in documents:
        score = 0.0
        for word in query:
            f = document.count(word)
            idf = math.log(1 + (len(documents) - containing[word] + 0.5) / (containing[word] + 0.5))
            score += idf * f / (f + k1 * (1 - b + b * len(document) / average))
        scores.append(score)
    return scores
