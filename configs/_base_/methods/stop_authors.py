# The options that bring STOP nearest to its authors' released code; docs/authors.md has
# a row for each, and for what no option brings back. Their scripts train at one rate
# and in mixed precision, which needs a GPU.
authors = dict(
    depth=1,  # prompts enter once, at the input
    alpha=0.0,  # no attention in the saliency
    beta=0.0,  # no extra weight of prompted patches
    selection='hard',  # the scorers stay at their initialisation
    normalize_variation='batch',
)
training = dict(type='AmpOptimWrapper', paramwise_cfg=None)
