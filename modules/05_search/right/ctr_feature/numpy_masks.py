"""Arrays and boolean masks, one request at a time, times as integers."""


def click_feature(log, requests, examine, prior=0.1, strength=20.0):
    query, product = log["query_id"].to_numpy(), log["product_id"].to_numpy()
    time = log["time"].dt.epoch("us").to_numpy()
    clicked = log["clicked"].to_numpy().astype(float)
    look = np.asarray(examine)[log["position"].to_numpy().astype(int) - 1]
    out = np.empty(len(requests))
    asked = zip(requests["query_id"], requests["product_id"], requests["time"].dt.epoch("us"), strict=True)
    for i, (q, p, t) in enumerate(asked):
        past = (query == q) & (product == p) & (time < t)
        out[i] = (strength * prior + clicked[past].sum()) / (strength + look[past].sum())
    return out
