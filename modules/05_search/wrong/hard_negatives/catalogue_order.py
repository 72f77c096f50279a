"""hint: easy
en: Takes the first allowed products in catalogue order instead of the hardest.
zh: 按商品编号取前几个符合条件的，没有按得分挑最难的。
"""


def hard_negatives(scores, positive, known, count=4, share=0.95):
    chosen = []
    for row, own, right in zip(scores, positive, known, strict=True):
        row = np.asarray(row)
        usable = [p for p in range(len(row)) if row[p] <= share * row[own] and p not in right]
        chosen.append(usable[:count])
    return chosen
