"""Names of files as they are shown."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convforge.shown import shown


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("cat.png", "cat.png", id="plain"),
        pytest.param("Ünïcödé 猫\u3000👩\u200d🔬.png", "Ünïcödé 猫\u3000👩\u200d🔬.png", id="other scripts stay"),
        pytest.param("क\u094d\u200dष.png", "क\u094d\u200dष.png", id="joiners that scripts need stay"),
        pytest.param("<b>&amp;.png", "<b>&amp;.png", id="markup is for who writes markup"),
        pytest.param(r"a\x1b.png", r"a\x1b.png", id="a backslash stays"),
        pytest.param("two\nlines\r\t.png", r"two\x0alines\x0d\x09.png", id="lines"),
        pytest.param("\x1b]0;title\x07\x1b[2J.png", r"\x1b]0;title\x07\x1b[2J.png", id="a terminal's commands"),
        pytest.param("\x7f\x80\x85\x9b31m.png", r"\x7f\x80\x85\x9b31m.png", id="DEL and C1"),
        pytest.param("\u2028\u2029.png", r"\u2028\u2029.png", id="separators"),
        pytest.param("\u202egnp.exe", r"\u202egnp.exe", id="override"),
        pytest.param("\u2066\u2069\u200f\u061c.png", r"\u2066\u2069\u200f\u061c.png", id="isolates and marks"),
        pytest.param("caf\udce9.png", r"caf\xe9.png", id="a byte that is no UTF-8"),
        pytest.param("\ud83d.png", r"\ud83d.png", id="half a pair"),
    ],
)
def test_a_name_is_shown_as(name: str, text: str) -> None:
    assert shown(name) == text


def test_a_path_is_shown_as_its_text() -> None:
    assert shown(Path("photos") / "a\nb.png") == str(Path("photos") / r"a\x0ab.png")


@pytest.mark.skipif(sys.platform == "win32", reason="there, names are not bytes")
@given(name=st.binary())
def test_whatever_the_bytes_the_text_is_one_line_of_utf8_and_shown_once(name: bytes) -> None:
    text = shown(os.fsdecode(name))
    assert len(text.splitlines()) <= 1
    assert text.encode().decode() == text
    assert shown(text) == text


@given(name=st.text(st.characters(categories=["C", "Z"])))
def test_whatever_the_text_it_is_one_line_of_utf8(name: str) -> None:
    text = shown(name)
    assert len(text.splitlines()) <= 1
    assert text.encode().decode() == text
