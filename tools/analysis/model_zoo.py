"""Write the table of all configs, docs/model_zoo.md, and configs/metafile.yml for mim.

    python tools/analysis/model_zoo.py

Task, dataset, tower and number of trained parameters are read from the configs. Only
the paper's results are listed here, and in papers.py what the configs' names stand for.
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple, Optional

import yaml
from get_params import build, count
from mmengine.config import Config
from papers import COLLECTIONS, DATA_SETS, Collection
from variants import main_figure

import mmstop  # noqa: F401  registers modules

ROOT = Path(__file__).parents[2]
# Top-1 accuracy or text-to-video R@1 in %, from the paper's tables.
PAPER = {
    'stop_activitynet': 43.1,
    'stop_didemo': 47.5,
    'stop_hmdb51': 72.0,
    'stop_msrvtt': 47.7,
    'stop_ssv2': 21.4,
    'stop_ucf101': 95.3,
    'stop_vatex': 57.5,
}
# The same, measured with this repository, by config: 'seeds', and the 'rate' if chosen.
ABLATIONS = json.loads((ROOT / 'docs' / 'ablations.json').read_text())
COMPARISON = json.loads((ROOT / 'docs' / 'comparison.json').read_text())
COMPARED = {
    f'{method}_{data_set}': found
    for data_set, methods in COMPARISON['results'].items()
    for method, found in methods.items()
} | {
    name: {'seeds': rows['both']}
    for name, rows in ABLATIONS.items()
    if 'both' in rows and ' ' not in name  # not with --test-options
}
MEASURED = {
    name: round(mean(map(main_figure, found['seeds'].values())), 1)
    for name, found in COMPARED.items()
}
COUNTED: dict[str, int] = {}  # by the configs of both towers
METRICS = {'recognition': 'top-1', 'retrieval': 'R@1'}

HEAD = """\
# Model zoo

Every config of `configs/`, listed by `python tools/analysis/model_zoo.py`.

- *trained*: the trainable parameters, counted as
  [`tools/analysis/get_params.py`](../tools/analysis/get_params.py) does;
- *paper*: what the STOP paper reports, the target of the config; beside the first split
  only;
- *measured*: what was measured with this repository, the mean over the seeds of
  [Ablations](ablations.md) for STOP and of [Comparison](comparison.md) for all others,
  with the learning rate that was chosen there, where it is not the config's own;
  [Results](results.md) and [Methods](methods.md#compare-them) have the commands.

Figures are top-1 accuracy (recognition) or text-to-video recall at 1 (retrieval), in %.
No checkpoints are published. Where the package is installed without `-e`,
`mim search mmstop` lists the same.

| config | task | data set | method | tower | trained | paper | measured |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


class Entry(NamedTuple):
    """The facts about a config."""

    name: str
    path: str
    collection: Collection
    task: str
    data_set: str
    arch: str
    trained: int
    paper: Optional[float]
    measured: Optional[float]
    rate: Optional[str]  # with which it was measured, if not with the config's own


def main() -> None:
    entries = read_entries()
    for path, text in (
        ('docs/model_zoo.md', document(entries)),
        ('configs/metafile.yml', metafile(entries)),
    ):
        (ROOT / path).write_text(text)
        print(f'{path}: {len(entries)} configs')


def read_entries() -> list[Entry]:
    configs = sorted((ROOT / 'configs').rglob('*.py'))
    return [read_entry(path) for path in configs if '_base_' not in path.parts]


def read_entry(path: Path) -> Entry:
    cfg = Config.fromfile(path)
    rate = COMPARED.get(path.stem, {}).get('rate')
    if rate and float(rate) == cfg.optim_wrapper.optimizer.lr:
        rate = None
    data_set = max((d for d in DATA_SETS if path.stem.endswith(f'_{d}')), key=len)
    retrieves = cfg.model.type == 'CLIPRetriever'
    return Entry(
        name=path.stem,
        path=str(path.relative_to(ROOT)),
        collection=COLLECTIONS[path.stem.removesuffix(f'_{data_set}')],
        task='retrieval' if retrieves else 'recognition',
        data_set=DATA_SETS[data_set],
        arch=cfg.clip_vit.arch,
        trained=count_trained(cfg),
        paper=PAPER.get(path.stem),
        measured=MEASURED.get(path.stem),
        rate=rate,
    )


def count_trained(cfg: Config) -> int:
    """Count what trains, once for all data sets on which a method is the same."""
    text = cfg.model.text if 'text' in cfg.model else cfg.model.cls_head.text
    towers = f'{cfg.model.backbone} {text}'
    if towers not in COUNTED:
        COUNTED[towers] = count(build(cfg))['trainable']
    return COUNTED[towers]


def document(entries: list[Entry]) -> str:
    return HEAD + ''.join(
        f'| [`{e.name}`](../{e.path}) | {e.task} | {e.data_set} '
        f'| {e.collection.method} | `{e.arch}` | {e.trained:,} '
        f'| {figure(e, e.paper, "–")} | {figure(e, e.measured, "not measured")}'
        f'{f" at {e.rate}" if e.rate else ""} |\n'
        for e in entries
    )


def figure(entry: Entry, value: Optional[float], otherwise: str) -> str:
    return otherwise if value is None else f'{METRICS[entry.task]} {value}'


def metafile(entries: list[Entry]) -> str:
    """Write OpenMMLab's metafile.

    Only what was measured with a config's own learning rate counts as a result.
    """
    return yaml.safe_dump(
        dict(
            Collections=[
                dict(Name=c.name, Paper=dict(Title=c.title, URL=c.url))
                for c in COLLECTIONS.values()
            ],
            Models=[model(entry) for entry in entries],
        ),
        sort_keys=False,
    )


def model(entry: Entry) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        'Architecture': entry.arch,
        'Trained Parameters': entry.trained,
    }
    if entry.trained:
        metadata['Training Data'] = entry.data_set
    stated: dict[str, Any] = {
        'Name': entry.name,
        'In Collection': entry.collection.name,
        'Config': entry.path,
        'Metadata': metadata,
    }
    if entry.measured is not None and entry.rate is None:
        result = dict(Task=entry.task, Dataset=entry.data_set)
        metrics = {METRICS[entry.task]: entry.measured}
        stated['Results'] = [dict(result, Metrics=metrics)]
    return stated


if __name__ == '__main__':
    main()
