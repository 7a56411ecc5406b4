import pytest
from hypothesis import given
from hypothesis import strategies as st

from moqtrio.cli.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5.0),
        ("72h", 259200.0),
        ("1d12h", 129600.0),
        ("250ms", 0.25),
        ("1.5h", 5400.0),
        ("90", 90.0),
        ("0.5", 0.5),
        ("2W", 1209600.0),
        (" 1m30s ", 90.0),
    ],
)
def test_durations_as_people_type_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "h", "5x", "5s3", "-5s", "5 s", "1h-", "nan", "inf", "٣s"])
def test_anything_else_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 90s, 15m, 72h"):
        parse_duration(text)


@given(st.integers(min_value=1, max_value=10_000_000))
def test_formatting_says_the_same_to_three_units(seconds: int) -> None:
    shown = parse_duration(format_duration(seconds))
    assert shown == seconds or 0 < seconds - shown < 60


def test_formatting_below_a_second() -> None:
    assert format_duration(0.25) == "250ms"
