"""The page; Streamlit runs it for every visitor and after every change."""

import mimetypes
import tempfile
from pathlib import Path

import streamlit as st

from mmstop.apis import Hit
from mmstop.apis.sources import SUFFIXES
from mmstop.serving.backend import Desk, split_labels
from mmstop.serving.browser import playable
from mmstop.serving.markdown import as_code, as_text
from mmstop.serving.server import served

COLUMNS = 3
TOPK = 5  # labels of an uploaded video


def show(desk: Desk) -> None:
    """Show the two tabs of the page."""
    st.set_page_config('mmstop', layout='wide')
    st.title('Ask about videos')
    st.caption(
        f'{len(desk)} videos in the index, embedded by {as_code(desk.clip.name)}'
    )
    search, ask = st.tabs(['Search', 'Your own video'])
    with search:
        show_search(desk)
    with ask:
        show_question(desk)


@st.fragment
def show_search(desk: Desk) -> None:
    """Show the clips that match a sentence best."""
    sentence, number = st.columns([5, 1])
    query = sentence.text_input(
        'Sentence', placeholder='describe the clips, then press Enter'
    )
    topk = number.number_input('Clips', min_value=1, max_value=60, value=6)
    if not query.strip():
        return
    try:
        hits = desk.search(query, topk)
    except ValueError as error:
        st.error(as_text(str(error)))
        return
    for start in range(0, len(hits), COLUMNS):
        cells = st.columns(COLUMNS)
        for i, (cell, hit) in enumerate(zip(cells, hits[start:]), start + 1):
            with cell.container(border=True):
                show_hit(desk, i, hit)


def show_hit(desk: Desk, rank: int, hit: Hit) -> None:
    """Show a clip with its rank, its name and its score."""
    path = Path(hit.path)
    st.markdown(f'**{rank}.** {as_code(path.name)}', help=as_code(hit.path))
    try:
        with st.spinner('Preparing the clip'):
            show_video(desk.playable(hit.path))
    except (OSError, ValueError) as error:
        st.warning(as_text(str(error)))
    st.caption(f'cosine {hit.score:.3f}')


def show_video(path: Path) -> None:
    """Send a file to the browser, under a name that Streamlit chooses."""
    st.video(str(path), format=mimetypes.guess_type(path)[0] or 'video/mp4')


@st.fragment
def show_question(desk: Desk) -> None:
    """Let the visitor upload a video, and classify it."""
    asked, shown, named = st.columns(3)
    with asked:
        file = st.file_uploader('Video', type=sorted(SUFFIXES))
        labels = split_labels(
            st.text_area(
                'Labels, one per line',
                placeholder='opening a door\nclosing a door',
                help='Control + Enter applies them.',
                height=150,
            )
        )
        if desk.classes:
            st.caption(f'Empty: the {len(desk.classes)} classes of the config.')
    if file is None:
        return
    if not (labels or desk.classes):
        shown.info('Enter some labels: this model has no classes of its own.')
        return
    # The visitor chose the name, so only its suffix is used.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f'video{Path(file.name).suffix.lower()}'
        path.write_bytes(file.getbuffer())
        try:
            with shown, st.spinner('Preparing the video'):
                show_video(playable(str(path), path.parent))
            with named:
                show_labels(desk, path, labels)
            if desk.draws:
                show_trace(desk, path)
        except (OSError, ValueError) as error:
            named.error(as_text(str(error).replace(str(path), file.name)))


def show_labels(desk: Desk, path: Path, labels: list[str]) -> None:
    """Show the most likely labels of a video as bars."""
    with st.spinner('Watching the video'):
        found = desk.classify(str(path), labels, TOPK)
    for label, score in found:
        st.progress(score, text=f'{as_code(label)} {score:.1%}')


def show_trace(desk: Desk, path: Path) -> None:
    """Show what STOP attended to and prompted."""
    with st.spinner('Drawing what STOP looked at'):
        picture = desk.trace(str(path))
    st.subheader('What STOP looked at and prompted')
    st.image(picture)


if __name__ == '__main__':
    show(served())
