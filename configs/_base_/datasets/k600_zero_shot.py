# The classes of Kinetics-600 that Kinetics-400 lacks: the first of ViFi-CLIP's three
# lists of 160, to test on only. List and classes are from a copy of its repository, and
# its folders train, val and test hold the videos.
_base_ = 'recognition.py'
classes = 'data/kinetics600/vifi/ZS_split1_K600.csv'

test_dataloader = dict(
    dataset=dict(
        ann_file='data/kinetics600/vifi/ZS_split1_K600_eval.txt',
        data_prefix=dict(video='data/kinetics600'),
    )
)
