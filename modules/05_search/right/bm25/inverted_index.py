"""Builds postings first and then touches only the documents that contain a word of the query."""


def bm25_scores(query, documents, k1=1.2, b=0.75):
    postings = defaultdict(dict)  # word -> {document: frequency}
    for number, document in enumerate(documents):
        for word in document:
            postings[word][number] = postings[word].get(number, 0) + 1
    lengths = [len(document) for document in documents]
    average = np.mean(lengths)
    scores = np.zeros(len(documents))
    for word in query:
        found = postings.get(word, {})
        idf = np.log1p((len(documents) - len(found) + 0.5) / (len(found) + 0.5))
        for number, f in found.items():
            scores[number] += idf * f / (f + k1 * (1 - b + b * lengths[number] / average))
    return scores
