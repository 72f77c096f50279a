"""Lets labkit.evaluate compute nDCG and only does the bookkeeping."""


def compare_by_kind(keyword, semantic, grades, kinds, k=10, margin=0.05):
    from labkit.evaluate import evaluate, nDCG

    def scored(run):
        return {q: {p: -float(rank) for rank, p in enumerate(run.get(q, []))} for q in kinds}

    judged = {q: grades.get(q, {}) for q in kinds}
    measure = nDCG @ k
    gaps = (
        evaluate([measure], judged, scored(semantic))[measure]
        - evaluate([measure], judged, scored(keyword))[measure]
    )
    report = {}
    for kind in sorted(set(kinds.values())):
        mine = [(q, gap) for q, gap in zip(sorted(judged), gaps, strict=True) if kinds[q] == kind]
        report[kind] = {
            "keyword": [q for q, gap in mine if gap < -margin],
            "semantic": [q for q, gap in mine if gap > margin],
            "tie": [q for q, gap in mine if -margin <= gap <= margin],
            "gap": sum(gap for _, gap in mine) / len(mine),
        }
    return report
