import pytest

from ltx.runtime.json_text import parse_json


def test_values_are_read() -> None:
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize("text", ["{", b"\xff\xfe", "[" * 100_000])
def test_text_that_is_not_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"Expecting|codec|nested"):
        parse_json(text)
