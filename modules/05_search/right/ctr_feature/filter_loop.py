"""The definition read aloud: one filter of the log per request."""


def click_feature(log, requests, examine, prior=0.1, strength=20.0):
    values = []
    for query, product, time in requests.select("query_id", "product_id", "time").iter_rows():
        past = log.filter(
            (pl.col("query_id") == query) & (pl.col("product_id") == product) & (pl.col("time") < time)
        )
        looks = sum(examine[position - 1] for position in past["position"])
        values.append((strength * prior + past["clicked"].sum()) / (strength + looks))
    return np.array(values)
