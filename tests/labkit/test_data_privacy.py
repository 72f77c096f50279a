"""No identifier survives, sealed files open only whole and with their key, forgotten means gone."""

import hashlib
import hmac
import io
import os
import re
import unicodedata
from datetime import UTC, datetime, timedelta, timezone

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.data.consent import ConsentRegister, NotForgotten, forget
from labkit.data.encryption import CHUNK, SealBroken, decrypt_table, encrypt_table, new_key
from labkit.data.identifiers import EMAIL, PHONE, Identifiers
from labkit.data.privacy import (
    Plan,
    anonymise,
    k_anonymity,
    l_diversity,
    postcode_area,
    pseudonym,
    pseudonyms,
    suppress_small,
)

KEY, OTHER = b"0123456789abcdef", b"fedcba9876543210"
FIRST = ["Ada", "Zoë", "Jean-Luc", "Mary Ann", "李", "O'Neil", "İpek", "JOSÉ"]
LAST = ["Byron", "Müller", "Picard", "Smith", "小明", "Straße", "de la Cruz"]
PERSON = st.tuples(
    st.sampled_from(FIRST),
    st.sampled_from(LAST),
    st.integers(0, 999_999_999),
    st.sampled_from(
        ["+44 {0} {1} {2}", "07{0} {1}{2}", "(0{0}) {1}-{2}", "+86{0}{1}{2}", "00 44 {0} {1}.{2}"]
    ),
)
SAYS = st.sampled_from(
    [
        "{name} was here",
        "ask {email} or {phone}",
        "{phone}",
        "thanks,{name}!",
        "({name}/{phone})",
        "我是{name}，很好",
        "{name}推荐",
        "客服{name}说联系{name}或{phone}谢谢",
        "微信{email}谢谢",
        "{NAME}: {email}.",
    ]
)


def person(number, first, last, digits, pattern):
    parts = f"{digits:09d}"
    box = first.lower().replace(" ", ".").encode("ascii", "ignore").decode() or "x"
    return {
        "shopper_id": number,
        "name": f"{first}{last}" if first + last == "李小明" else f"{first} {last}",
        "email": f"{box}+{number}@mail-{number}.co.uk",
        "phone": pattern.format(parts[:3], parts[3:6], parts[6:]),
        "postcode": "SW1A 1AA",
        "birth_year": 1950 + number % 50,
    }


def written(frame):
    """Every byte that is stored, in two formats."""
    out = io.BytesIO()
    frame.write_parquet(out, compression="uncompressed", statistics=True)
    return out.getvalue() + frame.write_json().encode()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PERSON, min_size=1, max_size=5), st.lists(st.tuples(st.integers(0, 4), SAYS), max_size=6))
def test_no_raw_identifier_survives_anywhere(people, says):
    shoppers = pl.DataFrame([person(n, *one) for n, one in enumerate(people)])
    texts = []
    for number, pattern in says:
        one = shoppers.row(number % shoppers.height, named=True)
        texts.append(pattern.format(NAME=one["name"].upper(), **one))
    reviews = pl.DataFrame(
        {"shopper_id": [0] * len(texts), "text": texts}, {"shopper_id": pl.Int64, "text": pl.String}
    )
    plans = {
        "shoppers": Plan(
            drop=("name", "email"),
            pseudonymise=("shopper_id", "phone"),
            bands={"birth_year": 10},
            areas=("postcode",),
        ),
        "reviews": Plan(pseudonymise=("shopper_id",), texts=("text",)),
    }
    clean = anonymise({"shoppers": shoppers, "reviews": reviews}, plans, KEY)
    stored = b"".join(map(written, clean.values()))
    lowered = stored.decode("utf-8", "replace").lower()
    for one in shoppers.iter_rows(named=True):
        for column in ("name", "email", "phone"):
            assert one[column].encode() not in stored
            assert one[column].lower() not in lowered
    assert b"SW1A" not in stored
    assert clean["shoppers"].height == shoppers.height
    assert clean["reviews"].height == len(texts)
    if texts:  # tables can still be joined
        assert clean["reviews"]["shopper_id"][0] == clean["shoppers"]["shopper_id"][0]


def test_words_that_only_look_like_a_name_stay():
    search = Identifiers(["Ann", "Ada Byron"])
    assert search.masked("Annual offers for Ada and for Byron; Ann agrees") == (
        "Annual offers for Ada and for Byron; [removed] agrees"
    )
    assert search.masked("Costs 12.50, size 1000 x 2000 mm, 27 inch, model 4711-0815") == (
        "Costs 12.50, size 1000 x 2000 mm, 27 inch, model 4711-0815"
    )
    assert search.masked(None) is None


ADA = ["Ada Byron", "José García", "李小明", "ada@x.org", "xm@qq.com", "07700 900123", "+44 20 7946 0018"]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("我是李小明，很好", "我是[removed]，很好"),
        ("李小明推荐", "[removed]推荐"),
        ("李 小明推荐", "[removed]推荐"),
        ("联系李小明或13800138000", "联系[removed]或[removed]"),
        ("客服Ada Byron说", "客服[removed]说"),
        ("Ada  Byron", "[removed]"),
        ("Ada\u00a0Byron", "[removed]"),
        ("Ada\nByron!", "[removed]!"),
        ("_Ada Byron_", "_[removed]_"),
        ("AdaByron", "[removed]"),
        ("Jose\u0301 Garci\u0301a, yes", "[removed], yes"),
        ("Jose Garcia", "[removed]"),
        ("Ａｄａ Ｂｙｒｏｎ", "[removed]"),
        ("ada＠x.org", "[removed]"),
        ("A\u200bda By\u00adron.", "[removed]."),
        ("442079460018", "[removed]"),
        ("5551234567", "[removed]"),
        ("138 0013 8000", "[removed]"),
        ("０７７００　９００１２３", "[removed]"),
        ("call 7700900123 now", "call [removed] now"),
        ("电话020 7946 0018谢谢", "电话[removed]谢谢"),
        ("李小华推荐 Ada", "李小华推荐 Ada"),
    ],
)
def test_no_spelling_hides_an_identifier(text, clean):
    assert Identifiers(ADA).masked(text) == clean


@given(st.text(max_size=30), st.text(max_size=30))
def test_masking_takes_the_identifier_and_leaves_the_rest(before, after):
    text = f"{before} Zoë Müller {after}"
    spans = Identifiers(["ZOE MULLER"]).spans(text)
    assert any(unicodedata.normalize("NFC", text[start:end]).startswith("Zoë Müller") for start, end in spans)
    assert Identifiers(["nobody at all"]).spans(text) == []


def test_identifiers_of_every_type_are_looked_for():
    people = pl.DataFrame(
        {
            "name": pl.Series(["Ada Byron"], dtype=pl.Categorical),
            "nick": pl.Series(["Countess"], dtype=pl.Enum(["Countess"])),
            "phone": [7700900123],
            "aliases": [["Augusta King"]],
            "card": [{"holder": "A A Lovelace"}],
            "shopper_id": [7],
            "postcode": ["sw1a1aa"],
        }
    )
    says = "ada byron, Countess, 07700 900123, Augusta King, a.a. lovelace, SW1A 1AA or SW1A1AA, 7 mugs"
    plans = {
        "people": Plan(
            drop=("name", "nick", "phone", "aliases", "card"),
            pseudonymise=("shopper_id",),
            areas=("postcode",),
        ),
        "notes": Plan(texts=("text",)),
    }
    clean = anonymise({"people": people, "notes": pl.DataFrame({"text": [says]})}, plans, KEY)
    gone = "[removed]"
    assert (
        clean["notes"]["text"].item() == f"{gone}, {gone}, {gone}, {gone}, {gone}, {gone} or {gone}, 7 mugs"
    )


def test_a_column_passes_only_if_the_plan_says_so():
    people = pl.DataFrame({"name": ["Ada"], "contact": ["a@b.org"]})
    with pytest.raises(ValueError, match="does not say what happens to contact: add it to keep or to drop"):
        anonymise({"people": people}, {"people": Plan(drop=("name",))}, KEY)
    with pytest.raises(ValueError, match="names name twice"):
        anonymise({"people": people}, {"people": Plan(drop=("name",), keep=("name", "contact"))}, KEY)
    kept = anonymise({"people": people}, {"people": Plan(drop=("name",), keep=("contact",))}, KEY)
    assert kept["people"].columns == ["contact"]
    with pytest.raises(ValueError, match="not text: it cannot be masked"):
        anonymise({"t": pl.DataFrame({"says": [["Ada"]]})}, {"t": Plan(texts=("says",))}, KEY)


@pytest.mark.parametrize("values", [[[1, 2]], [{"a": 1}], [7.0]])
def test_only_single_values_of_exact_types_have_pseudonyms(values):
    with pytest.raises(ValueError, match="only single values of text, whole numbers and dates"):
        pseudonyms(pl.Series("odd", values), KEY)
    with pytest.raises(ValueError, match="Only text, whole numbers and dates"):
        pseudonym(values[0], KEY)


@pytest.mark.parametrize("text", ["a@b.co", "x.y+z@sub.mail-7.org", "o'neil@mail.com", "A_B@UPPER.COM"])
def test_addresses_are_recognised(text):
    assert re.fullmatch(EMAIL, text)


@pytest.mark.parametrize(
    "text",
    [
        "+44 20 7946 0018",
        "020 7946 0018",
        "07700 900123",
        "(020) 7946-0018",
        "+8613800138000",
        "555-123-4567",
        "13800138000",
        "442079460018",
    ],
)
def test_phone_numbers_are_recognised(text):
    assert re.search(PHONE, f"call {text} now").group() == text


@given(st.text(), st.text())
def test_same_key_same_pseudonym_other_key_other(one, other):
    assert pseudonym(one, KEY) == pseudonym(one, KEY)
    assert pseudonym(one, KEY) != pseudonym(one, OTHER)
    assert (pseudonym(one, KEY) == pseudonym(other, KEY)) == (one == other)
    assert (
        pseudonym(one, KEY)
        == hmac.new(KEY, one.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:16]
    )


def test_pseudonyms_of_a_column_keep_nulls_and_order():
    column = pl.Series("phone", ["1", None, "2", "1"])
    assert pseudonyms(column, KEY).to_list() == [
        pseudonym("1", KEY),
        None,
        pseudonym("2", KEY),
        pseudonym("1", KEY),
    ]
    assert pseudonyms(column.clear(), KEY).dtype == pl.String
    with pytest.raises(ValueError, match="at least 16 bytes"):
        pseudonyms(column, b"short")


def test_a_plan_must_fit_and_must_be_there():
    people = pl.DataFrame({"name": ["Ada"]})
    with pytest.raises(ValueError, match="has no plan"):
        anonymise({"people": people}, {}, KEY)
    with pytest.raises(ValueError, match="names email, which it lacks; it has name"):
        anonymise({"people": people}, {"people": Plan(drop=("email",))}, KEY)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.sampled_from("xyz")), max_size=25))
def test_k_and_l_are_those_of_a_loop(people):
    schema = {"area": pl.String, "born": pl.Int64, "income": pl.String}
    frame = pl.DataFrame(people, schema=schema, orient="row")
    groups = {}
    for area, born, income in people:
        groups.setdefault((area, born), []).append(income)
    found = k_anonymity(frame, ["area", "born"], least=3)
    assert found.k == min(map(len, groups.values()), default=0)
    assert {row[:2]: row[2] for row in found.groups.rows()} == {
        key: len(members) for key, members in groups.items() if len(members) < 3
    }
    assert l_diversity(frame, ["area", "born"], "income") == min(
        (len(set(m)) for m in groups.values()), default=0
    )
    kept = suppress_small(frame, ["area", "born"], least=3)
    assert kept.height == 0 or k_anonymity(kept, ["area", "born"]).k >= 3


def test_postcode_areas():
    frame = pl.DataFrame({"postcode": ["SW1A 1AA", "m1 1ae", " EC1A 1BB", None, "123"]})
    assert frame.select(postcode_area("postcode"))["postcode"].to_list() == ["SW", "M", "EC", None, None]


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return tmp_path_factory.mktemp("sealed")


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_sealing_round_trip(room, size):
    data = (b"ada@example.org " * (size // 16 + 1))[:size]
    (room / "plain").write_bytes(data)
    key = new_key()
    encrypt_table(room / "plain", room / "sealed", key)
    decrypt_table(room / "sealed", room / "again", key)
    assert (room / "again").read_bytes() == data
    assert b"ada@example.org" not in (room / "sealed").read_bytes()


@pytest.fixture(scope="module")
def sealed(room):
    (room / "one").write_bytes(b"ada@example.org" * (CHUNK // 5))  # three chunks, each of its own content
    key = new_key()
    encrypt_table(room / "one", room / "one.sealed", key)
    return room, key, (room / "one.sealed").read_bytes()


def refused(room, data, key):
    (room / "changed").write_bytes(data)
    target = room / "never"
    with pytest.raises(SealBroken) as raised:
        decrypt_table(room / "changed", target, key)
    assert str(raised.value).count(".") == 1
    assert not target.exists()
    assert not list(room.glob(".*"))  # no draft either


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_changed_byte_is_noticed(sealed, data):
    room, key, content = sealed
    place = data.draw(st.one_of(st.integers(0, 40), st.integers(0, len(content) - 1)))
    changed = bytearray(content)
    changed[place] ^= data.draw(st.integers(1, 255))
    refused(room, bytes(changed), key)


def test_cut_swapped_repeated_and_lengthened_files_are_refused(sealed):
    room, key, content = sealed
    head, size = content[:15], CHUNK + 16
    chunks = [content[15 + i : 15 + i + size] for i in range(0, len(content) - 15, size)]
    assert len(chunks) >= 3
    refused(room, head + b"".join(chunks[:-1]), key)
    refused(room, head, key)
    refused(room, head + b"".join([chunks[1], chunks[0], *chunks[2:]]), key)
    refused(room, head + b"".join([chunks[0], chunks[0], *chunks[1:]]), key)
    refused(room, content + b"\0", key)
    refused(room, content[:10], key)
    refused(room, b"", key)
    refused(room, content, new_key())


def test_a_failed_opening_leaves_an_older_file_alone(sealed):
    room, _, content = sealed
    (room / "kept").write_bytes(b"older")
    (room / "changed").write_bytes(content)
    with pytest.raises(SealBroken):
        decrypt_table(room / "changed", room / "kept", new_key())
    assert (room / "kept").read_bytes() == b"older"


def test_a_sealed_file_opens_under_its_own_name_only(room):
    (room / "plain").write_bytes(b"five stars")
    key = new_key()
    encrypt_table(room / "plain", room / "reviews.sealed", key, name="reviews")
    for name in ("shoppers", ""):
        with pytest.raises(SealBroken, match="the key or the name is wrong"):
            decrypt_table(room / "reviews.sealed", room / "never", key, name=name)
    decrypt_table(room / "reviews.sealed", room / "opened", key, name="reviews")
    assert (room / "opened").read_bytes() == b"five stars"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_what_is_opened_is_for_its_owner_only(room):
    (room / "plain").write_bytes(b"x")
    key = new_key()
    encrypt_table(room / "plain", room / "own.sealed", key)
    decrypt_table(room / "own.sealed", room / "own", key)
    assert (room / "own").stat().st_mode & 0o777 == 0o600


def test_keys_have_one_length(room):
    (room / "plain").write_bytes(b"x")
    with pytest.raises(ValueError, match="must be 32 bytes"):
        encrypt_table(room / "plain", room / "sealed-short", b"short")
    assert not (room / "sealed-short").exists()


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 28)), max_size=8), st.integers(1, 28))
def test_the_latest_word_before_a_moment_counts(words, day):
    register = ConsentRegister()
    for allowed, on in words:
        (register.grant if allowed else register.withdraw)(7, "ads", datetime(2026, 1, on))
    register.grant(8, "ads", datetime(2026, 1, 1))
    known = [(on, place, allowed) for place, (allowed, on) in enumerate(words) if on <= day]
    expected = max(known)[2] if known else False
    at = datetime(2026, 1, day)
    assert register.allows(7, "ads", at) == expected
    assert not register.allows(7, "research", at)
    log = pl.LazyFrame({"shopper_id": [7, 8, 9]}, schema={"shopper_id": pl.Int32})
    kept = register.allowed(log, "ads", at).collect()["shopper_id"].to_list()
    assert kept == ([7, 8] if expected else [8])


def shop():
    shoppers = pl.DataFrame(
        [person(1, "Ada", "Byron", 1, "+44 {0} {1} {2}"), person(2, "Zoë", "Müller", 2, "07{0} {1}{2}")]
    )
    return {
        "shoppers": shoppers,
        "friends": pl.DataFrame({"shopper_id": [1, 2], "friend_id": [2, 3]}),
        "reviews": pl.DataFrame(
            {"shopper_id": [1, 2, 2], "text": ["mine", "ADA BYRON said: call 07000 000002", None]}
        ),
        "events": pl.DataFrame(
            {"shopper_id": [1, 1, 2], "price": [1.0, 2.0, 3.0]}, {"shopper_id": pl.Int32, "price": pl.Float64}
        ),
        "prices": pl.DataFrame({"product_id": [1], "price": [2.0]}),
    }


def test_forgetting_removes_a_person_everywhere_and_nobody_else():
    tables = shop()
    done = forget(1, tables, KEY, keep_anonymous=["events"])
    assert done.report.rows() == [
        ("shoppers", 1, 0, 0),
        ("friends", 1, 0, 0),
        ("reviews", 1, 1, 0),
        ("events", 0, 2, 0),
        ("prices", 0, 0, 0),
    ]
    stored = b"".join(map(written, done.tables.values()))
    assert b"Byron" not in stored
    assert b"BYRON" not in stored
    assert done.tables["reviews"]["text"].to_list() == ["[removed] said: call 07000 000002", None]
    assert done.tables["events"]["shopper_id"].to_list() == [None, None, 2]
    assert done.tables["events"].schema == tables["events"].schema
    assert done.tables["friends"].rows() == [(2, 3)]
    assert done.tables["shoppers"].equals(tables["shoppers"][1:])
    assert done.pseudonym == pseudonym(1, KEY)
    again = forget(1, done.tables, KEY)
    assert again.report["removed"].sum() == again.report["cleared"].sum() == 0


def test_forgetting_as_a_friend_counts_too():
    assert forget(3, shop(), KEY).tables["friends"].rows() == [(1, 2)]


def test_a_table_to_keep_must_exist():
    with pytest.raises(KeyError, match="no table orders"):
        forget(1, shop(), KEY, keep_anonymous=["orders"])


def test_forgetting_reaches_every_spelling_and_type():
    tables = shop()
    tables["shoppers"] = tables["shoppers"].with_columns(
        name=pl.Series(["李小明", "Zoë Müller"]),
        phone=pl.Series([7700900123, 7700900999]),
        email=pl.Series(["xm@qq.com", "zoe@x.org"], dtype=pl.Categorical),
    )
    texts = ["微信xm@qq.com谢谢", "我是李小明，很好", "0770 0900-123"]
    tables["letters"] = pl.DataFrame(
        {
            "user_id": ["1", "2", "2", "2"],
            "text": ["mine", *texts],
            "signed": pl.Series(
                ["李小明", "Zoë", "Zoë", "xm@qq.com"], dtype=pl.Enum(["李小明", "Zoë", "xm@qq.com"])
            ),
        }
    )
    done = forget(1, tables, KEY)
    letters = done.tables["letters"]
    assert letters["text"].to_list()[1:] == ["我是[removed]，很好", "[removed]"]
    assert letters["signed"].cast(pl.String).to_list() == ["Zoë", "Zoë", "[removed]"]
    stored = b"".join(map(written, done.tables.values())).decode("utf-8", "replace")
    assert not [trace for trace in ("李小明", "xm@qq.com", "900-123", "7700900123") if trace in stored]
    assert done.tables["shoppers"]["name"].to_list() == ["Zoë Müller"]
    assert forget("1", tables, KEY).report.equals(done.report)


@pytest.mark.parametrize(
    ("column", "values"),
    [("friends", [[1, 2]]), ("who", [{"name": "Ada Byron"}]), ("shopper_id", [1.0]), ("photo", [b"Ada"])],
)
def test_what_cannot_be_searched_is_refused(column, values):
    with pytest.raises(ValueError, match=f"The column {column} of odd is .* cannot be searched"):
        forget(1, {**shop(), "odd": pl.DataFrame({column: values})}, KEY)


def test_without_the_table_of_people_nobody_is_forgotten():
    tables = shop()
    del tables["shoppers"]
    with pytest.raises(KeyError, match="no table shoppers to learn the person's name from"):
        forget(1, tables, KEY)


def test_the_proof_does_not_trust_the_search(monkeypatch):
    """With a search that finds nothing, what is left is found all the same."""
    monkeypatch.setattr(Identifiers, "spans", lambda self, text: [])
    tables = {**shop(), "calls": pl.DataFrame({"number": [440000000001]})}
    with pytest.raises(NotForgotten, match=r"still in reviews\.text, calls\.number; do not"):
        forget(1, tables, KEY)


def test_consent_counts_moments_not_clocks():
    china = timezone(timedelta(hours=8))
    register = ConsentRegister()
    register.grant(7, "ads", datetime(2026, 1, 1, 12, tzinfo=china))  # 04:00 UTC
    assert not register.allows(7, "ads", datetime(2026, 1, 1, 3, 59, tzinfo=UTC))
    assert register.allows(7, "ads", datetime(2026, 1, 1, 4, tzinfo=UTC))
    assert register.allows(7, "ads", datetime(2026, 1, 1, 4))
    log = pl.LazyFrame({"shopper_id": [7]})
    assert register.allowed(log, "ads", datetime(2026, 1, 1, 12, tzinfo=china)).collect().height == 1
    assert register.allowed(log, "ads", datetime(2026, 1, 1, 11, tzinfo=china)).collect().height == 0
