"""Caption files in MMAction2's retrieval format: {"video7.mp4": ["a caption", ...]}."""

import json
from pathlib import Path
from typing import Any, Union

from mmstop.errors import short

__all__ = ['AnnotationError', 'check_captions', 'load_captions', 'read_json']


class AnnotationError(ValueError):
    """An annotation file is invalid; the message names the file and the entry."""


def read_json(path: Union[str, Path]) -> Any:
    """Read a JSON file and reject the faults that ``json`` silently accepts.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: the file is not UTF-8 or not complete JSON, or it has a
            duplicate key or half a character (a lone surrogate).
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for key, value in pairs:
            if key in entries:
                raise AnnotationError(
                    f'{path}: {short(key)} occurs twice; join or remove one of the '
                    f'entries'
                )
            entries[key] = value
        return entries

    if not Path(path).is_file():
        raise FileNotFoundError(f'{path}: there is no such file')
    try:
        text = Path(path).read_text(encoding='utf-8-sig')
        content = json.loads(text, object_pairs_hook=unique)
        json.dumps(content, ensure_ascii=False).encode()  # fails for half a character
        return content
    except AnnotationError:
        raise
    except UnicodeEncodeError as error:
        raise AnnotationError(
            f'{path}: {error.object[max(0, error.start - 20) : error.end]!r} ends in '
            f'half a character, which no text can hold; correct the entry'
        ) from None
    except UnicodeDecodeError as error:
        raise AnnotationError(f'{path}: not UTF-8 ({error}); convert it') from None
    except (ValueError, RecursionError) as error:  # also raised by an endless number
        raise AnnotationError(
            f'{path}: not a whole JSON file ({error}); it may be cut short or another '
            f'kind of file, download it again'
        ) from None


def load_captions(path: Union[str, Path]) -> dict[str, list[str]]:
    """Read the captions of every video, in file order.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: the file or an entry is invalid.
    """
    captions = read_json(path)
    check_captions(captions, path)
    return captions


def check_captions(captions: Any, path: Union[str, Path]) -> None:
    """Check that every video has captions and no caption is empty.

    Args:
        captions: the content of ``path``, read from it or to be written to it.

    Raises:
        AnnotationError: for the first fault found.
    """
    if not isinstance(captions, dict) or not captions:
        raise AnnotationError(
            f'{path}: expected {{"video.mp4": ["caption", ...], ...}} with at least '
            f'one video, got {short(captions)}'
        )
    for video, texts in captions.items():
        if not isinstance(texts, list) or not texts:
            raise AnnotationError(
                f'{path}: {short(video)} has {short(texts)}, expected a list of at '
                f'least one caption; add it or remove the video'
            )
        for i, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise AnnotationError(
                    f'{path}: caption {i} of {short(video)} is {short(text)}, expected '
                    f'words; remove the caption'
                )
