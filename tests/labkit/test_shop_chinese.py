"""The Chinese side of the shop says what the English declarations mean, and nothing else."""

import re
import shutil

import pytest
import yaml

from labkit.shop import chinese as chinese_module
from labkit.shop.chance import Dice
from labkit.shop.chinese import CHINESE_FOLDER, chinese, chinese_department_of
from labkit.shop.declarations import departments
from labkit.shop.listing import STYLES, Listing
from labkit.shop.listing_zh import write_listing_zh
from labkit.shop.products import make_products
from labkit.shop.queries import Query, make_queries
from labkit.shop.queries_zh import chinese_query
from labkit.shop.relevance import Constraint, Intent
from labkit.shop.typos_zh import misspelt_zh

MOJIBAKE = re.compile(r"[\u0080-\u00b6\u00b8-\u00ff\ufffd]")


@pytest.fixture(scope="module")
def world():
    chosen = list(departments().values())
    products = make_products(chosen, 1300, seed=5)
    return chosen, products, make_queries(chosen, products, 600, seed=5)


def _listings(world):
    """(product, style, title, description) of every product, the styles in turn."""
    chosen, products, _ = world
    by_name = {d.name: d for d in chosen}
    dice = Dice(5, "listings-zh", "test")
    for place, p in enumerate(products):
        d, style = by_name[p.department], list(STYLES)[place % len(STYLES)]
        listing = Listing(d, d.categories[p.category], p.brand, p.line, p.model, p.attributes, style)
        yield p, style, *write_listing_zh(listing, dice)


def test_everything_the_english_files_declare_has_its_chinese_words():
    for name, english in departments().items():
        companion = chinese()[name]
        assert {b: set(x.lines) for b, x in english.brands.items()} == {
            b: set(x.lines) for b, x in companion.brands.items()
        }
        assert set(english.categories) == set(companion.categories)
        assert [say for need in english.needs for say in need.says] == list(companion.sayings)
        for category in english.categories.values():
            assert companion.categories[category.name].nouns.usual
            for attribute in category.attributes.values():
                assert companion.labels[attribute.name]
                for value, words in attribute.values.items():
                    said = companion.attributes[attribute.name][value]
                    assert said.listed
                    assert bool(said.asked) == bool(words.asked)


def test_both_languages_have_the_vocabulary_gap():
    """Values that both sides name alike in English are so in Chinese; shoppers' own words exist in both."""
    asked = own = 0
    for english in departments().values():
        companion = chinese()[english.name]
        for category in english.categories.values():
            assert companion.categories[category.name].nouns.private, category.name
            for attribute in category.attributes.values():
                for value, words in attribute.values.items():
                    said = companion.attributes[attribute.name][value]
                    assert said.shared or not words.shared, (category.name, attribute.name, value)
                    asked += bool(said.asked)
                    own += bool(said.private)
    assert 0.6 * asked < own < asked


def test_a_shoppers_word_names_one_value_only():
    for companion in chinese().values():
        for name, values in companion.attributes.items():
            said = [word for words in values.values() for word in words.asked]
            assert len(said) == len(set(said)), (companion.name, name)


def test_titles_name_brand_and_noun_in_chinese(world):
    shares = []
    for p, _, title, description in _listings(world):
        companion = chinese()[p.department]
        assert companion.brands[p.brand].name in title
        assert any(noun in title for noun in companion.categories[p.category].nouns.listed), title
        letters = re.sub(r"\s|[\w.-]*?\d[A-Za-z0-9.-]*", "", title, flags=re.ASCII)  # no model, no size
        shares.append(sum("\u4e00" <= c <= "\u9fff" for c in letters) / len(letters))
        for text in (title, description):
            assert text == " ".join(text.split())
            assert "{" not in text
            assert not MOJIBAKE.search(text), text
    assert sum(shares) / len(shares) > 0.9
    assert sum(share <= 0.5 for share in shares) <= 0.01 * len(shares)  # MFi认证Lightning数据线


def test_descriptions_never_claim_a_value_that_the_product_has_not(world):
    """Every fact of a terse data sheet is a seller's word for the product's own value."""
    facts = 0
    for p, style, _, description in _listings(world):
        if style != "terse":
            continue
        companion = chinese()[p.department]
        labels = {companion.labels[name]: name for name in p.attributes}
        if len(labels) < len(p.attributes):
            continue  # two attributes that data sheets call alike
        for label, phrase in re.findall(r"([^；。：]+)：([^；。]+)", description):
            name = labels[label]
            assert phrase in companion.attributes[name][p.attributes[name]].listed
            facts += 1
    assert facts > 300


def test_listings_are_the_same_again_and_styles_differ(world):
    once, again = list(_listings(world)), list(_listings(world))
    assert [x[2:] for x in once] == [x[2:] for x in again]
    lengths = {style: [len(t) for _, s, t, _ in once if s == style] for style in STYLES}
    assert sum(lengths["stuffed"]) / len(lengths["stuffed"]) > sum(lengths["terse"]) / len(lengths["terse"])


def _pieces(intent):
    """What a query with this intent may say, and for each constraint the words of which one is needed."""
    wanted = [name for name, grade in intent.categories.items() if grade == 3]
    department = chinese_department_of()[wanted[0]]
    needed = [
        [
            word
            for value, cost in c.accept.items()
            if cost == 0
            for word in department.attributes[name][value].asked
        ]
        for name, c in intent.must.items()
    ]
    if len(wanted) == 1:
        needed.append(list(department.categories[wanted[0]].nouns.asked))
    if intent.brand:
        needed.append([department.brands[intent.brand].name])
    if intent.line and not intent.model:
        needed.append([department.brands[intent.brand].lines[intent.line]])
    if intent.model:
        needed = [[intent.model, intent.model.lower()], *needed[-1:]]
    may = [word for words in needed for word in words]
    if intent.model:
        may += [
            department.brands[intent.brand].lines[intent.line],
            *department.categories[wanted[0]].nouns.asked,
        ]
    return needed, may


def test_a_query_says_all_of_its_intent_and_nothing_else(world):
    kinds = set()
    for index, query in enumerate(world[2]):
        if query.kind in ("vague", "typo"):
            continue
        text = chinese_query(query, 5, index)
        needed, may = _pieces(query.intent)
        for words in needed:
            assert any(word in text for word in words), (query, text)
        if query.intent.price_max is not None:
            assert f"{query.intent.price_max:g}" in text
        said = "|".join(sorted(map(re.escape, may), key=len, reverse=True))
        cap = r"\s(?:不超过)?\d+(?:英?镑)?(?:以内|以下)?"
        extra = "推荐|哪款好|买|促销|好用的|新款|牌|系列|或" if query.kind != "attribute" else "或"
        assert re.fullmatch(rf"(?:{said}|{extra}|\s)+?(?:{cap})?", text), (query, text, may)
        kinds.add(query.kind)
    assert kinds == {"plain", "synonym", "attribute", "brand", "long_tail"}


def test_vague_queries_say_the_need_and_never_the_product(world):
    vague = [(i, q) for i, q in enumerate(world[2]) if q.kind == "vague"]
    said = {q.text: chinese_query(q, 5, i) for i, q in vague}
    assert len(set(said.values())) == len(said) > 20
    named = [
        text
        for i, q in vague
        for text in [said[q.text]]
        for name, grade in q.intent.categories.items()
        if grade == 3
        and any(n in text for n in chinese_department_of()[name].categories[name].nouns.asked[:2])
    ]
    assert len(named) <= 0.05 * len(vague), named


def test_queries_depend_on_seed_and_index_only(world):
    queries = world[2]
    forward = [chinese_query(q, 5, i) for i, q in enumerate(queries)]
    backward = [chinese_query(queries[i], 5, i) for i in reversed(range(len(queries)))]
    assert forward == backward[::-1]
    other = [chinese_query(q, 6, i) for i, q in enumerate(queries)]
    assert 0.2 < sum(a != b for a, b in zip(forward, other, strict=True)) / len(queries) < 0.95


def test_several_wanted_values_are_joined_by_or():
    intent = Intent({"tents": 3}, {"berths": Constraint({"1 person": 0, "2 person": 0})})
    text = chinese_query(Query("tent", "attribute", intent), 0, 0)
    berths = chinese()["sports and outdoors"].attributes["berths"]
    first, second = re.fullmatch(r".*?(\S+)或(\S+?)(?:帐篷|野营帐篷)?(?: .*)?", text).groups()
    assert any(first.endswith(word) for word in berths["1 person"].asked)
    assert second in berths["2 person"].asked


@pytest.mark.parametrize("text", ["沙发", "床", "宝宝", "灰色 三人位 沙发 300镑以内", "雀野 XT-507 平底锅"])
def test_a_slip_changes_characters_but_no_number(text):
    for turn in range(40):
        slip = misspelt_zh(text, Dice(turn, "slip"))
        assert slip != text
        assert abs(len(slip) - len(text)) <= 2
        assert re.findall(r"[\w-]*\d+", slip.encode("ascii", "ignore").decode()) == re.findall(
            r"[\w-]*\d+", text.encode("ascii", "ignore").decode()
        )
        kept = sum(min(slip.count(c), text.count(c)) for c in set(text))
        assert kept >= len(text) - 2


def test_a_slip_needs_a_chinese_character():
    with pytest.raises(ValueError, match="no Chinese character"):
        misspelt_zh("XT-507", Dice(0, "slip"))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda d: d["categories"].pop("sofas"), "lacks 'sofas'"),
        (lambda d: d["brands"]["Norrvik"]["lines"].pop("Lund"), "lacks 'Lund'"),
        (lambda d: d["attributes"]["wood"].update({"teak": "柚木"}), "has 'teak'"),
        (lambda d: d["attributes"]["wood"].update({"oak": "橡木 | 松木"}), "wood.pine has the word 松木"),
        (lambda d: d["attributes"]["sleeps"].update({"fixed": "固定 | 固定"}), "sleeps.fixed"),
        (lambda d: d["needs"].pop(), "needs"),
        (lambda d: d["voice"]["open"].append("{model}!"), "slot"),
        (lambda d: d["brands"]["Homeroost"].update({"name": "别的"}), "Homeroost"),
    ],
)
def test_a_wrong_companion_is_named(tmp_path, monkeypatch, spoil, says):
    shutil.copytree(CHINESE_FOLDER, tmp_path / "zh")
    path = tmp_path / "zh" / "furniture.yaml"
    words = yaml.safe_load(path.read_text(encoding="utf-8"))
    spoil(words)
    path.write_text(yaml.safe_dump(words, allow_unicode=True, sort_keys=False), encoding="utf-8")
    monkeypatch.setattr(chinese_module, "CHINESE_FOLDER", tmp_path / "zh")
    with pytest.raises(ValueError, match=re.escape(says)):
        chinese.__wrapped__()


def test_a_missing_companion_is_named(tmp_path, monkeypatch):
    shutil.copytree(CHINESE_FOLDER, tmp_path / "zh")
    (tmp_path / "zh" / "pets.yaml").unlink()
    monkeypatch.setattr(chinese_module, "CHINESE_FOLDER", tmp_path / "zh")
    with pytest.raises(ValueError, match=r"pets\.yaml is missing"):
        chinese.__wrapped__()
