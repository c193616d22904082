from autofash.errors import LONGEST_LINE, AutofashError, Problem, SpaceError, brief, printable, unknown


def test_an_error_is_one_line_with_where_what_and_the_fix() -> None:
    error = SpaceError("high = 1.4 is above 0.95", "high = 0.6", where="cnn.toml: [params.dropout]")
    assert str(error) == "cnn.toml: [params.dropout]: high = 1.4 is above 0.95. Try: high = 0.6"
    assert (error.code, error.exit_code) == ("E-SPACE", 2)


def test_an_error_of_several_problems_keeps_them_all() -> None:
    error = SpaceError([Problem("one"), Problem("two", "fix")])
    assert [str(problem) for problem in error.problems] == ["one", "two. Try: fix"]


def test_the_nearest_name_is_suggested_and_all_names_when_none_is_near() -> None:
    assert unknown("sampler", "tpa", ["tpe", "random"]) == ("there is no sampler 'tpa'", "tpe")
    assert unknown("sampler", "zzz", ["tpe", "random"]) == ("there is no sampler 'zzz'", "random, tpe")


def test_control_characters_cannot_draw_on_the_terminal() -> None:
    assert printable("a\x1b[31mb\nc") == "a\\x1b[31mb\\nc"
    assert "\x1b" not in str(AutofashError("\x1b[2J"))


def test_what_is_longer_than_a_line_is_cut_and_a_number_without_an_end_has_a_word() -> None:
    assert len(str(Problem("x" * 10**6, "y" * 10**6, "z" * 10**6))) == LONGEST_LINE
    assert brief("a" * 100) == "'" + "a" * 58 + "…" and brief("a") == "'a'"
    assert brief(10**5000) == "a value beyond all bounds"


def test_every_error_names_an_exit_code_of_the_published_table() -> None:
    def below(kind: type[AutofashError]) -> list[type[AutofashError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in below(child))]

    assert {kind.exit_code for kind in below(AutofashError)} <= {1, 2, 3, 4, 5, 6, 7, 130}
