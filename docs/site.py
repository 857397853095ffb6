"""What mkdocs.yml adds to MkDocs and Griffe, so that pages and docstrings read well both on GitHub and on the site."""

from __future__ import annotations

import posixpath
import re
from typing import Any

import griffe

LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)\s]+)\)")
COMMENT = re.compile(r"  # (.+)$")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replace links that leave docs/, such as those to source files, by their text; the site has only docs/."""

    def text_if_outside(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), match[2]))
        return match[1] if target.startswith("..") else match[0]

    return LINK.sub(text_if_outside, markdown)


class FieldComments(griffe.Extension):
    """Show the comment behind a field of a NamedTuple or dataclass as the field's description."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        is_field = attr.parent is not None and attr.parent.is_class and attr.annotation is not None
        comment = COMMENT.search(attr.source.splitlines()[0]) if is_field and attr.source else None
        if comment and not attr.docstring:
            attr.docstring = griffe.Docstring(comment[1], lineno=attr.lineno, parent=attr)
