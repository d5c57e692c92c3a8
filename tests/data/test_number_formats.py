from __future__ import annotations

import pytest

from nbnorm.data.number_formats import NumberFormat, candidates, guess


@pytest.mark.parametrize(
    ("fields", "delimiter", "expected", "said"),
    [
        (["1,234", "512"], ",", (".", ","), "taken for 1234, not 1.234 (or --decimal ,)"),
        (["1,234", "512"], ";", (",", ""), "taken for 1.234, not 1234 (or --thousands ,)"),
        (["1.234", "512"], ";", (".", ""), "taken for 1.234, not 1234 (or --thousands .)"),
        (["1.234", "512"], ",", (".", ""), None),
        (["1,234.5", "7"], ";", (".", ","), "Commas stand between thousands"),
        (["1.234,5", "7"], ";", (",", "."), "Points stand between thousands"),
        (["12,34,567"], "\t", (".", ","), "Commas stand between thousands"),
        (["1\u202f234,5", "0,5"], ";", (",", " "), "Spaces stand between thousands"),
        (["1\u2019234.5"], ";", (".", "'"), "Apostrophes stand between thousands"),
        (["1,5", "x", "y"], ";", (".", ""), None),
        (["12.31.2024", "1.2.2024"], ";", (".", ""), None),
    ],
)
def test_guess(fields, delimiter, expected, said):
    got, notes = guess([fields, ["3"]], candidates(delimiter, None, None))
    assert got == NumberFormat(*expected)
    assert not notes if said is None else any(said in note for note in notes)


def test_a_column_that_the_format_does_not_read_is_said():
    got, notes = guess([["1,5"], ["2.5"], ["0.25"]], candidates(";", None, None))
    assert got == NumberFormat()
    assert notes == ["Numbers such as 1,5 are taken for text: others are written in another way"]


@pytest.mark.parametrize(
    ("decimal", "thousands", "text", "expected"),
    [
        (None, ",", "1,234", "1234"),
        (None, ".", "1.234", "1234"),
        (",", None, "1,234", "1.234"),
        (".", None, "1,234", "1234"),
        (",", "", "1,234", "1.234"),
        (None, "'", "-1'234e2", "-1234e2"),
    ],
)
def test_what_is_said_is_not_guessed(decimal, thousands, text, expected):
    for delimiter in ",;":
        assert guess([[text]], candidates(delimiter, decimal, thousands))[0].plain(text) == expected


@pytest.mark.parametrize("text", ["1,23", "0,123", "12,3456", ",123", "1,,234", "1,234,", "1,234 5"])
def test_what_is_not_grouped_is_no_number(text):
    assert not NumberFormat(".", ",").reads(text)
