"""Write docs/layout.md, the tree of the package with one line per file.

    python tools/docs/make_layout.py

The lines are the first lines of the modules' docstrings.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATH = ROOT / 'docs' / 'layout.md'

PAGE = """# Layout

The package, with one line per file:

```text
{tree}
```

Beside it:

- `configs/` has STOP's configs, a folder for each family of compared methods, and
  `_base_/` with models, data sets, schedules and whole tasks.
- `tools/` has `train.py`, `test.py` and their launchers, `data/` (converters and
  generated data sets), `analysis/` (ablations, comparisons, benchmarks) and `docs/`.
- `tests/` has the tests. Nearly all of them use the architecture of
  `tests/data/ViT-tiny.json`: 3 blocks, width 64, 32 pixels, patches of 8.

`python tools/docs/make_layout.py` writes this page. `tests/test_package.py` checks that
no folder imports from one that stands above it.
"""


def main() -> None:
    PATH.write_text(page())


def page() -> str:
    packages = sorted(ROOT.glob('mmstop*/__init__.py'))
    lines = [line for path in packages for line in tree(path.parent)]
    return PAGE.format(tree='\n'.join(lines))


def tree(folder: Path, depth: int = 0) -> Iterator[str]:
    """List a package: its own line, its modules, then the packages in it."""
    yield entry(f'{folder.name}/', folder / '__init__.py', depth)
    for path in sorted(folder.glob('[!_]*.py')):
        yield entry(path.name, path, depth + 1)
    for path in sorted(folder.glob('*/__init__.py')):
        yield from tree(path.parent, depth + 1)


def entry(name: str, path: Path, depth: int) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ''
    return f'{"  " * depth + name:<28} {docstring.splitlines()[0]}'


if __name__ == '__main__':
    main()
