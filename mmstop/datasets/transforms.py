"""Caption transforms for MMAction2's pipelines."""

import re

import open_clip
from mmcv.transforms import BaseTransform

from mmstop.architectures import resolve_arch
from mmstop.errors import ConfigError, typed
from mmstop.registry import TRANSFORMS

__all__ = ['CaptionTokenize', 'MirrorCaption']


@TRANSFORMS.register_module()
class CaptionTokenize(BaseTransform):
    """Turn captions into token ids of a fixed length.

    ``text``, one caption or a list of k, becomes an int64 tensor (L,) or (k, L) with
    L = ``max_tokens``: start token, words, end token, zeros. A longer caption is
    truncated at a token boundary. It keeps its end token, where CLIP reads the
    embedding.

    Args:
        arch: architecture whose tokenizer to use, as in ``CLIPText``.
        max_tokens: L, at least 3 and at most the text tower's context length.

    Raises:
        ConfigError: ``arch`` is unknown or ``max_tokens`` is out of range.
    """

    @typed
    def __init__(self, arch: str = 'ViT-B-32-quickgelu', max_tokens: int = 32) -> None:
        self.tokenizer = open_clip.get_tokenizer(resolve_arch(arch))
        room = self.tokenizer.context_length
        if not 3 <= max_tokens <= room:
            raise ConfigError(
                f'max_tokens={max_tokens}, expected 3 to {room}, the context length '
                f'of {arch}'
            )
        self.max_tokens = max_tokens

    def transform(self, results: dict) -> dict:
        """Tokenise ``results['text']``."""
        text = results['text']
        ids = self.tokenizer(text, context_length=self.max_tokens)
        results['text'] = ids[0] if isinstance(text, str) else ids
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(max_tokens={self.max_tokens})'


@TRANSFORMS.register_module()
class MirrorCaption(BaseTransform):
    """Swap words of the captions if the preceding ``Flip`` mirrored the frames.

    'a ball rolls to the left' is wrong for the mirrored video, 'to the right' is right.

    Args:
        words: replacement of each whole word or phrase. Case is ignored, as in CLIP.

    Raises:
        ConfigError: ``words`` is empty or contains an empty word.
    """

    @typed
    def __init__(self, words: dict[str, str]) -> None:
        if not words or '' in words:
            raise ConfigError(
                f'words={words}, expected words and their replacements, such as '
                f"dict(left='right', right='left')"
            )
        self.words = {word.lower(): other for word, other in words.items()}
        longest_first = sorted(map(re.escape, self.words), key=len, reverse=True)
        self.pattern = re.compile(
            rf'(?<!\w)({"|".join(longest_first)})(?!\w)', re.IGNORECASE
        )

    def transform(self, results: dict) -> dict:
        """Rewrite ``results['text']`` if ``results['flip']``."""
        if results['flip']:
            text = results['text']
            several = isinstance(text, list)
            results['text'] = (
                list(map(self._swap, text)) if several else self._swap(text)
            )
        return results

    def _swap(self, text: str) -> str:
        return self.pattern.sub(lambda match: self.words[match[0].lower()], text)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(words={self.words})'
