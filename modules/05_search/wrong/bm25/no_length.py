"""hint: length
en: Leaves the document's length out, as with b = 0.
zh: 没有做长度归一，相当于 b = 0。
"""


def bm25_scores(query, documents, k1=1.2, b=0.75):
    counts = [Counter(document) for document in documents]
    scores = np.zeros(len(documents))
    for word in query:
        frequency = np.array([count[word] for count in counts], dtype=float)
        containing = np.count_nonzero(frequency)
        idf = np.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
        scores += idf * frequency / (frequency + k1)
    return scores
