_base_ = ['stop_msrvtt.py', '_base_/methods/stop_authors.py']
model = dict(backbone={{_base_.authors}})
optim_wrapper = {{_base_.training}}
train_dataloader = dict(batch_size=32)  # 4 GPUs -> 128
