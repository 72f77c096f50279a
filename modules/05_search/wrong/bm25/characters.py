"""hint: length
en: Measures length in characters, so that long words are punished.
zh: 按字符数而不是词数计算长度，用词较长的文档白白吃亏。
"""


def bm25_scores(query, documents, k1=1.2, b=0.75):
    counts = [Counter(document) for document in documents]
    lengths = np.array([len(document) for document in documents], dtype=float)
    average = lengths.mean()
    scores = np.zeros(len(documents))
    for word in query:
        frequency = np.array([count[word] for count in counts], dtype=float)
        containing = np.count_nonzero(frequency)
        lengths = np.array([len(" ".join(document)) for document in documents], dtype=float)
        average = lengths.mean()
        idf = np.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
        scores += idf * frequency / (frequency + k1 * (1 - b + b * lengths / average))
    return scores
