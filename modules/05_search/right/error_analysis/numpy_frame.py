"""Vector discounts and a polars frame that is grouped at the end."""


def compare_by_kind(keyword, semantic, grades, kinds, k=10, margin=0.05):
    discount = 1 / np.log2(np.arange(2, k + 2))

    def ndcg(ranking, judged):
        gains = np.array([judged.get(p, 0) for p in list(ranking)[:k]], dtype=float)
        best = np.sort(np.array(list(judged.values()), dtype=float))[::-1][:k]
        ideal = best @ discount[: len(best)]
        return float(gains @ discount[: len(gains)] / ideal) if ideal > 0 else 0.0

    rows = [
        (q, kind, ndcg(semantic.get(q, ()), grades.get(q, {})) - ndcg(keyword.get(q, ()), grades.get(q, {})))
        for q, kind in kinds.items()
    ]
    frame = pl.DataFrame(rows, schema=["query", "kind", "gap"], orient="row").sort("query")
    report = {}
    for (kind,), part in frame.group_by("kind"):
        gap = pl.col("gap")
        report[kind] = {
            "keyword": part.filter(gap < -margin)["query"].to_list(),
            "semantic": part.filter(gap > margin)["query"].to_list(),
            "tie": part.filter(gap.abs() <= margin)["query"].to_list(),
            "gap": part["gap"].mean(),
        }
    return report
