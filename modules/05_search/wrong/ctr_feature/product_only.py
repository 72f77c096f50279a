"""hint: other_query
en: Pools the clicks of a product over all queries.
zh: 把商品在所有查询下的点击混在一起算，没有区分查询。
"""


def click_feature(log, requests, examine, prior=0.1, strength=20.0):
    values = []
    for query, product, time in requests.select("query_id", "product_id", "time").iter_rows():
        past = log.filter((pl.col("product_id") == product) & (pl.col("time") < time))
        clicks = past["clicked"].sum()
        looks = sum(examine[position - 1] for position in past["position"])
        values.append((strength * prior + clicks) / (strength + looks))
    return np.array(values)
