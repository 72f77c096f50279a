"""hint: negative_idf
en: Uses the older idf, which turns negative for a word in more than half of the documents.
zh: 用了早期的 idf 公式，词出现在过半文档里时权重会变成负数。
"""


def bm25_scores(query, documents, k1=1.2, b=0.75):
    counts = [Counter(document) for document in documents]
    lengths = np.array([len(document) for document in documents], dtype=float)
    average = lengths.mean()
    scores = np.zeros(len(documents))
    for word in query:
        frequency = np.array([count[word] for count in counts], dtype=float)
        containing = np.count_nonzero(frequency)
        idf = np.log((len(documents) - containing + 0.5) / (containing + 0.5))
        scores += idf * frequency / (frequency + k1 * (1 - b + b * lengths / average))
    return scores
