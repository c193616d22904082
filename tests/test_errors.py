from autofash.errors import AutofashError, Problem, SpaceError, printable, unknown


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


def test_every_error_names_an_exit_code_of_the_published_table() -> None:
    def below(kind: type[AutofashError]) -> list[type[AutofashError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in below(child))]

    assert {kind.exit_code for kind in below(AutofashError)} <= {1, 2, 3, 4, 5, 6, 7, 130}
