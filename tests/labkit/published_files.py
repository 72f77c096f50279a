"""Small files in the formats in which data sets are published: ids out of order, quotes, missing values."""

import gzip
import io
import json

import polars as pl


def parquet(frame):
    out = io.BytesIO()
    frame.write_parquet(out)
    return out.getvalue()


def lines(*objects):
    return gzip.compress("".join(json.dumps(each) + "\n" for each in objects).encode(), mtime=0)


def tabs(text):
    """A table written with bars, separated by tabs."""
    return text.replace(" | ", "\t").encode()


ESCI_EXAMPLES = pl.DataFrame(
    {
        "example_id": [0, 1, 2, 3, 4],
        "query": ["usb c cable", "usb c cable", "usb c cable", "mesa", "red shoes"],
        "query_id": [7, 7, 7, 8, 9],
        "product_id": ["B2", "B1", "B3", "E1", "B1"],
        "product_locale": ["us", "us", "us", "es", "us"],
        "esci_label": ["E", "S", "I", "E", "C"],
        "small_version": [1, 1, 1, 1, 0],
        "large_version": [1, 1, 1, 1, 1],
        "split": ["train", "train", "train", "test", "test"],
    }
)
ESCI_PRODUCTS = pl.DataFrame(
    {
        "product_id": ["B1", "B2", "B3", "B4", "E1"],
        "product_title": ["Cable 1 m", "Cable, 2 m", "Hub", "Never judged", "Mesa"],
        "product_description": ["long", None, None, None, None],
        "product_bullet_point": ["a\nb", None, None, None, None],
        "product_brand": ["Anker", None, "Ugreen", None, None],
        "product_color": [None, "Black", None, None, None],
        "product_locale": ["us", "us", "us", "us", "es"],
    }
)
ESCI = {
    "shopping_queries_dataset_examples.parquet": parquet(ESCI_EXAMPLES),
    "shopping_queries_dataset_products.parquet": parquet(ESCI_PRODUCTS),
}

WANDS = {
    "product.csv": tabs(
        "product_id | product_name | product_class | category hierarchy | product_description | "
        "product_features | rating_count | average_rating | review_count\n"
        '1 | "a 20 "" bed" | Beds | Furniture / Beds | "soft ,\nand wide" | colour:red|w:2 | 15 | 4.5 | 9\n'
        "0 | a slow cooker |  | Kitchen |  |  |  |  | \n"
        "5 | a chair | Chairs|Stools | Furniture | old | x:1 | 1.0 | 5.0 | 1.0\n"
    ),
    "query.csv": tabs("query_id | query | query_class\n3 | wide bed | Beds\n1 | cooker | \n"),
    "label.csv": tabs(
        "id | query_id | product_id | label\n0 | 3 | 1 | Exact\n1 | 3 | 5 | Irrelevant\n2 | 1 | 0 | Partial\n"
    ),
}

RETAILROCKET = {
    "events.csv": b"timestamp,visitorid,event,itemid,transactionid\n"
    b"1433221332117,257597,view,355908,\n"
    b"1433221332000,257597,transaction,9,4\n"
    b"1433221999827,12,addtocart,9,\n",
    "item_properties_part1.csv": b"timestamp,itemid,property,value\n"
    b"1435460400000,9,categoryid,1338\n"
    b"1435460400000,9,790,n4560.000 x\n",
    "item_properties_part2.csv": b"timestamp,itemid,property,value\n"
    b"1439089200000,9,categoryid,20\n"
    b"1431831600000,44,categoryid,1338\n",
    "category_tree.csv": b"categoryid,parentid\n20,1338\n1338,\n",
}

ML_1M = {
    "ratings.dat": b"2::1193::5::978300760\n1::661::3::978302109\n1::1193::4::978300000\n",
    "users.dat": b"1::F::1::10::48067\n2::M::56::16::70072\n",
    "movies.dat": "661::James and the Giant Peach (1996)::Animation|Children's\n"
    "1193::Cit\xe9 des enfants, La\x85 (1995)::Drama\n".encode("latin-1"),
}
ML_CSV = {
    "ratings.csv": b"userId,movieId,rating,timestamp\n"
    b"1,296,5.0,1147880044\n10,7,0.5,1147868817\n2,296,3.5,1\n",
    "movies.csv": 'movieId,title,genres\n7,"Sabrina, La\xe9 (1995)",Comedy|Romance\n'
    "296,Pulp (1994),(no genres listed)\n".encode(),
}

HM = {
    "articles.csv": b"article_id,product_code,prod_name,product_type_no,product_type_name,product_group_name,"
    b"graphical_appearance_no,graphical_appearance_name,colour_group_code,colour_group_name,"
    b"perceived_colour_value_id,perceived_colour_value_name,perceived_colour_master_id,"
    b"perceived_colour_master_name,department_no,department_name,index_code,index_name,index_group_no,"
    b"index_group_name,section_no,section_name,garment_group_no,garment_group_name,detail_desc\n"
    b"0108775015,0108775,Strap top,253,Vest top,Garment Upper body,1010016,Solid,09,Black,4,Dark,5,Black,"
    b"1676,Jersey Basic,A,Ladieswear,1,Ladieswear,16,Womens Everyday Basics,1002,Jersey Basic,"
    b'"Jersey top, narrow straps."\n',
    "customers.csv": b"customer_id,FN,Active,club_member_status,fashion_news_frequency,age,postal_code\n"
    b"00006413d8,,,ACTIVE,NONE,49,52043ee216\n"
    b"00000dbacae5,1.0,1.0,,Regularly,,2973abc54d\n",
    "transactions_train.csv": b"t_dat,customer_id,article_id,price,sales_channel_id\n"
    b"2018-09-20,00006413d8,0108775015,0.0508305084745762,2\n"
    b"2018-09-21,00000dbacae5,0108775015,0.0304915254237288,1\n",
}


def review(**changes):
    return {
        "rating": 5.0,
        "title": "Such a lovely scent",
        "text": "It isn't strong",
        "images": [],
        "asin": "B00YQ6X8EO",
        "parent_asin": "B00YQ6X8EO",
        "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ",
        "timestamp": 1588687728923,
        "helpful_vote": 0,
        "verified_purchase": True,
        **changes,
    }


def meta(**changes):
    return {
        "main_category": "All Beauty",
        "title": "Howard Leather Conditioner",
        "average_rating": 4.8,
        "rating_number": 10,
        "features": [],
        "description": ["One", "Two"],
        "price": 19.99,
        "images": [{"thumb": "https://x", "variant": "MAIN"}],
        "videos": [],
        "store": "Howard Products",
        "categories": ["A", "B"],
        "details": {"Package Dimensions": "7.1 x 5.5"},
        "parent_asin": "B00YQ6X8EO",
        "bought_together": None,
        **changes,
    }


OTHER = review(parent_asin="B0OTHER", asin="B0VARIANT", user_id="A1", timestamp=946684800000, rating=1.0)
AMAZON = {
    "All_Beauty.jsonl.gz": lines(review(), OTHER),
    "meta_All_Beauty.jsonl.gz": lines(
        meta(), meta(parent_asin="B0NEVER", price=None), meta(parent_asin="B0DASH", price="from 14.99")
    ),
}

BANKING = {
    "train.csv": b'text,category\n"Is it here, or not?",card_arrival\nWhy,lost\n',
    "test.csv": b"text,category\nWhere is it,card_arrival\n",
}

HILLSTROM = {
    "customers.csv": b"recency,history_segment,history,mens,womens,zip_code,newbie,channel,segment,visit,"
    b"conversion,spend\n10,2) $100 - $200,142.44,1,0,Surburban,0,Phone,Womens E-Mail,0,0,0\n"
    b"6,3) $200 - $350,329.08,1,1,Rural,1,Web,No E-Mail,1,1,12.5\n"
}

AFFINITIES = ",".join(f"user-item_affinity_{i}" for i in range(2))
LOGGED = (
    f",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,"
    f"user_feature_3,{AFFINITIES}\n"
    "0,2019-11-24 00:01:03.979311+00:00,1,2,0,0.5,cef3,2d03,c2e4,c39b,0.0,1.5\n"
    "1,2019-11-24 00:01:45.406608+00:00,0,1,1,0.25,cef3,f1c2,7bc9,9bde,0.0,0.0\n"
).encode()
ITEMS = (
    b",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3\n0,0,-0.67,ceca,eb6f,7950\n"
    b"1,1,0.75,270d,eb6f,7950\n"
)
BANDIT = {
    **{f"{policy}_{part}.csv": LOGGED for policy in ("random", "bts") for part in ("men", "women")},
    **{f"item_context_{part}.csv": ITEMS for part in ("men", "women")},
}

ZH = {
    "online_shopping_10_cats.csv": (
        'cat,label,review\n书籍,1,\ufeff很好\n平板,0,"差，\n很差"\n水果,1,\n'.encode()
    ),
    "waimai_10k.csv": "label,review\n1,很快\n0,太慢\n".encode(),
    "hotel_7766.csv": "label,review\n1,安静\n".encode(),
}

OFFER = "COL name VAL {} COL description VAL  COL price VAL {}"
# U+2028 ends a line for Python, not in this file.
PAIRS = (f"{OFFER}\t{OFFER}\t1\n" * 2).format(
    "lg 24 inch", "", "lg dishwasher", "399.0", "a", "1.5", "b\u2028c", ""
)
PAIRS = (PAIRS.removesuffix("1\n") + "0\n").encode()
MATCHING = {
    f"{shops}_{split}.txt": PAIRS
    for shops in ("abt_buy", "amazon_google", "walmart_amazon")
    for split in ("train", "valid", "test")
}


def place(shelf, name, files):
    """Put files where the set of that name is looked for."""
    folder = shelf / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, body in files.items():
        (folder / file).write_bytes(body)
    (folder / "checksums.json").unlink(missing_ok=True)
    return folder
