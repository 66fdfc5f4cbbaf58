"""Escape text for Markdown, so that it is shown literally."""

import re

from mmstop.text import printable

__all__ = ['as_code', 'as_text']

# Markup in Streamlit's Markdown. An underscore inside a word and a colon before a space
# are plain text.
MARKUP = re.compile(r'[\\`*\[\]<>$~|#&!]|:(?=\S)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])')


def as_code(text: str) -> str:
    """Quote a text as code, with more backticks than it has in a row."""
    text = printable(text)
    runs = re.findall('`+', text)
    fence = '`' * (max(map(len, runs), default=0) + 1)
    blank = ' ' if runs or text != text.strip() else ''  # one at each end is dropped
    return f'{fence}{blank}{text}{blank}{fence}'


def as_text(text: str) -> str:
    """Escape the markup in a text."""
    return MARKUP.sub(r'\\\g<0>', printable(text))
