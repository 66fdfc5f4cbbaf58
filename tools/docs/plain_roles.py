"""Show Sphinx's roles in docstrings, such as :class:`Tower`, as code."""

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r':[a-z]+:`~?([^`]+)`')


class PlainRoles(Extension):
    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = ROLE.sub(r'`\1`', obj.docstring.value)
