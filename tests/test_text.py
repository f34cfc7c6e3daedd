"""`fastnn.text`: plain tables."""

from fastnn import text


def test_columns_are_as_wide_as_their_widest_cell():
    assert text.table(("name", "n"), [("a", "1"), ("longer", "1,000")], right=(1,)) == (
        "name        n\n------  -----\na           1\nlonger  1,000"
    )


def test_what_is_not_printable_is_escaped():
    assert text.printable("caf\u00e9 \uc608 'x' \\") == "caf\u00e9 \uc608 'x' \\"
    for blank in ("\u3000", "\xa0", "\u200d", "\u200c"):
        assert text.printable(f"\ub098{blank}\ub2e4") == f"\ub098{blank}\ub2e4"
    assert text.printable("a\x1b[2J\r\n\u202e\x9b\x07") == r"a\x1b[2J\r\n\u202e\x9b\x07"


def test_no_rows_and_no_trailing_blanks():
    assert text.table(("name", "n"), []) == "name  n\n----  -"
    assert text.table(("a", "long"), [("x", "")]).splitlines()[2] == "x"
