"""hint: known
en: Leaves out only the pair's own positive; its other right products become negatives.
zh: 只排除了本对的正样本，同一查询的其他正样本被当成了负样本。
"""


def hard_negatives(scores, positive, known, count=4, share=0.95):
    chosen = []
    for row, own, right in zip(scores, positive, known, strict=True):
        row = np.asarray(row)
        order = np.argsort(-row, kind="stable")
        chosen.append([int(p) for p in order if row[p] <= share * row[own] and int(p) != int(own)][:count])
    return chosen
