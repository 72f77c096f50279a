"""No identifier survives, sealed files open only whole and with their key, forgotten means gone."""

import hashlib
import hmac
import io
import re
from datetime import datetime

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.data.consent import ConsentRegister, forget
from labkit.data.encryption import CHUNK, SealBroken, decrypt_table, encrypt_table, new_key
from labkit.data.privacy import (
    EMAIL,
    PHONE,
    Identifiers,
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
        "{NAME}: {email}.",
    ]
)


def person(number, first, last, digits, pattern):
    parts = f"{digits:09d}"
    box = first.lower().replace(" ", ".").encode("ascii", "ignore").decode() or "x"
    return {
        "shopper_id": number,
        "name": f"{first} {last}",
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


def test_keys_have_one_length(room):
    (room / "plain").write_bytes(b"x")
    with pytest.raises(ValueError, match="must be 32 bytes"):
        encrypt_table(room / "plain", room / "sealed-short", b"short")
    assert not (room / "sealed-short").exists()


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
