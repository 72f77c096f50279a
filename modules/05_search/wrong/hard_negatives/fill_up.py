"""hint: fill_up
en: Fills up to count with products above the limit.
zh: 凑不够 count 个时，拿超过上限的商品来补齐。
"""


def hard_negatives(scores, positive, known, count=4, share=0.95):
    chosen = []
    for row, own, right in zip(scores, positive, known, strict=True):
        row = np.asarray(row)
        order = [int(p) for p in np.argsort(-row, kind="stable") if int(p) not in right]
        usable = [p for p in order if row[p] <= share * row[own]]
        rest = [p for p in order if p not in usable]
        chosen.append((usable + rest)[:count])
    return chosen
