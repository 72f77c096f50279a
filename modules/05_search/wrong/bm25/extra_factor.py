"""hint: formula
en: Keeps the factor (k1 + 1) of the original paper, which Lucene's variant does not have.
zh: 保留了原论文分子里的 (k1 + 1)，Lucene 的写法没有这一项。
"""


def bm25_scores(query, documents, k1=1.2, b=0.75):
    counts = [Counter(document) for document in documents]
    lengths = np.array([len(document) for document in documents], dtype=float)
    average = lengths.mean()
    scores = np.zeros(len(documents))
    for word in query:
        frequency = np.array([count[word] for count in counts], dtype=float)
        containing = np.count_nonzero(frequency)
        idf = np.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
        scores += idf * frequency * (k1 + 1) / (frequency + k1 * (1 - b + b * lengths / average))
    return scores
