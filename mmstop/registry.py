"""Registries shared with all OpenMMLab packages.

A module registered here is available as ``mmstop.Name`` in every scope, and as ``Name``
wherever MMEngine's root registry is searched, which is everywhere. If it were
registered with MMAction2 only, MMPretrain and plain MMEngine configs could not find it.
"""

from typing import Any, Optional, Union

from mmengine import registry as root
from mmengine.registry import Registry

__all__ = ['DATASETS', 'FUNCTIONS', 'HOOKS', 'METRICS', 'MODELS', 'TRANSFORMS']


class SharedRegistry(Registry):
    """A registry that also registers its modules with its parent, MMEngine's root."""

    def _register_module(
        self,
        module: Any,
        module_name: Optional[Union[str, list[str]]] = None,
        force: bool = False,
    ) -> None:
        super()._register_module(module, module_name, force)
        self.parent._register_module(module, module_name, force)


def _shared(parent: Registry, locations: list[str]) -> SharedRegistry:
    return SharedRegistry(
        parent.name, parent=parent, scope='mmstop', locations=locations
    )


MODELS = _shared(root.MODELS, ['mmstop.towers', 'mmstop.methods', 'mmstop.models'])
DATASETS = _shared(root.DATASETS, ['mmstop.datasets'])
TRANSFORMS = _shared(root.TRANSFORMS, ['mmstop.datasets'])
METRICS = _shared(root.METRICS, ['mmstop.evaluation'])
FUNCTIONS = _shared(root.FUNCTIONS, ['mmstop.engine'])
HOOKS = _shared(root.HOOKS, ['mmstop.engine', 'mmstop.visualization'])
