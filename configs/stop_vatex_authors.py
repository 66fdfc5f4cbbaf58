_base_ = ['stop_vatex.py', '_base_/methods/stop_authors.py']
model = dict(backbone={{_base_.authors}})
optim_wrapper = {{_base_.training}}
