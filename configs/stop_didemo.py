_base_ = ['_base_/tasks/didemo.py', '_base_/methods/stop.py']
model = dict(
    backbone=dict(_delete_=True, type='STOPCLIPViT', clip={{_base_.clip_vit}})
)
optim_wrapper = {{_base_.recipe}}
