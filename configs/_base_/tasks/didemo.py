_base_ = [
    '../models/clip_retriever.py',
    '../datasets/didemo.py',
    '../schedules/paragraph_retrieval.py',
    '../retrieval_runtime.py',
]
