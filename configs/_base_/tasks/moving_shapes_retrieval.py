_base_ = [
    '../models/moving_shapes_retriever.py',
    '../datasets/moving_shapes_retrieval.py',
    '../schedules/moving_shapes_retrieval.py',
    '../retrieval_runtime.py',
]
