"""hint: gap
en: Reports keyword minus semantic, so that the sign misleads.
zh: 报的是“关键词 − 语义”，正负号正好反了。
"""


def compare_by_kind(keyword, semantic, grades, kinds, k=10, margin=0.05):
    def dcg(gains):
        return sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains[:k], start=1))

    def ndcg(ranking, judged):
        gains = [judged.get(product, 0) for product in ranking]
        ideal = dcg(sorted(judged.values(), reverse=True))
        return dcg(gains) / ideal if ideal else 0.0

    report = {}
    for query in sorted(kinds):
        judged = grades.get(query, {})
        gap = ndcg(semantic.get(query, []), judged) - ndcg(keyword.get(query, []), judged)
        entry = report.setdefault(kinds[query], {"keyword": [], "semantic": [], "tie": [], "gap": []})
        entry["tie" if abs(gap) <= margin else "semantic" if gap > 0 else "keyword"].append(query)
        entry["gap"].append(gap)
    for entry in report.values():
        entry["gap"] = -float(np.mean(entry["gap"]))
    return report
