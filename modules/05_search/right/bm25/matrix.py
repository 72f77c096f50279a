"""One matrix of frequencies, documents by distinct words, and one product with the words' counts in the query."""


def bm25_scores(query, documents, k1=1.2, b=0.75):
    words = sorted(set(query))
    f = np.array([[document.count(word) for word in words] for document in documents], dtype=float)  # (N, T)
    n = (f > 0).sum(axis=0)  # (T,)
    idf = np.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
    lengths = np.array([len(document) for document in documents], dtype=float)[:, None]  # (N, 1)
    saturated = f / (f + k1 * (1 - b + b * lengths / lengths.mean()))
    return saturated @ (idf * [query.count(word) for word in words])
