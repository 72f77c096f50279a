"""Sorts each pair's history once, keeps running sums, and finds a request's place by bisection."""

from bisect import bisect_left


def click_feature(log, requests, examine, prior=0.1, strength=20.0):
    history = defaultdict(list)
    for row in log.iter_rows(named=True):
        entry = (row["time"], float(row["clicked"]), examine[row["position"] - 1])
        history[row["query_id"], row["product_id"]].append(entry)
    times, sums = {}, {}
    for pair, entries in history.items():
        entries.sort(key=lambda entry: entry[0])
        times[pair] = [entry[0] for entry in entries]
        sums[pair] = np.vstack([np.zeros(2), np.cumsum([entry[1:] for entry in entries], axis=0)])
    out = []
    for query, product, time in requests.select("query_id", "product_id", "time").iter_rows():
        pair = (query, product)
        clicks, looks = sums[pair][bisect_left(times[pair], time)] if pair in sums else (0.0, 0.0)
        out.append((strength * prior + clicks) / (strength + looks))
    return out
