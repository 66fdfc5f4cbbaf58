"""Markdown that shows a text as it is, whatever is in it."""

import re

from mmstop.text import printable

__all__ = ['as_code', 'as_text']

# What Streamlit's Markdown takes for more than text; an underscore inside a word, or a
# colon before a blank, is none of it.
MARKUP = re.compile(r'[\\`*\[\]<>$~|#&!]|:(?=\S)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])')


def as_code(text: str) -> str:
    """Quote a text as code, between more backticks than it has in a row."""
    text = printable(text)
    runs = re.findall('`+', text)
    fence = '`' * (max(map(len, runs), default=0) + 1)
    blank = ' ' if runs or text != text.strip() else ''  # one at each end is dropped
    return f'{fence}{blank}{text}{blank}{fence}'


def as_text(text: str) -> str:
    """Escape what is markup in a text."""
    return MARKUP.sub(r'\\\g<0>', printable(text))
