"""hint: future
en: Counts the whole log, clicks after the request included.
zh: 统计了整份日志，把请求之后的点击也算了进去。
"""


def click_feature(log, requests, examine, prior=0.1, strength=20.0):
    values = []
    for query, product, time in requests.select("query_id", "product_id", "time").iter_rows():
        past = log.filter((pl.col("query_id") == query) & (pl.col("product_id") == product))
        clicks = past["clicked"].sum()
        looks = sum(examine[position - 1] for position in past["position"])
        values.append((strength * prior + clicks) / (strength + looks))
    return np.array(values)
