"""hint: repeated_word
en: Goes through the set of the query's words, so that a word typed twice counts once.
zh: 对查询词先去重再求和，同一个词输入两遍只算一遍。
"""


def bm25_scores(query, documents, k1=1.2, b=0.75):
    counts = [Counter(document) for document in documents]
    lengths = np.array([len(document) for document in documents], dtype=float)
    average = lengths.mean()
    scores = np.zeros(len(documents))
    for word in set(query):
        frequency = np.array([count[word] for count in counts], dtype=float)
        containing = np.count_nonzero(frequency)
        idf = np.log(1 + (len(documents) - containing + 0.5) / (containing + 0.5))
        scores += idf * frequency / (frequency + k1 * (1 - b + b * lengths / average))
    return scores
