"""hint: formula
en: Takes the logarithm to base 10 instead of the natural one.
zh: 用了以 10 为底的对数，而不是自然对数。
"""


def bm25_scores(query, documents, k1=1.2, b=0.75):
    counts = [Counter(document) for document in documents]
    lengths = np.array([len(document) for document in documents], dtype=float)
    average = lengths.mean()
    scores = np.zeros(len(documents))
    for word in query:
        frequency = np.array([count[word] for count in counts], dtype=float)
        containing = np.count_nonzero(frequency)
        idf = np.log10(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
        scores += idf * frequency / (frequency + k1 * (1 - b + b * lengths / average))
    return scores
