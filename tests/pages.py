"""The code on the documentation's pages."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def code_of(page: str) -> list[str]:
    """Return the Python blocks of a page of docs/, in order."""
    return python_of((ROOT / 'docs' / page).read_text())


def python_of(text: str) -> list[str]:
    """Return the Python blocks of a Markdown text, in order."""
    return re.findall(r'^```python\n(.*?)^```$', text, re.M | re.S)


def commands_of(page: str) -> list[str]:
    """Return the commands of a page of docs/ that run Python, in order, one a line."""
    text = (ROOT / 'docs' / page).read_text().replace('\\\n', '')
    return re.findall(r'^    ((?:python|mmstop) .*)$', text, re.M)
