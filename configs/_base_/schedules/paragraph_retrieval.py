_base_ = 'adamw_cosine.py'
train_cfg = dict(max_epochs=20)
auto_scale_lr = dict(base_batch_size=64)  # 8 GPUs x 8 videos
