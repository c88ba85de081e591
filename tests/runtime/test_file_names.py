"""Names of result files."""

from ltx.runtime.file_names import free_name, result_stems


def test_a_taken_name_gets_the_first_free_number_from_two_on() -> None:
    assert free_name("a", set().__contains__) == "a"
    assert free_name("a", {"a"}.__contains__) == "a_2"
    assert free_name("a", {"a", "a_2", "a_4"}.__contains__) == "a_3"
    assert result_stems(["a", "a", "a_2"]) == ["a", "a_2", "a_2_2"]
