"""hint: same_time
en: Uses <= and so counts the very impression whose click is to be predicted.
zh: 用了 <=，把要预测的那次曝光自己也算了进去。
"""


def click_feature(log, requests, examine, prior=0.1, strength=20.0):
    values = []
    for query, product, time in requests.select("query_id", "product_id", "time").iter_rows():
        past = log.filter(
            (pl.col("query_id") == query) & (pl.col("product_id") == product) & (pl.col("time") <= time)
        )
        clicks = past["clicked"].sum()
        looks = sum(examine[position - 1] for position in past["position"])
        values.append((strength * prior + clicks) / (strength + looks))
    return np.array(values)
