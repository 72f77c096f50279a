"""hint: off_by_one
en: Reads the probability of the next position, since positions start at 1.
zh: 位置从 1 开始，却直接拿来当下标，读到的是下一位的概率。
"""


def click_feature(log, requests, examine, prior=0.1, strength=20.0):
    values = []
    for query, product, time in requests.select("query_id", "product_id", "time").iter_rows():
        past = log.filter(
            (pl.col("query_id") == query) & (pl.col("product_id") == product) & (pl.col("time") < time)
        )
        clicks = past["clicked"].sum()
        looks = sum(examine[min(position, 9)] for position in past["position"])
        values.append((strength * prior + clicks) / (strength + looks))
    return np.array(values)
