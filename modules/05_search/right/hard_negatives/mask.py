"""Writes minus infinity over what is not allowed, then sorts once."""


def hard_negatives(scores, positive, known, count=4, share=0.95):
    chosen = []
    for i in range(len(known)):
        row = np.array(scores[i], dtype=float)
        limit = share * row[positive[i]]
        row[row > limit] = -np.inf
        row[list(known[i])] = -np.inf
        best = np.argsort(-row, kind="stable")[:count]
        chosen.append(best[np.isfinite(row[best])].tolist())
    return chosen
