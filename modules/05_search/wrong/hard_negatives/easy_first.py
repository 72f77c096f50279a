"""hint: easy
en: Sorts upwards and returns the lowest scores: negatives that teach nothing.
zh: 升序排列，取了得分最低的商品：这种负样本教不了模型什么。
"""


def hard_negatives(scores, positive, known, count=4, share=0.95):
    chosen = []
    for row, own, right in zip(scores, positive, known, strict=True):
        row = np.asarray(row)
        order = np.argsort(row, kind="stable")
        chosen.append([int(p) for p in order if row[p] <= share * row[own] and int(p) not in right][:count])
    return chosen
