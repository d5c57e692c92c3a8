"""Vectors, masks and register tiles for code that Numba compiles.

A vector holds so many numbers of one type, its *lanes*, and operators work on all of them at once.  It may
have more lanes than a register of the processor: LLVM then uses several, which unrolls a loop for free.  A
register tile is a matrix of vectors that stays in registers while it is summed up.

The same functions work in Python, on vectors that are NumPy arrays: under ``NUMBA_DISABLE_JIT=1`` a kernel
can be stepped through in a debugger.  The page *Vectors in your own kernels* of the documentation shows how
to write one.

Memory
    `load`, `store`, `stream`, `fence`, `prefetch`, `in_register`, `gather`, `get`, `put`, `size`,
    `stack_array`, `address`, `peek`, `array_at`
Making vectors and masks
    `splat`, `zeros`, `iota`, `full_like`, `first_lanes`
Arithmetic, on vectors and numbers
    operators, `fma`, `abs`, `min`, `max`, `clamp`, `sqrt`, `power`, `copysign`, `round`, `floor`, `ceil`
Choosing
    comparisons make masks, ``& | ^ ~`` combine them; `where`, `any`, `all`
Types
    `convert`, `bitcast`
Over the lanes
    `sum`, `largest`, `smallest`
Moving elements
    `repeat`, `cycle`, `shuffle`, `reverse`, `part`, `low_half`, `high_half`, `concatenate`, `interleave`,
    `extract`, `insert`
Register tiles
    `tile_zeros`, `tile_load`, `tile_store`, `tile_of`, `tile_add`, `rank1`, `row`, `row_sums`,
    `transpose`
Products of bfloat16
    `round_to_bfloat16`, `to_bfloat16`, `to_bfloat16_pairs`, `split_bfloat16_pairs`, `dot_bfloat16`
Elementary functions
    `exp`, `exp_below_0`, `expm1_below_0`, `log`, `log1p`, `sigmoid`, `tanh`, `normal`, `gelu`,
    `gelu_slope`, `softplus`
Functions of your own
    `elementwise`, `traced`, `operation`, and in traced ones `loop`, `loop_steps`, `switch`, `map_elements`
The processor
    `target`, `native_lanes`
Numba types, for explicit signatures
    `Vector`, `Mask`, `Tile`

A vector kernel, its end with masks:

>>> import numpy as np
>>> from numba import njit
>>> from nbnorm import simd
>>> @njit
... def scale(x, factor, out):
...     whole = x.size // 16 * 16
...     for i in range(0, whole, 16):
...         simd.store(out, i, simd.load(x, i, 16) * factor)
...     rest = x.size - whole
...     simd.store(out, whole, simd.load(x, whole, 16, rest) * factor, rest)
>>> x, out = np.arange(21.0, dtype=np.float32), np.zeros(21, np.float32)
>>> scale(x, 2.0, out)
>>> out[-3:]
array([36., 38., 40.], dtype=float32)
"""

from nbnorm.simd._arithmetic import (
    abs,
    bitcast,
    ceil,
    clamp,
    convert,
    copysign,
    first_lanes,
    floor,
    fma,
    full_like,
    iota,
    max,
    min,
    power,
    round,
    splat,
    sqrt,
    where,
    zeros,
)
from nbnorm.simd._bfloat16 import (
    dot_bfloat16,
    round_to_bfloat16,
    split_bfloat16_pairs,
    to_bfloat16,
    to_bfloat16_pairs,
)
from nbnorm.simd._control import loop, loop_steps, map_elements, switch
from nbnorm.simd._elementary import (
    exp,
    exp_below_0,
    expm1_below_0,
    gelu,
    gelu_slope,
    log,
    log1p,
    normal,
    sigmoid,
    softplus,
    tanh,
)
from nbnorm.simd._lanes import (
    all,
    any,
    concatenate,
    cycle,
    extract,
    gather,
    high_half,
    insert,
    interleave,
    largest,
    low_half,
    part,
    repeat,
    reverse,
    shuffle,
    smallest,
    sum,
)
from nbnorm.simd._memory import (
    address,
    array_at,
    fence,
    get,
    in_register,
    load,
    peek,
    prefetch,
    put,
    size,
    stack_array,
    store,
    stream,
)
from nbnorm.simd._tiles import (
    rank1,
    row,
    row_sums,
    tile_add,
    tile_load,
    tile_of,
    tile_store,
    tile_zeros,
    transpose,
)
from nbnorm.simd._tracing import elementwise, operation, traced
from nbnorm.simd._types import Mask, Tile, Vector
from nbnorm.simd.target import Target, native_lanes, target

__all__ = [
    "Mask",
    "Target",
    "Tile",
    "Vector",
    "abs",
    "address",
    "all",
    "any",
    "array_at",
    "bitcast",
    "ceil",
    "clamp",
    "concatenate",
    "convert",
    "copysign",
    "cycle",
    "dot_bfloat16",
    "elementwise",
    "exp",
    "exp_below_0",
    "expm1_below_0",
    "extract",
    "fence",
    "first_lanes",
    "floor",
    "fma",
    "full_like",
    "gather",
    "gelu",
    "gelu_slope",
    "get",
    "high_half",
    "in_register",
    "insert",
    "interleave",
    "iota",
    "largest",
    "load",
    "log",
    "log1p",
    "loop",
    "loop_steps",
    "low_half",
    "map_elements",
    "max",
    "min",
    "native_lanes",
    "normal",
    "operation",
    "part",
    "peek",
    "power",
    "prefetch",
    "put",
    "rank1",
    "repeat",
    "reverse",
    "round",
    "round_to_bfloat16",
    "row",
    "row_sums",
    "shuffle",
    "sigmoid",
    "size",
    "smallest",
    "softplus",
    "splat",
    "split_bfloat16_pairs",
    "sqrt",
    "stack_array",
    "store",
    "stream",
    "sum",
    "switch",
    "tanh",
    "target",
    "tile_add",
    "tile_load",
    "tile_of",
    "tile_store",
    "tile_zeros",
    "to_bfloat16",
    "to_bfloat16_pairs",
    "traced",
    "transpose",
    "where",
    "zeros",
]
