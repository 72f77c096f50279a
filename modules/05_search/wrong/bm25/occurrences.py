"""hint: occurrences
en: Counts how often the word occurs in the whole shop instead of how many documents contain it.
zh: 统计的是词在全站出现的总次数，而不是含有它的文档数。
"""


def bm25_scores(query, documents, k1=1.2, b=0.75):
    counts = [Counter(document) for document in documents]
    lengths = np.array([len(document) for document in documents], dtype=float)
    average = lengths.mean()
    scores = np.zeros(len(documents))
    for word in query:
        frequency = np.array([count[word] for count in counts], dtype=float)
        containing = np.count_nonzero(frequency)
        containing = frequency.sum()
        idf = np.log(1 + max(len(documents) - containing + 0.5, 0) / (containing + 0.5))
        scores += idf * frequency / (frequency + k1 * (1 - b + b * lengths / average))
    return scores
