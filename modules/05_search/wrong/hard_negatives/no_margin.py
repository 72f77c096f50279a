"""hint: false_negative
en: Takes the very top of the list, which is full of right products without a click.
zh: 直接取得分最高的几个，而榜首附近多是还没人点过的相关商品。
"""


def hard_negatives(scores, positive, known, count=4, share=0.95):
    chosen = []
    for row, own, right in zip(scores, positive, known, strict=True):
        row = np.asarray(row)
        order = np.argsort(-row, kind="stable")
        chosen.append([int(p) for p in order if int(p) not in right][:count])
    return chosen
