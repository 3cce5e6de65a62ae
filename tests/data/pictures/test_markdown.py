"""Names from folders and sheets are text in Markdown: no tag, no link, no picture of theirs."""

from __future__ import annotations

import numpy as np
import pytest
from markdown_it import MarkdownIt

from data.pictures.drawing import markdown_image, markdown_table, markdown_text

NAMES = [
    "<svg onload=alert(3)>",
    "![x](data:image/png;base64,AA)",
    "[x](javascript:alert(1))",
    "a`b`|c",
    "</td><script>alert(1)</script>",
    "two\nlines\\",
]


def rendered(text: str) -> str:
    return str(MarkdownIt("commonmark").enable("table").render(text))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is(name: str) -> None:
    html = rendered(markdown_text(name))
    for tag in ("<img", "<a ", "<svg", "<script", "<code"):
        assert tag not in html
    assert "alert" not in name or "alert" in html


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_in_its_cell_and_its_picture(name: str) -> None:
    html = rendered(markdown_table([{"who": name, "n": 1}]))
    assert html.count("<td>") == 2 and "<img" not in html and "<script" not in html
    html = rendered(markdown_image(np.zeros((2, 2), np.uint8), name))
    assert html.count("<img") == 1 and "<script" not in html and "<svg" not in html
