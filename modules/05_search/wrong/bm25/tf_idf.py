"""hint: saturation
en: Multiplies idf by the raw frequency: repeating a word ten times pays ten times.
zh: idf 直接乘原始词频：同一个词写十遍就得十倍的分。
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
        scores += idf * frequency / (1 + k1 * (1 - b + b * lengths / average))
    return scores
