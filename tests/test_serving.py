"""The page of ``mmstop serve``: what it answers, what it gives out, how it looks alive.

The packaged CLIP knows the colours and shapes of Moving Shapes.
"""

import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import av
import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from tiny_run import ROOT, environment, write_tiny_retrieval, write_tiny_run

from mmstop import cli
from mmstop.apis import VideoCLIP, VideoIndex, update_index
from mmstop.apis.reading import VideoReader
from mmstop.serving import Desk, playable, server
from mmstop.serving.desk import split_labels
from mmstop.visualization import plot_trace, to_image, trace_video

sys.path.insert(0, str(ROOT / 'tools' / 'data'))
import moving_shapes as shapes  # noqa: E402

CLIP = '--arch ViT-moving-shapes --weights mmstop --num-frames 6 --device cpu'.split()
KINDS = ['red circle', 'green square', 'blue triangle', 'yellow star']
CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')


def write_shape(path, kind, fourcc='mp4v'):
    """Write a clip as OpenCV does, in a codec that browsers do not play."""
    colour, shape = kind.split()
    pair = shapes.SHAPES.index(shape), shapes.COLOURS.index(colour)
    scene, rng = shapes.scene_of(0, 'serve', 0, pair, 1)
    shapes.encode(path, shapes.render_clip(scene, rng))
