"""hint: no_prior
en: Divides clicks by looks without a prior: one lucky click is a rate of 100 %.
zh: 点击直接除以曝光、没有先验：碰巧点了一次就成了 100 %。
"""


def click_feature(log, requests, examine, prior=0.1, strength=20.0):
    values = []
    for query, product, time in requests.select("query_id", "product_id", "time").iter_rows():
        past = log.filter(
            (pl.col("query_id") == query) & (pl.col("product_id") == product) & (pl.col("time") < time)
        )
        clicks = past["clicked"].sum()
        looks = sum(examine[position - 1] for position in past["position"])
        values.append(clicks / looks if looks else 0.0)
    return np.array(values)
