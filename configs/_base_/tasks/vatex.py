_base_ = [
    '../models/clip_retriever.py',
    '../datasets/vatex.py',
    '../schedules/retrieval.py',
    '../retrieval_runtime.py',
]
