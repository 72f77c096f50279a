"""hint: position_bias
en: Counts impressions as if every position were looked at.
zh: 直接数曝光次数，仿佛每个位置都会被看到，没有纠正位置偏差。
"""


def click_feature(log, requests, examine, prior=0.1, strength=20.0):
    values = []
    for query, product, time in requests.select("query_id", "product_id", "time").iter_rows():
        past = log.filter(
            (pl.col("query_id") == query) & (pl.col("product_id") == product) & (pl.col("time") < time)
        )
        clicks = past["clicked"].sum()
        looks = len(past)
        values.append((strength * prior + clicks) / (strength + looks))
    return np.array(values)
