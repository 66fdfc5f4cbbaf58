"""The page of ``mmstop serve``: what it answers, gives out and refuses.

Its model is STOP around the packaged CLIP, with prompts that nobody trained: colours
and shapes of Moving Shapes are still told apart.
"""

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import av
import drawing
import moving_shapes as shapes
import numpy as np
import pytest
import torch
from tiny_run import ROOT, environment

import mmstop_cli as cli
from mmstop.apis import VideoCLIP, update_index
from mmstop.apis.model_loading import build_model, clip_config
from mmstop.apis.video_reading import VideoReader
from mmstop.visualization import plot_trace, to_image, trace_video

pytest.importorskip('streamlit', reason='the page needs the extra "serve"')
from streamlit.testing.v1 import AppTest  # noqa: E402
from streamlit.web.server.starlette.starlette_websocket import (  # noqa: E402
    is_host_allowed,
)

from mmstop.serving import Desk, playable, serve, server  # noqa: E402
from mmstop.serving.backend import split_labels  # noqa: E402
from mmstop.serving.markdown import as_code, as_text  # noqa: E402

KINDS = ['red circle', 'green square', 'blue triangle', 'yellow cross', 'white ring']
LABELS = ['a blue square', 'a red circle', 'a green ring']
CLIP = ['--arch', 'ViT-moving-shapes', '--weights', 'mmstop', '--device', 'cpu']
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Videos in ``videos``, their index, and the config and checkpoint of a model."""
    folder = tmp_path_factory.mktemp('serving')
    (folder / 'videos').mkdir()
    for kind in KINDS:
        colour, shape = kind.split()
        pair = drawing.SHAPES.index(shape), list(drawing.COLOURS).index(colour)
        scene, rng = shapes.scene_of(0, 'index', 8 * pair[0] + pair[1], pair, 1)
        frames = drawing.render_clip(scene, rng)
        shapes.encode(folder / 'videos' / f'{colour}_{shape}.mp4', frames)
    torch.manual_seed(0)
    cfg = clip_config('ViT-moving-shapes', 'mmstop', 6)
    cfg.model.backbone = dict(type='STOPCLIPViT', clip=cfg.model.backbone)
    cfg.dump(folder / 'stop.py')
    torch.save(build_model(cfg).state_dict(), folder / 'stop.pth')
    clip = VideoCLIP.from_config(folder / 'stop.py', folder / 'stop.pth', 'cpu')
    update_index(clip, folder / 'videos', folder / 'shapes.index')
    return folder


@pytest.fixture(scope='module')
def clip(folder):
    return VideoCLIP.from_config(folder / 'stop.py', folder / 'stop.pth', 'cpu')


@pytest.fixture(scope='module')
def desk(clip, folder):
    desk = Desk(clip, folder / 'shapes.index')
    yield desk
    desk.close()


# --- What it answers ----------------------------------------------------------------


def test_answers_as_the_model_does_to_many_at_once(clip, desk, folder):
    video = str(folder / 'videos' / 'red_circle.mp4')
    item = VideoReader(*clip.pipelines, [video])(0)
    drawn = to_image(plot_trace(trace_video(clip.model, item)))
    with ThreadPoolExecutor(4) as visitors:
        hits = [visitors.submit(desk.search, f'a {kind}', 3) for kind in KINDS]
        labels = visitors.submit(desk.classify, video, LABELS, 2)
        trace = visitors.submit(desk.trace, video)
    for kind, found in zip(KINDS, hits):
        assert found.result() == clip.search(
            f'a {kind}', folder / 'shapes.index', topk=3
        )
    assert hits[0].result()[0].path == video
    assert labels.result() == clip.classify(video, LABELS, topk=2)[0]
    assert labels.result()[0].label == 'a red circle'
    np.testing.assert_array_equal(trace.result(), drawn)


def test_labels_are_lines():
    assert split_labels(' a dog \n\na cat\r\na dog\n') == ['a dog', 'a cat']
    assert split_labels('a\x0cb\u2028c\x85d\re') == ['a\x0cb\u2028c\x85d', 'e']
    assert split_labels(' \n') == []


# --- What it gives out --------------------------------------------------------------


def read(path):
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = [frame.to_ndarray(format='rgb24') for frame in file.decode(stream)]
        return stream.codec_context.name, float(stream.average_rate), np.stack(frames)


def write(path, frames, codec, pixels='yuv420p'):
    with av.open(str(path), 'w') as file:
        stream = file.add_stream(codec, 10)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        file.mux(stream.encode())


def test_copies_what_browsers_do_not_play(folder, tmp_path):
    video, cache = tmp_path / 'a.mp4', tmp_path / 'sub' / 'cache'
    shutil.copy(folder / 'videos' / 'red_circle.mp4', video)
    codec, rate, frames = read(video)
    copy = playable(str(video), cache)
    got_codec, got_rate, got = read(copy)
    assert (codec, got_codec) == ('mpeg4', 'h264') and got_rate == rate
    assert got.shape == frames.shape
    assert abs(got.astype(int) - frames).mean() < 6  # of 255
    copy.write_bytes(b'kept')
    assert playable(str(video), cache) == copy and copy.read_bytes() == b'kept'
    shutil.copy(folder / 'videos' / 'green_square.mp4', video)  # changed
    assert read(playable(str(video), cache))[0] == 'h264'
    assert len(list(cache.iterdir())) == 2


def test_gives_out_what_browsers_play(tmp_path):
    frames = np.full((5, 32, 32, 3), 90, np.uint8)
    write(tmp_path / 'a.mp4', frames, 'libx264')
    for path in (tmp_path / 'a.mp4', ROOT / 'tests' / 'data' / 'grey.webm'):  # VP9
        assert playable(str(path), tmp_path / 'c') == path
    for name, pixels in (('444.mp4', 'yuv444p'), ('a.mkv', 'yuv420p')):
        write(tmp_path / name, frames, 'libx264', pixels)
    write(tmp_path / 'bare.h264', frames, 'libx264')
    (tmp_path / 'bare.h264').rename(tmp_path / 'bare.mp4')  # without a container
    for name in ('444.mp4', 'a.mkv', 'bare.mp4'):
        assert playable(str(tmp_path / name), tmp_path / 'c').parent == tmp_path / 'c'


def test_copies_are_upright_and_not_large(tmp_path):
    """A telephone held upright writes lying frames and how to turn them."""
    frames = np.zeros((3, 450, 1000, 3), np.uint8)
    frames[:, :, :500, 0] = 255  # the left half is red
    path = tmp_path / 'turned.mp4'
    write(path, frames, 'mpeg4')
    data = bytearray(path.read_bytes())
    place = data.index(b'tkhd') + 44  # of the matrix of the track
    turned = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], '>i4')
    data[place : place + 36] = turned.tobytes()  # a quarter, clockwise
    path.write_bytes(data)
    _, _, got = read(playable(str(path), tmp_path / 'c'))
    assert got.shape == (3, 640, 288, 3)
    assert got[:, :300, :, 0].min() > 200 and got[:, 340:, :, 0].max() < 50


def test_gives_out_videos_of_the_index_only(desk, folder, tmp_path):
    inside = folder / 'videos' / 'red_circle.mp4'
    assert desk.playable(str(inside)).parent == folder / 'shapes.index.clips'
    outside = tmp_path / 'secret.mp4'
    shutil.copy(inside, outside)
    dotted = f'{inside.parent}/../videos/red_circle.mp4'
    for path in (outside, dotted, folder / 'stop.pth', '/etc/passwd'):
        with pytest.raises(ValueError, match=f'{path} is not in the index'):
            desk.playable(str(path))


# --- What it refuses ----------------------------------------------------------------


def test_says_what_cannot_be_read(desk, tmp_path):
    bad, silent = tmp_path / 'bad.mp4', tmp_path / 'sound.mp4'
    bad.write_text('no video')
    with av.open(str(silent), 'w') as file:
        stream = file.add_stream('aac', 8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), 'f4'), 'fltp', 'mono')
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    with pytest.raises(ValueError, match='bad.mp4 cannot be shown: '):
        playable(str(bad), tmp_path)
    with pytest.raises(ValueError, match='sound.mp4 cannot be shown: it has no pict'):
        playable(str(silent), tmp_path)
    with pytest.raises(FileNotFoundError, match='none.mp4'):
        playable(str(tmp_path / 'none.mp4'), tmp_path)
    for ask in (
        lambda: desk.classify(str(bad), LABELS, 1),
        lambda: desk.trace(str(bad)),
    ):
        with pytest.raises(ValueError, match='the video cannot be read: '):
            ask()


def test_refuses_to_start(folder, monkeypatch, capsys):
    def fails(match, *argv):
        assert cli.main(['serve', *map(str, argv)]) == 2
        out, err = capsys.readouterr()
        assert match in err and out == ''

    index = folder / 'shapes.index'
    stop = ['--config', folder / 'stop.py', '--checkpoint', folder / 'stop.pth']
    fails('there is no such file; mmstop embed writes one', folder / 'none', *CLIP)
    fails('was made by', index, *CLIP)
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        fails(f'cannot listen on 127.0.0.1:{port} (', index, *stop, '--port', port)
    fails('cannot listen on 127.0.0.1:99999 (', index, *stop, '--port', 99999)
    monkeypatch.setattr('mmstop_cli.serve.find_spec', lambda name: None)
    fails("needs streamlit and av: pip install 'mmstop[serve]'", index, *CLIP)


# --- The page -----------------------------------------------------------------------


@pytest.fixture
def page(desk, monkeypatch):
    monkeypatch.setattr(server, '_desk', desk)
    return AppTest.from_file(str(server.PAGE), default_timeout=120).run()


def markdown(page):
    return [element.value for element in page.markdown]


def test_page_ranks_clips(page, desk):
    assert markdown(page) == []
    page.number_input[0].set_value(2)
    page.text_input[0].input('a red circle').run()
    assert markdown(page) == ['**1.** `red_circle.mp4`', '**2.** `green_square.mp4`']
    scores = [f'cosine {hit.score:.3f}' for hit in desk.search('a red circle', 2)]
    assert [element.value for element in page.caption][1:] == scores
    page.text_input[0].input('red ' * 1000).run()
    assert 'tokens' in page.error[0].value and markdown(page) == []
    assert not page.exception


def test_page_warns_of_a_clip_that_is_gone(page, folder):
    video = folder / 'videos' / 'white_ring.mp4'
    away = video.rename(folder / 'away.mp4')
    page.text_input[0].input('a white ring').run()
    away.rename(video)
    assert 'white_ring.mp4' in page.warning[0].value and len(markdown(page)) == 5
    assert not page.exception


def test_page_names_a_dropped_video(page, desk, folder, monkeypatch):
    def drop(page, name, data):
        return page.file_uploader[0].set_value((name, data, 'video/mp4')).run()

    def elements(kind):
        return [element.proto for element in page.get(kind)]

    data = (folder / 'videos' / 'red_circle.mp4').read_bytes()
    drop(page, '../red_circle.mp4', data)
    assert 'no classes of its own' in page.info[0].value
    page.text_area[0].input('\n'.join(LABELS)).run()
    found = desk.classify(str(folder / 'videos' / 'red_circle.mp4'), LABELS, 5)
    assert [bar.text for bar in elements('progress')] == [
        f'`{p.label}` {p.score:.1%}' for p in found
    ]
    assert len(elements('image')) == 1
    monkeypatch.setattr(Desk, 'draws', False)
    page.run()
    assert len(elements('progress')) == 3 and not elements('image')
    drop(page, 'bad.mp4', b'no video')
    assert page.error[0].value.startswith('bad.mp4 cannot be shown: ')
    assert not page.exception


NAMES = [
    'plain_name.mp4',
    '`',
    '``a` b',
    ' ![x](http://host/y) <b>*bold*</b> :red[z] _a_ __b__ $x$ ~~s~~ # | :smile:',
    '\\`[a]: http://host',
]


@pytest.mark.parametrize('name', NAMES)
def test_markdown_shows_names_as_they_are(name):
    (quoted,) = parse(as_code(name))
    assert (quoted.type, quoted.content) == ('code_inline', name)
    parts = parse(as_text(name))
    assert {part.type for part in parts} <= {'text', 'text_special'}
    assert ''.join(part.content for part in parts) == name.strip()
    assert not re.search(r'(?<!\\):\w', as_text(name))  # Streamlit's own markup


def parse(text):
    """Return what is in the one paragraph of a Markdown text."""
    markdown = pytest.importorskip('markdown_it').MarkdownIt('gfm-like', LINKIFY)
    _, inline, _ = markdown.disable('text_join').parse(text)
    return [part for part in inline.children if part.content]


LINKIFY = {'linkify': False}


def test_what_cannot_be_printed_is_written_out():
    assert as_code('a\n\x1b[2J\u202e\udcff') == r'`a\n\x1b[2J\u202e\udcff`'
    assert as_text('a\nb') == r'a\\nb'


def test_page_survives_any_upload(page, tmp_path):
    write(tmp_path / 'a.m4v', np.full((5, 64, 64, 3), 90, np.uint8), 'mpeg4')
    page.text_area[0].input('\n'.join(LABELS)).run()
    stream = (tmp_path / 'a.m4v').read_bytes()
    write(tmp_path / 'a.h264', np.full((5, 64, 64, 3), 90, np.uint8), 'libx264')
    bare = (tmp_path / 'a.h264').read_bytes()
    for name, data in (
        ('stream.mp4', stream),
        ('bare.mp4', bare),
        ('empty.mp4', b''),
        ('list.mp4', b'#EXTM3U\n/etc/passwd\n'),
        ('`*`\x1b.mp4', b'a text'),
    ):
        page.file_uploader[0].set_value((name, data, 'video/mp4')).run()
        assert not page.exception
        shown = len(page.get('progress'))
        if data is stream:
            assert shown == 3
        elif data is not bare:  # which some decoders read
            assert shown == 0 and as_text(name) in page.error[0].value


def test_page_survives_a_decoder_that_does_not(page, folder, monkeypatch):
    monkeypatch.setattr('mmstop.serving.browser._plays', kill)
    page.text_area[0].input('\n'.join(LABELS)).run()
    data = (folder / 'videos' / 'red_circle.mp4').read_bytes()
    page.file_uploader[0].set_value(('a.mp4', data, 'video/mp4')).run()
    message = 'a.mp4 cannot be shown: the decoder crashed (SIGKILL)'
    assert page.error[0].value == message and not page.exception


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_desk_survives_a_decoder_that_does_not(desk, folder, monkeypatch):
    monkeypatch.setattr('mmstop.datasets.loading.VideoFile', kill)
    video = str(folder / 'videos' / 'red_circle.mp4')
    for ask in (lambda: desk.classify(video, LABELS, 1), lambda: desk.trace(video)):
        with pytest.raises(ValueError, match=r'cannot be read: the decoder crashed \('):
            ask()


def test_other_names_of_the_page_are_refused(desk, monkeypatch):
    monkeypatch.setattr('streamlit.web.bootstrap.run', lambda *_: None)
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]

    def answers(host, *names):
        serve(desk, host, port, names)
        asked = ['localhost', '127.0.0.1', '[::1]', socket.gethostname(), 'page.test']
        return [is_host_allowed(f'{name}:{port}') for name in asked]

    assert answers('127.0.0.1') == [True, True, True, False, False]
    assert answers('0.0.0.0') == [True, True, True, True, False]
    assert answers('127.0.0.1', 'page.test') == [True, True, True, False, True]


# --- In a browser -------------------------------------------------------------------


def wait_until_up(port):
    for _ in range(600):
        with socket.socket() as client:
            if client.connect_ex(('127.0.0.1', port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError('the page is not up after a minute')


@pytest.fixture
def address(folder):
    """The page's, served by a process of its own."""
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'mmstop', 'serve', folder / 'shapes.index']
    command += ['--config', folder / 'stop.py', '--checkpoint', folder / 'stop.pth']
    command += ['--device', 'cpu', '--port', port]
    with subprocess.Popen(
        [str(part) for part in command],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            address = process.stdout.readline().strip()
            assert address == f'http://127.0.0.1:{port}'
            wait_until_up(port)
            yield address
        finally:
            process.stdout.close()  # as a caller does that needs the address only
            process.terminate()
            try:
                status = process.wait(180)
            finally:
                process.kill()
    assert status == 0


@pytest.fixture
def browser():
    api = pytest.importorskip('playwright.sync_api', reason='needs playwright')
    if CHROMIUM is None:
        pytest.skip('needs the program chromium or google-chrome')
    with api.sync_playwright() as playwright:
        # Chromium's sandbox refuses to run as root, as containers do.
        yield playwright.chromium.launch(
            executable_path=CHROMIUM, args=['--no-sandbox']
        )


def shake_hands(address, host):
    """Open the page's stream, as a browser that calls it by this name does."""
    port = int(address.rpartition(':')[2])
    client = http.client.HTTPConnection('127.0.0.1', port)
    client.request(
        'GET',
        '/_stcore/stream',
        headers={
            'Host': f'{host}:{port}',
            'Origin': f'http://{host}:{port}',
            'Connection': 'Upgrade',
            'Upgrade': 'websocket',
            'Sec-WebSocket-Version': '13',
            'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
        },
    )
    return client.getresponse().status


@pytest.mark.slow
def test_a_strangers_name_gets_no_stream(address):
    """It may be pointed at this machine, so that a page of theirs may ask this one."""
    assert shake_hands(address, '127.0.0.1') == 101
    assert shake_hands(address, 'stranger.test') == 403


@pytest.mark.slow
def test_in_a_browser(address, browser, folder):
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.goto(address)
    sentence = page.get_by_label('Sentence')
    sentence.fill('a red circle')
    sentence.press('Enter')
    page.locator('video').nth(4).wait_for()
    assert page.locator('code').all_inner_texts()[1] == 'red_circle.mp4'
    first = page.locator('video').first
    first.evaluate('video => video.play()')
    page.wait_for_function('document.querySelector("video").ended')
    assert first.evaluate('video => video.duration') == pytest.approx(2, abs=0.2)

    page.get_by_role('tab', name='Your own video').click()
    labels = page.get_by_role('textbox', name='Labels, one per line')
    labels.fill('\n'.join(LABELS))
    labels.press('Control+Enter')
    video = folder / 'videos' / 'red_circle.mp4'
    page.locator('input[type=file]').set_input_files(video)
    bar = page.get_by_test_id('stProgress').first
    bar.wait_for()
    assert bar.inner_text().startswith('a red circle ')
    picture = page.get_by_test_id('stImage').locator('img')
    picture.wait_for()
    page.wait_for_function('document.querySelector("img").naturalWidth > 600')

    # Nothing but what was shown has an address.
    shown = first.get_attribute('src')
    assert urllib.request.urlopen(shown).status == 200
    for path in (
        f'media/..%2f..%2f..%2f{video}',
        f'media/{video}',
        f'{video}',
        'app/static/../../apis/index.py',
        'media/../../../../etc/passwd',
    ):
        try:
            body = urllib.request.urlopen(f'{address}/{path}').read()
        except urllib.error.HTTPError as error:
            assert error.code in (400, 403, 404)
        else:  # the page itself, for what it takes to be one of its own
            assert b'<title>Streamlit</title>' in body
