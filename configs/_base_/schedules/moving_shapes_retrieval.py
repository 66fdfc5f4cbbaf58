_base_ = 'moving_shapes.py'
