"""Let links that work in the repository work in the site, too.

A page may link to any file, as in ``[code](../mmstop/errors.py)``. Files outside docs/
are added to the site under ``repository/``, Markdown as pages and the rest as it is.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS, OUTSIDE = 'docs/', 'repository/'  # of the repository, of the site
LINK = re.compile(r'(\]\()(?!\w+:|#)([^)#\s]+)')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages link to outside docs/, and what that links to in turn."""
    new = [page.src_uri for page in files.documentation_pages()]
    while new:
        source = in_repository(new.pop())
        for link in LINK.finditer((ROOT / source).read_text()):
            path = resolve(source, link[2])
            uri = in_site(path)
            if is_file(path) and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=f'{ROOT / path}'))
                if path.endswith('.md'):
                    new.append(uri)
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Point a page's links to where their targets are in the site."""
    uri = page.file.src_uri
    source, folder = in_repository(uri), posixpath.dirname(uri) or '.'

    def moved(link: re.Match) -> str:
        path = resolve(source, link[2])
        if not is_file(path):  # code that looks like a link, or MkDocs will complain
            return link[0]
        return link[1] + posixpath.relpath(in_site(path), folder)

    return LINK.sub(moved, markdown)


def is_file(path: str) -> bool:
    return (ROOT / path).is_file()


def resolve(source: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def in_repository(uri: str) -> str:
    return uri.removeprefix(OUTSIDE) if uri.startswith(OUTSIDE) else DOCS + uri


def in_site(path: str) -> str:
    return path.removeprefix(DOCS) if path.startswith(DOCS) else OUTSIDE + path
