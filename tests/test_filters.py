"""Filters of items by their attributes: what passes, missing values, and what a filter that cannot be read says."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linguarec.catalogue import Catalogue
from linguarec.columns import NumberColumn, number_of
from linguarec.errors import CheckpointMismatchError, DataFormatError, FilterError, LinguarecError
from linguarec.filters import DEEPEST, LONGEST, Filter

ITEMS: list[dict[str, Any]] = [
    {"raw_id": "a", "brand": "Acme", "price": "20", "category": "Tools > Rulers", "year of issue": "2009"},
    {"raw_id": "b", "brand": "Bolt", "price": "5.50", "category": "Tools", "year of issue": "2010"},
    {"raw_id": "c", "brand": "Acme", "price": "1e3", "category": "Big Tools > Rulers", "year of issue": None},
    {"raw_id": "d", "brand": None, "price": None, "category": "", "year of issue": "2011"},
    {"raw_id": "e", "brand": 'O"Neil', "price": "-1", "category": "Rulers > Steel", "year of issue": "2012"},
]
ATTRIBUTES = ["brand", "price", "category", "year of issue"]
NUMBERS = ["price", "year of issue"]


def catalogue(items: list[dict[str, Any]] = ITEMS) -> Catalogue:
    columns = {name: pa.array([item[name] for item in items], pa.string()) for name in ["raw_id", *ATTRIBUTES]}
    return Catalogue.of(pa.table({**columns, "text": [""] * len(items)}), ATTRIBUTES, "default", NUMBERS)


@pytest.fixture(params=["memory", "file", "added"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Catalogue:
    """The same items in memory, from a file, and most of them added later."""
    if request.param == "memory":
        return catalogue()
    if request.param == "file":
        catalogue().save(tmp_path / "catalogue.parquet")
        return Catalogue.load(tmp_path / "catalogue.parquet")
    whole = catalogue(ITEMS[:2])
    for item in ITEMS[2:]:
        whole = whole.with_added(whole.new_entries([item]))
    return whole


def passing(text: str, items: Catalogue) -> str:
    return "".join(np.array(list(items.raw_ids))[Filter.parse(text).rows(items)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('brand == "Acme"', "ac"),
        ("brand == 'Acme' and price <= 20", "a"),
        ('brand != "Acme"', "be"),
        ('not brand == "Acme"', "be"),
        ('not (brand == "Acme" or price < 0)', "b"),
        ('not (brand == "Acme" and price < 0)', "abce"),
        ("price <= 20", "abe"),
        ("20 >= price", "abe"),
        ("price == 20.0", "a"),
        ("price==2e1", "a"),
        ("price != 20", "bce"),
        ("5 < price <= 20", "ab"),
        ("20 > price > -1", "b"),
        ("price in [20, 1000, 7]", "ac"),
        ("price not in [20, 1000, 7]", "be"),
        ('brand in ["Acme", "Bolt"]', "abc"),
        ('brand NOT IN ["Acme"]', "be"),
        ('brand < "B"', "ac"),
        ('brand >= "Bolt"', "be"),
        ('"Rulers" in category', "ace"),
        ('"Tools" in category', "ab"),
        ('"Tools" not in category', "ce"),
        ('"Tool" in category', ""),
        ("price is missing", "d"),
        ("price is not missing", "abce"),
        ("category is missing or brand is missing", "d"),
        ("`year of issue` < 2011", "ab"),
        ("brand == 'O\"Neil'", "e"),
        (r'brand == "O\"Neil"', "e"),
        ("price < 0 or price > 100 and brand == 'Acme'", "ce"),
        ("(price < 0 or price > 100) and brand == 'Acme'", "c"),
        ("not not price < 0", "e"),
        ('brand == "acme"', ""),
        ("  price\n<=\t5.5 ", "be"),
    ],
)
def test_the_items_that_pass(text: str, expected: str, opened: Catalogue) -> None:
    assert passing(text, opened) == expected


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 1, "found the end of the filter, expected the name of an attribute"),
        ("brand", 6, "found the end of the filter, expected a comparison such as `==`"),
        ("brand = 'Acme'", 7, "found '='; write =="),
        ("brand == Acme", 10, "found 'Acme', expected a number or a text in quotes: write text in quotes"),
        ('brand == "Acme', 10, '" opens a text that is not closed'),
        ("`brand == 3", 1, "` opens a text that is not closed"),
        ("price < 5 && price > 2", 11, "found '&&'; write and"),
        ("price <> 5", 8, "found '>', expected a number or a text in quotes"),
        ("price < 5 price > 2", 11, "found 'price', expected `and`, `or` or the end of the filter"),
        ("(price < 5", 11, "found the end of the filter, expected `and`, `or` or `)`"),
        ("price < 5)", 10, "found ')', expected `and`, `or` or the end"),
        ("price in 5", 10, "found '5', expected a list such as"),
        ("price in []", 11, "found ']', expected a number"),
        ("price in [1, 2", 15, "expected `,` or `]`"),
        ("price not 5", 11, "found '5', expected `in`"),
        ("price is 5", 10, "found '5', expected `missing`"),
        ("5 < 6", 5, "found '6', expected the name of an attribute"),
        ("5", 2, "expected a comparison such as `<=`, or `in`"),
        ("and == 5", 1, "found 'and', expected the name"),
        ("price < 1e999", 9, "'1e999' is too large"),
        ("price < 5mm", 9, "found '5mm', expected an attribute, a number"),
        ("price.x < 5", 6, "found '.x < 5', expected"),
        ("__import__('os') == 1", 11, "found '(', expected a comparison"),
        ("price < 5\0", 10, "found '\\x00'"),
        ("(" * 5_000 + "price < 5", DEEPEST + 1, f"more than {DEEPEST} deep"),
        ("not " * 2_000 + "price < 5", 4 * DEEPEST + 1, f"more than {DEEPEST} deep"),
        ("price < 5" + " " * LONGEST, LONGEST + 1, "the filter has 10,009 characters, at most 10,000 are read"),
    ],
)
def test_a_filter_that_cannot_be_read(text: str, position: int, message: str) -> None:
    with pytest.raises(FilterError) as refused:
        Filter.parse(text)
    assert message in str(refused.value)
    assert refused.value.position == position - 1
    assert f"at character {position}:" in str(refused.value)
    assert isinstance(refused.value, LinguarecError)


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("brands == 'x'", 0, "'brands' is no attribute of the items; they have: 'brand', 'price', 'category'"),
        ("brands == 'x'", 0, "do you mean 'brand'?"),
        ("price <= 5 and price == '20'", 24, "'price' holds numbers, and is compared with the text '20'"),
        ("price in [1, 'x']", 13, "compared with the text 'x'"),
        ("'Rulers' in price", 12, "'price' holds numbers, not lists"),
        ("brand == 20", 9, "'brand' holds texts, and is compared with the number 20; write the value in quotes"),
        ("raw_id == 'a'", 0, "'raw_id' is no attribute"),
    ],
)
def test_a_filter_that_does_not_fit_the_attributes(text: str, position: int, message: str, opened: Catalogue) -> None:
    with pytest.raises(FilterError, match=r"^The filter, at character \d+: ") as refused:
        Filter.parse(text).rows(opened)
    assert message in str(refused.value)
    assert refused.value.position == position


def test_a_filter_that_is_no_text() -> None:
    with pytest.raises(FilterError, match="a filter is text such as 'price <= 20', this is 5"):
        Filter.parse(5)  # type: ignore[arg-type]


# -- every expression against the logic of SQL, item by item -----------------------------------------------------------

TESTS = {
    "price > 5": lambda item: None if item["price"] is None else float(item["price"]) > 5,
    "price <= 20": lambda item: None if item["price"] is None else float(item["price"]) <= 20,
    'brand == "Acme"': lambda item: None if item["brand"] is None else item["brand"] == "Acme",
    'brand in ["Bolt", "x"]': lambda item: None if item["brand"] is None else item["brand"] == "Bolt",
    "`year of issue` is missing": lambda item: item["year of issue"] is None,
}


def negated(truth: bool | None) -> bool | None:
    return None if truth is None else not truth


def joined(truths: list[bool | None], decisive: bool) -> bool | None:
    """`or` where True decides, `and` where False does."""
    if decisive in truths:
        return decisive
    return None if None in truths else not decisive


EXPRESSIONS: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(sorted(TESTS)).map(lambda text: (text, TESTS[text])),
    lambda inner: st.one_of(
        inner.map(lambda a: (f"not ({a[0]})", lambda item: negated(a[1](item)))),
        st.tuples(inner, inner).map(
            lambda ab: (f"({ab[0][0]}) or ({ab[1][0]})", lambda item: joined([each[1](item) for each in ab], True))
        ),
        st.tuples(inner, inner).map(
            lambda ab: (f"({ab[0][0]}) and ({ab[1][0]})", lambda item: joined([each[1](item) for each in ab], False))
        ),
    ),
    max_leaves=8,
)


@given(EXPRESSIONS)
def test_expressions_follow_the_logic_of_sql(expression: Any) -> None:
    text, truth = expression
    assert passing(text, catalogue()) == "".join(item["raw_id"] for item in ITEMS if truth(item) is True)


@given(st.text(alphabet="ab\"'`()[]<>=!, 15.e-\\not in", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        Filter.parse(text)
    except FilterError as error:
        assert 0 <= error.position <= len(text)


# -- numbers in the catalogue ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7.0), ("-0.5", -0.5), (".5", 0.5), ("5.", 5.0), ("+3", 3.0), ("1e-300", 1e-300), ("0", 0.0), ("0.10", 0.1)],
)
def test_texts_that_are_numbers(text: str, number: float) -> None:
    assert number_of(text) == number


@pytest.mark.parametrize(
    "text",
    ["007", "00", "$5", "5 mm", "1,000", "1e999", "inf", "0x1", "1_0", "9007199254740993", "٣", "-", ".", "5\n6"],
)
def test_texts_that_are_no_numbers(text: str) -> None:
    assert number_of(text) is None


@given(
    st.lists(
        st.from_regex(r" ?[+-]?(0|[1-9][0-9]{0,14})?[.]?[0-9]{0,4}([eE]-?[0-9]{1,2})? ?|nan", fullmatch=True)
        | st.none()
    )
)
def test_a_column_holds_the_numbers_of_its_texts(texts: list[str | None]) -> None:
    expected = [number_of(text) for text in texts]
    column = pa.array(texts, pa.string())
    if None in expected:
        with pytest.raises(ValueError, match="is no number"):
            NumberColumn.of(column)
    else:
        np.testing.assert_array_equal(NumberColumn.of(column).values, np.array(expected, dtype=np.float64))


@pytest.mark.parametrize("text", [None, "", "  ", "nan", "NaN"])
def test_texts_that_are_no_value(text: str | None) -> None:
    number = number_of(text)
    assert number is not None and number != number


def test_attributes_of_entries_come_with_numbers(opened: Catalogue) -> None:
    assert opened.attributes_of(np.array([3, 0])) == [
        {"brand": None, "price": None, "category": None, "year of issue": 2011.0},
        {"brand": "Acme", "price": 20.0, "category": "Tools > Rulers", "year of issue": 2009.0},
    ]
    plain = Catalogue.of(pa.table({"raw_id": ["x"], "text": ["t"]}), [], "default")
    assert plain.attributes_of(np.array([0, 0])) == [{}, {}]


def test_a_new_item_needs_a_number_where_all_have_one(opened: Catalogue) -> None:
    with pytest.raises(
        DataFormatError, match=r"New item 1 \('n'\): its 'price' is 'cheap'; all items .* have a number"
    ):
        opened.new_entries([{"raw_id": "n", "brand": "Acme", "price": "cheap"}])
    more = opened.with_added(opened.new_entries([{"raw_id": "n", "brand": "Acme", "price": 3.25}]))
    assert passing("price == 3.25", more) == "n"
    assert passing("price == 3.25", opened) == ""


def test_numbers_stay_numbers_when_a_catalogue_is_saved_again(opened: Catalogue, tmp_path: Path) -> None:
    opened.save(tmp_path / "again.parquet")
    assert Catalogue.load(tmp_path / "again.parquet").numbers == tuple(NUMBERS)
    assert passing("price > 100", Catalogue.load(tmp_path / "again.parquet")) == "c"


def test_a_catalogue_of_an_earlier_version_has_no_numbers(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    file = tmp_path / "catalogue.parquet"
    pq.write_table(catalogue().table.replace_schema_metadata({"text_rules": "default"}), file)
    old = Catalogue.load(file)
    assert old.numbers == () and passing('price == "5.50"', old) == "b"
    with pytest.raises(FilterError, match="folders and runs of earlier versions hold all attributes as texts"):
        Filter.parse("price < 5").rows(old)


@pytest.mark.parametrize("stored", ["no json", '["absent"]', "5", "[5]"])
def test_a_damaged_list_of_numbers(stored: str, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    file = tmp_path / "catalogue.parquet"
    pq.write_table(catalogue().table.replace_schema_metadata({"numbers": stored}), file)
    with pytest.raises(CheckpointMismatchError, match="as its attributes of numbers"):
        Catalogue.load(file)


def test_a_text_among_the_numbers_of_a_file(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    file = tmp_path / "catalogue.parquet"
    pq.write_table(catalogue().table.replace_schema_metadata({"numbers": '["brand"]'}), file)
    with pytest.raises(
        CheckpointMismatchError, match=r"catalogue.parquet: in the column 'brand', .* 'Acme' is no number"
    ):
        Filter.parse("brand > 5").rows(Catalogue.load(file))
