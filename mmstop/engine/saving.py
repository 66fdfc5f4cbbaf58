"""Checkpoints that survive the death of the process that writes them."""

import errno
import fcntl
import hashlib
import os
import pickle
import re
import shutil
from bisect import bisect
from contextlib import suppress
from pathlib import Path
from typing import IO, Optional, Union

from mmengine.dist import is_main_process, master_only
from mmengine.fileio import BaseStorageBackend, LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import (
    CheckpointLoader,
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    Runner,
    save_checkpoint,
)

from mmstop.compat.checkpoints import own_name
from mmstop.errors import ConfigError, SaveError

__all__ = ['SafeBackend', 'SafeCheckpointHook', 'SaveError', 'lock_folder']

POINTER = 'last_checkpoint'


@register_backend('SafeBackend')
class SafeBackend(LocalBackend):
    """Local files that are either complete or absent, with deferred removal.

    A file is written next to its destination with ``.part`` appended to its name, made
    durable and renamed. Removed files stay until :meth:`remove_outdated` is called,
    once nothing points to them any more.
    """

    def __init__(self) -> None:
        self.outdated: list[str] = []

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write bytes to a file.

        Raises:
            SaveError: the file system refuses, for example because it is full.
        """
        path, part = Path(filepath), Path(f'{filepath}.part')
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open('wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise SaveError(_explain(path, len(obj), error)) from error
        with suppress(OSError):  # some network file systems do not support it
            _sync_folder(path.parent)

    def remove(self, filepath: Union[str, Path]) -> None:
        """Mark a file for removal."""
        self.outdated.append(str(filepath))

    def remove_outdated(self) -> None:
        """Remove the files marked so far; a missing file is not an error."""
        for path in self.outdated:
            Path(path).unlink(missing_ok=True)
        self.outdated.clear()


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: a rename is a change to the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(path: Path, size: int, error: OSError) -> str:
    left = 'an unknown number of'
    with suppress(OSError):
        left = f'{shutil.disk_usage(path.parent).free / 1e6:.1f}'
    return (
        f'{path} was not saved: {error.strerror or error}. It takes {size / 1e6:.1f} '
        f'MB and the file system has {left} MB left. What was saved before is whole: '
        f'make room (default_hooks.checkpoint.max_keep_ckpts=1 keeps less, '
        f'default_hooks.checkpoint.out_dir=... saves elsewhere) and go on with --resume'
    )


def lock_folder(folder: Union[str, Path]) -> Optional[IO]:
    """Keep other processes from training in a folder until the file is closed.

    The lock belongs to the process alone. It ends when the process ends, for whatever
    reason, and is not shared with data workers.

    Raises:
        ConfigError: another process holds the lock, or the folder is not writable.
    """
    path = Path(folder, 'training.lock')
    try:
        file = path.open('a')
    except OSError as error:
        raise ConfigError(
            f'work_dir={str(folder)!r} cannot be written: {error.strerror}; name '
            f'another with --work-dir'
        ) from None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise ConfigError(
                f'another training is running in work_dir={str(folder)!r}; wait for '
                f'its end, or name another folder with --work-dir'
            ) from None
        # Some network file systems have no locks.
    return file


class SafeCheckpointHook(CheckpointHook):
    """Save so that a run killed at any moment and resumed ends as if never killed.

    A checkpoint is written next to its destination and renamed once it is durable. Then
    ``last_checkpoint`` is updated to point to it. Then whatever it replaces is removed:
    an old checkpoint or the previous best one. If a validation follows, which changes
    the best score and may change a scheduler, the checkpoint is written after it; a run
    killed before that repeats the epoch. This applies to local folders; a remote store
    keeps MMEngine's order of writing and removing.

    A resumed run repeats an uninterrupted one bit for bit on one machine if training is
    epoch-based, every epoch is seeded (:class:`ReseedHook`) and checkpoints are saved
    by epoch. For MMEngine, an iteration-based loop is a single epoch. It resumes with
    the same data in the same order, but does not redraw the random numbers that the
    model and validations drew, so random transforms and dropout may differ.
    """

    file_backend: BaseStorageBackend
    _is_due = False  # a checkpoint is to be saved after the validation that follows
    _progress: Optional[dict] = None  # how far training is, for the checkpoint at hand
    _lock: Optional[IO] = None

    def before_train(self, runner: Runner) -> None:
        """Clean up after a killed run.

        Raises:
            ConfigError: another training is running in the same work directory.
        """
        if is_main_process():
            self._lock = lock_folder(runner.work_dir)
        super().before_train(runner)
        self.last_ckpt = runner.message_hub.get_info('last_ckpt')
        if type(self.file_backend) is LocalBackend:
            self.file_backend = SafeBackend()
            self.backend_args = dict(backend='SafeBackend')
            if is_main_process():
                self._clear_up(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Save the best checkpoint, and then the one that awaited this validation."""
        super().after_val_epoch(runner, metrics)  # saves both after a new best
        if self._is_due:
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            step = runner.epoch if self.by_epoch else runner.iter
            self._save_checkpoint_with_step(runner, step, meta)

    def after_train(self, runner: Runner) -> None:
        super().after_train(runner)
        if self._lock is not None:
            self._lock.close()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Record the training progress; ``FlexibleRunner`` counts an epoch twice."""
        checkpoint.setdefault('meta', {}).update(self._progress or {})

    def _clear_up(self, runner: Runner) -> None:
        """Remove what the hook of the killed run would have removed."""
        outdated = runner.message_hub.get_info('outdated_ckpts')
        for name in outdated if isinstance(outdated, list) else []:
            if own_name(self, name) == name:
                self.file_backend.remove(Path(self.out_dir, name))
        for folder in (self.out_dir, runner.work_dir):
            for part in Path(folder).glob('*.part'):
                whole = re.sub(r'-[0-9a-f]{8}(\.pth)$', r'\1', part.stem)
                if whole == POINTER or own_name(self, whole):
                    self.file_backend.remove(part)
        self.file_backend.remove_outdated()

    def _is_validated(self, runner: Runner) -> bool:
        """Tell whether the loop validates after the epoch or iteration that ends."""
        loop = runner.train_loop
        kind = EpochBasedTrainLoop if self.by_epoch else IterBasedTrainLoop
        if runner.val_loop is None or not isinstance(loop, kind):
            return False
        done, end = (
            (loop.epoch + 1, loop.max_epochs)
            if self.by_epoch
            else (loop.iter + 1, loop.max_iters)
        )
        number = bisect(loop.dynamic_milestones, done + 1)
        interval = loop.dynamic_intervals[number - 1]
        return done >= loop.val_begin and (done % interval == 0 or done == end)

    def _save_checkpoint(self, runner: Runner) -> None:
        self._is_due = self._is_validated(runner)
        if not self._is_due:
            super()._save_checkpoint(runner)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        self._progress = dict(epoch=runner.epoch, iter=runner.iter)
        super()._save_best_checkpoint(runner, metrics)
        self._progress = None
        if self.save_best and isinstance(self.file_backend, SafeBackend):
            self.file_backend.remove_outdated()  # no other checkpoint records it

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        self._is_due, self._progress = False, dict(meta)
        self._save_as(runner, step, meta)
        self._progress = None

    def _save_as(self, runner: Runner, step: int, meta: dict) -> None:
        if not isinstance(self.file_backend, SafeBackend):
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        self._remember(runner, step)
        hub = runner.message_hub
        hub.update_info('last_ckpt', self.last_ckpt)
        outdated = [Path(path).name for path in self.file_backend.outdated]
        hub.update_info('outdated_ckpts', outdated)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            pointer = Path(runner.work_dir, POINTER)
            self.file_backend.put(self.last_ckpt.encode(), pointer)
            self.file_backend.remove_outdated()

    def _remember(self, runner: Runner, step: int) -> None:
        """Record a checkpoint as one to keep, and the one that it replaces."""
        if self.max_keep_ckpts <= 0 or step in self.keep_ckpt_ids:
            return
        if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
            old = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            if is_main_process():
                self.file_backend.remove(self.file_backend.join_path(self.out_dir, old))
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    @master_only
    def _publish_model(self, runner: Runner, ckpt_path: str) -> None:
        """Save a checkpoint's published keys under a name that contains their hash."""
        checkpoint = CheckpointLoader.load_checkpoint(ckpt_path, map_location='cpu')
        keys = self.published_keys or ()
        published = {key: value for key, value in checkpoint.items() if key in keys}
        digest = hashlib.sha256(pickle.dumps(published)).hexdigest()[:8]
        path = f'{os.path.splitext(ckpt_path)[0]}-{digest}.pth'
        save_checkpoint(published, path, self.file_client_args, self.backend_args)
        runner.logger.info(f'{ckpt_path} is published as {path}')
