"""The documentation: the site, the table of configs, and the code on its pages."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from statistics import mean

import compare_report
import make_layout
import make_pictures
import model_zoo
import pytest
import scale
import torch
import yaml
from modelindex.load_model_index import load as load_model_index
from own_configs import CONFIGS
from pages import ROOT, code_of

PAGES = [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')]


def test_layout_shows_every_module_with_its_first_line():
    text = (ROOT / 'docs' / 'layout.md').read_text()
    assert text == make_layout.page(), 'run python tools/docs/make_layout.py'


# --- The model zoo ------------------------------------------------------------------


@pytest.mark.slow
def test_table_lists_the_configs_that_exist():
    entries = model_zoo.read_entries()
    text = (ROOT / 'docs' / 'model_zoo.md').read_text()
    assert re.findall(r'^\| \[`(\w+)`\]', text, re.M) == [*CONFIGS]
    remedy = 'run python tools/analysis/model_zoo.py'
    assert text == model_zoo.document(entries), remedy
    metafile = (ROOT / 'configs' / 'metafile.yml').read_text()
    assert metafile == model_zoo.metafile(entries), remedy


def test_index_of_mim_lists_the_configs_that_exist():
    index = load_model_index(str(ROOT / 'model-index.yml'))
    assert [model.name for model in index.models] == [*CONFIGS]
    for model in index.models:
        assert ROOT / model.config == CONFIGS[model.name]
    measured = {
        model.name: dict(result.metrics)
        for model in index.models
        for result in model.results or ()
    }
    assert measured['clip_moving_shapes'] == {'top-1': 12.0}
    text = (ROOT / 'docs' / 'model_zoo.md').read_text()
    rows = re.findall(r'^\| \[`(\w+)`.*\| (\S+) (\S+)( at \S+)? \|$', text, re.M)
    figures = {name: {m: float(x)} for name, m, x, at in rows if m != 'not' and not at}
    assert measured == figures, 'with the own learning rate'
    assert len(rows) > len(measured) and 'bias_moving_shapes' in measured
    at = {name: rate for name, _, _, rate in rows}
    for name, found in model_zoo.COMPARED.items():
        assert at[name] in ('', f' at {found.get("rate")}')


def test_figures_are_those_of_the_readme_and_the_results():
    readme = (ROOT / 'README.md').read_text()
    results = (ROOT / 'docs' / 'results.md').read_text()
    paper = {name.removeprefix('stop_'): x for name, x in model_zoo.PAPER.items()}
    recognition = [paper[name] for name in ('hmdb51', 'ucf101', 'ssv2')]
    assert '| both | {} | {} | {} |'.format(*recognition) in results
    for name, title in (
        ('msrvtt', 'MSR-VTT'),
        ('activitynet', 'ActivityNet'),
        ('didemo', 'DiDeMo'),
        ('vatex', 'VATEX'),
    ):
        assert f'| {title} | {paper[name]} ' in results
    ours = model_zoo.MEASURED
    assert f'frozen CLIP   {ours["clip_moving_shapes"]} %' in readme
    for name, row in (('clip', 'frozen CLIP, zero-shot'), ('stop', 'STOP')):
        figure = ours[f'{name}_moving_shapes_retrieval']
        assert f'| {row} | {figure} | ' in results


def test_readme_is_a_front_page():
    """It is read in minutes, and its table has the means of the ablation's runs."""
    readme = (ROOT / 'README.md').read_text()
    assert len(re.sub(r'^\|.*', '', readme, flags=re.M).split()) <= 800
    results = (ROOT / 'docs' / 'results.md').read_text()
    found = json.loads((ROOT / 'docs' / 'ablations.json').read_text())
    targets = json.loads((ROOT / 'configs' / 'targets.json').read_text())
    for row, paper in targets['tables']['table4']['rows'].items():
        ours = [
            f'{100 * mean(run["acc/top1"] for run in found[name][row].values()):.1f}'
            for name in (
                'stop_moving_shapes',
                'stop_shapes_distractors',
                'stop_shapes_tempo',
            )
        ]
        theirs = [str(paper[name][0]) for name in ('hmdb51', 'ucf101', 'ssv2')]
        assert f'| {" | ".join([row, *ours, *theirs])} |' in readme
        assert f'| {" | ".join([row, *ours])} |' in results
        assert f'| {" | ".join([row, *theirs])} |' in results


@pytest.mark.parametrize('page', ['README.md', 'docs/speed.md'])
def test_table_of_methods_is_that_of_the_comparison(page):
    found = json.loads((ROOT / 'docs' / 'comparison.json').read_text())
    table = compare_report.overview(found)
    remedy = 'run tools/analysis/compare_report.py with --overview'
    assert f'\n{table}\n' in (ROOT / page).read_text(), remedy


def test_methods_train_as_many_parameters_as_their_overview_says():
    """Metadata counts the MSR-VTT configs, which have 12 frames."""
    metafile = yaml.safe_load((ROOT / 'configs' / 'metafile.yml').read_text())
    trained = {
        model['Name'].removesuffix('_msrvtt'): model['Metadata']['Trained Parameters']
        for model in metafile['Models']
        if model['Name'].endswith('_msrvtt')
    }
    page = (ROOT / 'docs' / 'methods.md').read_text()
    rows = re.findall(
        r'^\| \[.*\| ([\d,]+) \|[^|]*\| `(?:\w+/)?(\w+)_\*` \|$', page, re.M
    )
    assert {name: int(figure.replace(',', '')) for figure, name in rows} == trained


def test_scale_follows_from_what_was_measured():
    units, index = (
        json.loads((ROOT / 'docs' / name).read_text())
        for name in ('scale.json', 'index.json')
    )
    page = (ROOT / 'docs' / 'scale.md').read_text()
    assert scale.estimate(units, index) in page, 'run tools/analysis/scale.py table'


def test_scale_multiplies_and_rounds_machines_up():
    units = dict(decode_s=3.6, forward_s=7.2, gmacs=5e4, index_bytes=2500.0)
    found = dict(write_s=36.0, prepare_s=18.0, fast_text_s=0.01, exact_s=0.1)
    index = dict(rows=10**6, cpus=2, mmstop=dict(found, memory_mb=80.0))
    lines = scale.estimate(units, index).splitlines()[2:]
    table = {name: rest for name, *rest in (row[2:-2].split(' | ') for row in lines)}
    assert table['decode, core hours'] == ['1,000', '100,000', '1,000,000']
    # 3000 hours on 64 cores are 46.9; a week has 168.
    assert table['machines to do both in a week'] == ['1', '28', '280']
    # A video takes 100 TFLOP, so a second; 8 GPUs are faster than 64 cores.
    assert table['embed on GPUs, GPU hours *'] == ['280', '28,000', '280,000']
    assert table['machines with GPUs to do both in a day *'] == ['2', '145', '1,447']
    assert table['prepare fast search, core hours'] == ['0.01', '1', '10']
    assert table['fast search on a machine, seconds'] == ['0.01', '0.016', '0.16']


# --- The code on the pages ----------------------------------------------------------


def test_new_method_trains_as_many_parameters_as_its_page_says(tmp_path):
    """Lay the page's two files where it says and count, in a process of its own."""
    shutil.copytree(ROOT / 'configs' / '_base_', tmp_path / 'configs' / '_base_')
    module, config = code_of('new_method.md')
    (tmp_path / 'adapter.py').write_text(module)
    (tmp_path / 'configs' / 'adapter_ssv2.py').write_text(config)
    tool = ROOT / 'tools' / 'analysis' / 'get_params.py'
    counted = subprocess.run(
        [sys.executable, tool, 'configs/adapter_ssv2.py'],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': f'{tmp_path}:{ROOT}'},
        capture_output=True,
        text=True,
    )
    (count,) = re.findall(r'\| all \| ([\d,]+) ', counted.stdout) or [counted.stderr]
    page = (ROOT / 'docs' / 'new_method.md').read_text()
    assert f'adapter_ssv2.py    # {count} trainable parameters' in page


# --- The pictures -------------------------------------------------------------------


def test_halted_video_repeats_its_first_frame_through_the_first_half():
    video = torch.arange(6).view(1, 1, 6, 1, 1)
    item = dict(inputs=video, data_samples=None)
    halted = make_pictures.halt(item)['inputs']
    assert halted.flatten().tolist() == [0, 0, 0, 3, 4, 5]
    assert video.flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_pictures_are_small():
    pictures = list((ROOT / 'docs' / 'pictures').glob('*.png'))
    assert len(pictures) == 4
    assert all(path.stat().st_size < 300_000 for path in pictures)


# --- The site -----------------------------------------------------------------------


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_work_in_the_repository(page):
    text = re.sub(r'^```.*?^```$', '', page.read_text(), flags=re.M | re.S)
    for target in re.findall(r'\]\((?!https?:|#)([^)#\s]+)', text):
        assert (page.parent / target).is_file(), target


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    pytest.importorskip('mkdocs', reason='make docs installs it')
    pytest.importorskip('mkdocstrings', reason='make docs installs it')
    out = tmp_path_factory.mktemp('site')
    build = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', out]
    result = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return out


def test_site_fetches_nothing(site):
    fetched = re.compile(
        r'<(?:script|img|link|iframe)[^>]+(?:src|href)="?(https?:[^">]+)'
    )
    for page in site.rglob('*.html'):
        assert not fetched.findall(page.read_text()), page


def test_links_out_of_docs_work_in_the_site(site):
    page = site / 'reliability' / 'index.html'
    (link,) = re.findall(r'href="([^"]+distributed\.py)"', page.read_text())
    source = ROOT / 'mmstop' / 'compat' / 'distributed.py'
    assert (page.parent / link).read_text() == source.read_text()
    readme = (site / 'repository' / 'index.html').read_text()
    assert 'href="../own_videos/"' in readme
    assert 'src="../pictures/overview.png"' in readme


@pytest.mark.parametrize(
    'package',
    'towers methods models datasets evaluation engine apis visualization'.split(),
)
def test_reference_has_all_that_is_public(site, package):
    text = (site / 'api' / 'index.html').read_text()
    module = import_module(f'mmstop.{package}')
    for name in module.__all__:
        if getattr(module, name).__module__.startswith('mmstop.'):
            assert f'id="mmstop.{package}.{name}"' in text, name
    assert not re.search(r':(class|func|meth|mod|data):', text)
