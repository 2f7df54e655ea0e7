"""Markdown: whatever a label holds, a table keeps its cells."""

from __future__ import annotations

from utils.report.markdown import Markdown, bold, escape, table


def test_text_stays_what_it_is():
    assert escape("a|b\nc <b> & *d* `e` \\f") == r"a\|b c &lt;b&gt; &amp; \*d\* \`e\` \\f"
    assert escape("flat_kl _is_ __x") == r"flat_kl \_is\_ \_\_x"
    assert escape("[click](javascript:x) [1, 2]") == r"[click]\(javascript:x) [1, 2]"
    assert escape(escape("a|b")) == r"a\|b" and escape(Markdown("**a**")) == "**a**" and bold("a*b") == r"**a\*b**"


def test_table_by_hand():
    assert table(["run", "P|Q"], [["a|b\nc", "1.50"], [bold("d"), "–"]]).splitlines() == [
        r"| run    |   P\|Q |",
        r"|:-------|-------:|",
        r"| a\|b c |   1.50 |",
        r"| **d**  |      – |",
    ]
    assert table(["run"], []) == "| run   |\n|-------|"


def test_numbers_stay_as_they_are_written():
    assert "| 1e-05 |" in table(["x", "p"], [["0012", "1e-05"]]) and "| 0012 " in table(["x", "p"], [["0012", "1e-05"]])
