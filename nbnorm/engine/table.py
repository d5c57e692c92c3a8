"""Numbers by which compiled code finds what it needs: columns of the table of layers, and places in arrays.

`nbnorm.engine.run` fills these arrays.
"""

from __future__ import annotations

import numpy as np

from nbnorm.engine.gather import READS
from nbnorm.engine.microkernels import tile

# Columns of the table `net`, which describes one layer in each row; row 0 is the input.
(
    SIZE,  # features
    PAD,  # features rounded up to whole tiles
    Y,  # offset in act: what batch norm reads (f(z) or z), or the only value without batch norm
    Z,  # offset in act: what f' is computed from: the value of f, or its argument
    V,  # offset in act: the layer's result before dropout
    A,  # offset in act: what the next layer reads; for the output the workspace of the loss
    G,  # offset in act: gradient, first with respect to A, then to z
    T,  # offset in act: gradient with respect to z with the outputs side by side
    W,  # offset in weight
    BIAS,  # offset in vector
    GAMMA,
    BETA,
    STAT,  # offset in running, saved
    NORM,
    FUSED,  # whether f is computed together with batch norm
    THRESHOLD,  # probability of dropout, in units of 2**-32
    ACTIVATE,  # addresses of the row kernels
    DERIVE,
    STATISTICS,
    NORMALIZE,
    BACKWARD,
    COLUMNS,
) = range(22)

NORMS = {None: 0, "after": 1, "before": 2}
NO_NORM, AFTER, BEFORE = 0, 1, 2

# Places in `control` (int64), behind those that `nbnorm.engine.gather` reads.
(
    STEP,  # next step of the epoch
    LAST,  # step before which to return
    STOP,  # set from outside: return before the next step
    HALT,  # set inside: what thread 0 made of STOP and DIVERGED, the same for all threads
    DIVERGED,  # set inside: the loss is not finite
    SAMPLES,  # samples of an epoch
    BATCH,  # samples of the largest mini-batch
    STEPS,  # steps of the epoch, in batches whose sizes differ by at most one
    LAYERS,  # hidden layers and the output
    TRAINING,  # statistics of the mini-batch, or the moving averages
    MODE,  # one of the modes below
    UPDATE,  # what becomes of a gradient: one of the updates below
    CLIPPED,  # whether gradients are bounded before an update of its own
    UNBIASED,
    SPREAD,  # moving average of the variance (0) or of the standard deviation (1)
    PADDED,  # samples of a batch rounded up to whole blocks
    ZEROS,  # offset in vector of zeros
    WEIGHTS,  # offset in act of the samples' weights
    WEIGHTED,  # whether samples have weights
    WEIGHTED_STATISTICS,  # whether these enter the statistics of batch norm
    KEY,  # of the random numbers of dropout in this epoch
    UPDATES,  # updates that the optimizer has made
    CONTROLS,
) = range(READS, READS + 23)

TRAIN, GRADIENTS, FORWARD = 0, 1, 2
STORE, SGD_UPDATE, ADAM = 0, 1, 2

# Places in `hyper` (float64); the first belong to the optimizer.
(
    FIRST,
    SECOND,
    ROOT_LEAST,
    NESTEROV,
    WEIGHT_DECAY,
    L2,
    CLIP_NORM,
    CLIP_VALUE,
    DECAY,
    EPS,
    UNIT,  # how many samples a weight of 1 stands for in the statistics
    HYPERS,
) = range(12)

# Places in `calls`: addresses of kernels (function pointers).
(
    GATHER,
    LAYER,
    FEATURES,
    LOGITS,
    LOSS_BLOCK,
    LOSS_PART,
    OUTPUT_BIAS,
    BACKWARD_LAYER,
    BACKWARD_FEATURES,
    WEIGHT_LAYER,
    PACKED_PRODUCT,
    STRIDED_PRODUCT,
    TILE_UPDATE,
    HALF_UPDATE,
    VECTOR_UPDATE,
    DROP,
    DROP_PANEL,
    WIDE,
    NORM_PART,
    APPLY_PART,
    CALLS,
) = range(21)

# Places in `progress` (float64): sums over the samples of this epoch, each times its weight.
LOSS, CORRECT, SEEN, PROGRESSES = range(4)

# Blocking of the products: the vector operand of `DEPTH` rows stays in the first-level cache while
# the tiles of one group of features pass by; the group's weights stay in the second level.  Narrow tiles
# take a smaller part of each line of weights, so that the line must stay for the next ones.
DEPTH = 256 if tile(np.float32).width >= 32 else 192
GROUP = 256
