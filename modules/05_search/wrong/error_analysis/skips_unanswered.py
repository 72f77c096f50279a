"""hint: missing
en: Compares only queries that both runs answer.
zh: 只比较两路都有结果的查询，没有结果的直接跳过。
"""


def compare_by_kind(keyword, semantic, grades, kinds, k=10, margin=0.05):
    def dcg(gains):
        return sum(gain / np.log2(rank + 1) for rank, gain in enumerate(gains[:k], start=1))

    def ndcg(ranking, judged):
        gains = [judged.get(product, 0) for product in ranking]
        ideal = dcg(sorted(judged.values(), reverse=True))
        return dcg(gains) / ideal if ideal else 0.0

    report = {}
    for query in sorted(q for q in kinds if q in keyword and q in semantic):
        judged = grades.get(query, {})
        gap = ndcg(semantic.get(query, []), judged) - ndcg(keyword.get(query, []), judged)
        entry = report.setdefault(kinds[query], {"keyword": [], "semantic": [], "tie": [], "gap": []})
        entry["tie" if abs(gap) <= margin else "semantic" if gap > 0 else "keyword"].append(query)
        entry["gap"].append(gap)
    for entry in report.values():
        entry["gap"] = float(np.mean(entry["gap"]))
    for kind in kinds.values():
        report.setdefault(kind, {"keyword": [], "semantic": [], "tie": [], "gap": 0.0})
    return report
