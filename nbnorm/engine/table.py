"""Records by which compiled code finds what it needs.

`nbnorm.engine.run` fills them.  Compiled and interpreted, the fields are attributes: ``net[l].features``.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Sequence
from typing import Any

import numpy as np


def _record(scalar: type[np.generic], *names: str) -> np.dtype[Any]:
    """Return the type of records whose fields are properties: those of np.record take four times as long."""

    def field(name: str) -> property:
        return property(operator.itemgetter(name), lambda self, value: self.__setitem__(name, value))

    record = type("Record", (np.void,), {name: field(name) for name in names})
    return np.dtype((record, np.dtype([(name, scalar) for name in names], align=True)))


# One layer of the network; the first is the input.  An offset counts elements of an array of the engine.
LAYER = _record(
    np.int64,
    "features",
    "padded",  # features rounded up to whole tiles
    "norm_input_offset",  # in act: what batch norm reads (f(z) or z), or the only value without batch norm
    "slope_input_offset",  # in act: what f' is computed from: the value of f, or its argument
    "result_offset",  # in act: the layer's result before dropout
    "output_offset",  # in act: what the next layer reads; for the output the workspace of the loss
    "gradient_offset",  # in act: gradient, first with respect to the output, then to z
    "transposed_gradient_offset",  # in act: gradient with respect to z with the outputs side by side
    "bfloat16",  # whether the products of this layer take bfloat16 in training
    # in act: what this layer gives as pairs of features and as pairs of samples, if the next layer takes them
    "feature_pairs_offset",
    "sample_pairs_offset",
    "gradient_pairs_offset",  # in act: gradient with respect to z as pairs of features
    "features_apart",  # whether these are packed apart from the epilogue
    "gradients_apart",
    "weight_offset",  # in weight
    "input_pairs_offset",  # in weight: copies in bfloat16, as pairs of inputs and of outputs
    "output_pairs_offset",
    "bias_offset",  # in vector, as the next two
    "gamma_offset",
    "beta_offset",
    "weight_numbers",  # in the numbers of a step: where those of a parameter begin
    "bias_numbers",
    "gamma_numbers",
    "beta_numbers",
    "statistics_offset",  # in running and saved
    "norm",  # where batch norm stands: one of those below
    "sample_norm",  # where layer norm or RMS norm stands
    "centred",  # 1 for layer norm, 0 for RMS norm
    "custom",  # whether f is a function of the user's own
    "fused",  # whether f is computed together with batch norm
    "dropout_threshold",  # probability of dropout, in units of 2**-32
    "activate_kernel",  # addresses of the row kernels
    "derive_kernel",
    "statistics_kernel",
    "normalize_kernel",
    "backward_kernel",
    "block_backward_kernel",  # of layer norm and RMS norm
)

NO_NORM, AFTER, BEFORE = 0, 1, 2

# The placement of batch norm, that of layer norm or RMS norm, and whether a mean is subtracted from samples.
NORMS = {
    None: (NO_NORM, NO_NORM, 0),
    "after": (AFTER, NO_NORM, 0),
    "before": (BEFORE, NO_NORM, 0),
    "layer": (NO_NORM, BEFORE, 1),
    "layer_after": (NO_NORM, AFTER, 1),
    "rms": (NO_NORM, BEFORE, 0),
    "rms_after": (NO_NORM, AFTER, 0),
}

# State and options of a run that are whole numbers; flags are 0 or 1.
CONTROL = _record(
    np.int64,
    # the table of the data, see `nbnorm.engine.gather`
    "address",  # of the first element
    "row_stride",  # bytes between rows; of a sparse matrix the address of the rows' ends
    "column_stride",  # bytes between columns; of a sparse matrix the address of the columns' numbers
    "element_code",  # index in PEEK_DTYPES
    "tiles_kernel",  # address of the kernel that reads contiguous rows by square tiles, or 0
    # the run
    "step",  # next step of the epoch
    "last_step",  # step before which to return
    "stop",  # set from outside: return before the next step
    "halt",  # set inside: what thread 0 made of `stop` and `diverged`, the same for all threads
    "diverged",  # set inside: the loss is not finite
    "samples",  # samples of an epoch
    "batch",  # samples of the largest mini-batch
    "steps",  # steps of the epoch, in batches whose sizes differ by at most one
    "layers",  # hidden layers and the output
    "training",  # statistics of the mini-batch, or the moving averages
    "drops",  # whether dropout leaves out elements
    "cumulative",  # whether the moving averages are means of all batches
    "bfloat16",  # whether there are products of bfloat16
    "mode",  # one of the modes below
    "stored",  # whether gradients are stored and not used at once
    "clipped",  # whether gradients are bounded before an update of its own
    "unbiased",
    "standard_deviation",  # whether the second moving average is that of the standard deviation
    "padded_batch",  # samples of a batch rounded up to whole blocks
    "weight_size",  # elements of weight, without the copies behind them
    "zeros_offset",  # in vector: zeros
    "weights_offset",  # in act: the samples' weights
    "weighted",  # whether samples have weights
    "weighted_statistics",  # whether these enter the statistics of batch norm
    "dropout_key",  # of the random numbers of dropout in this epoch
    "updates",  # updates that the optimizer has made
    "groups",  # groups of parameters, each with a factor of the learning rate
)

TRAIN, GRADIENTS, FORWARD = 0, 1, 2

# Options of a run that are real numbers.
HYPER = _record(
    np.float64,
    "clip_norm",
    "clip_value",
    "running_decay",  # of the moving averages
    "eps",  # of batch norm
    "weight_unit",  # how many samples a weight of 1 stands for in the statistics
)

# Addresses of the kernels that a run needs (function pointers).
CALLS = _record(
    np.int64,
    "gather",
    "forward_layer",
    "forward_features",
    "write_logits",
    "loss_block",
    "loss_part",
    "bias_part",
    "sum_row",
    "add_bias",
    "backward_layer",
    "backward_features",
    "weight_layer",
    "packed_product",
    "tall_packed_product",
    "strided_product",
    "tall_strided_product",
    "packed_pairs_product",
    "strided_pairs_product",
    "tile_update",
    "tall_tile_update",
    "tall_half_tile_update",
    "pairs_update",
    "vector_update",
    "clipped_update",
    "step_numbers",
    "pack_features",
    "pack_gradients",
    "pack_input",
    "round_tile",
    "round_weights",
    "drop_row",
    "drop_panel",
    "wide_statistics",
    "forward_blocks",
    "backward_blocks",
    "norm_part",
    "apply_part",
)


def records(dtype: np.dtype[Any], count: int = 1) -> Any:
    """Return `count` records of zeros."""
    return np.zeros(count, dtype)


def blank(dtype: np.dtype[Any], record: Any = None) -> types.SimpleNamespace:
    """Return an object with the fields of a record, or with zeros: to set them takes a tenth of the time."""
    names = dtype.names or ()
    values = (0,) * len(names) if record is None else record.item()
    return types.SimpleNamespace(**dict(zip(names, values, strict=True)))


def filled(dtype: np.dtype[Any], rows: Sequence[types.SimpleNamespace]) -> Any:
    """Return the records of such objects."""
    return np.array([tuple(vars(row).values()) for row in rows], dtype)


# Places in `progress` (float64): sums over the samples of this epoch, each times its weight.
LOSS, CORRECT, SEEN, PROGRESSES = range(4)

# Blocking of the products: the vector operand of `DEPTH` rows stays in the first-level cache while
# the tiles of one group of features pass by; the group's weights stay in the second level.  Narrow tiles
# take a smaller part of each line of weights, so that the line must stay for the next ones.
DEPTH = 192
GROUP = 256
