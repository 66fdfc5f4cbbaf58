# Twenty captions a video make long epochs: five of them, as CLIP4Clip trains.
_base_ = 'adamw_cosine.py'
train_cfg = dict(max_epochs=5)
