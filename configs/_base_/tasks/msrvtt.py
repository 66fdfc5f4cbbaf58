_base_ = [
    '../models/clip_retriever.py',
    '../datasets/msrvtt.py',
    '../schedules/retrieval.py',
    '../retrieval_runtime.py',
]
