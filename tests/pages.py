"""The code on the documentation's pages."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def code_of(page: str) -> list[str]:
    """Return the Python blocks of a page of docs/, in order."""
    text = (ROOT / 'docs' / page).read_text()
    return re.findall(r'^```python\n(.*?)^```$', text, re.M | re.S)
