# Zero-shot: nothing is trained, and tools/test.py needs no checkpoint.
_base_ = '../_base_/tasks/k400.py'
train_dataloader = train_cfg = optim_wrapper = param_scheduler = None
