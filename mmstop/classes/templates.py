"""Sentences that stand for a class: one template, or an ensemble of several."""

from collections.abc import Sequence
from itertools import product
from typing import Union

from open_clip import OPENAI_IMAGENET_TEMPLATES

from mmstop.errors import ConfigError

__all__ = ['ENSEMBLES', 'TEMPLATE', 'list_templates', 'write_sentences']

TEMPLATE = 'a video of a person doing {}'

# Our own wording, four times seven. Papers on zero-shot recognition also use 28
# templates, whose words differ.
MEDIA = ('a video of', 'a short clip of', 'footage of', 'a frame from a film of')
ACTORS = (
    '{}',
    'somebody {}',
    'people {}',
    'the action {}',
    'somebody doing {}',
    'somebody busy with {}',
    'people taking part in {}',
)
ENSEMBLES: dict[str, tuple[str, ...]] = {
    # The 80 that CLIP's authors publish for ImageNet, so for things in images.
    'clip': tuple(template('{}') for template in OPENAI_IMAGENET_TEMPLATES),
    'video': tuple(f'{medium} {actor}' for medium, actor in product(MEDIA, ACTORS)),
}


def list_templates(template: Union[str, Sequence[str]]) -> list[str]:
    """List the M sentences with ``{}`` of one template, of several, or of an ensemble.

    Raises:
        ConfigError: there is none, one is given twice, or one does not have exactly one
            ``{}`` or has other braces.
    """
    if isinstance(template, str):
        templates = list(ENSEMBLES.get(template, [template]))
    else:
        templates = list(template)
    if not templates or len({*templates}) < len(templates):
        raise ConfigError(
            f'template={template!r}, expected one sentence with {{}} or several '
            f'different ones'
        )
    for one in templates:
        before, found, after = one.partition('{}')
        if not found:
            raise ConfigError(
                f"template={one!r} has no '{{}}' for the label, and the ensembles are "
                f'called {", ".join(ENSEMBLES)}'
            )
        if set('{}') & set(before + after):
            raise ConfigError(
                f"template={one!r} has braces other than one '{{}}' for the label; "
                f'remove them'
            )
    return templates


def write_sentences(
    template: Union[str, Sequence[str]], names: Sequence[str]
) -> list[str]:
    """Insert each name into each template at ``{}``.

    Args:
        template: as in :func:`list_templates`.
        names: K names.
    Returns:
        M x K sentences: those of all names for the first template come first.

    Raises:
        ConfigError: the template is invalid.
    """
    return [
        one.replace('{}', name) for one in list_templates(template) for name in names
    ]
