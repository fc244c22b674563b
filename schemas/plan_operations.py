"""Every operation a plan may use, by ATen's own name and overload (``.default`` left out). The only such list.

Each gives one tensor, or one whole number; none writes in place, makes values out of nothing, or reaches outside its
arguments. To allow another one, add it here: ``edge.plan_runtime`` finds it by its name, and a test that it exists.
"""

from __future__ import annotations

from typing import Final

# Results that share their argument's memory, and so cost none.
VIEWS: Final = frozenset(
    {
        "flatten.using_ints",
        "view",
        "permute",
        "transpose.int",
        "t",
        "unsqueeze",
        "squeeze.dim",
        "squeeze.dims",
        "expand",
        "slice.Tensor",
        "select.int",
    }
)

OPERATIONS: Final = VIEWS | frozenset(
    {
        # Layers.
        "conv1d",
        "conv1d.padding",
        "conv2d",
        "conv2d.padding",
        "linear",
        "addmm",
        "matmul",
        "mm",
        "bmm",
        "group_norm",
        "layer_norm",
        "dropout",
        # Elementwise.
        "relu",
        "leaky_relu",
        "elu",
        "gelu",
        "silu",
        "tanh",
        "sigmoid",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "softplus",
        "glu",
        "exp",
        "log",
        "sqrt",
        "rsqrt",
        "abs",
        "neg",
        "reciprocal",
        "pow.Tensor_Scalar",
        "clamp",
        "add.Tensor",
        "sub.Tensor",
        "mul.Tensor",
        "div.Tensor",
        "rsub.Scalar",
        "maximum",
        "minimum",
        "to.dtype",
        "clone",
        # Pooling and reduction.
        "max_pool1d",
        "max_pool2d",
        "avg_pool1d",
        "avg_pool2d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "mean.dim",
        "sum.dim_IntList",
        "amax",
        "amin",
        # Softmax and losses.
        "softmax.int",
        "log_softmax.int",
        "_softmax",
        "_log_softmax",
        "cross_entropy_loss",
        "nll_loss",
        "nll_loss_nd",
        # Joining and padding; may copy.
        "cat",
        "stack",
        "pad",
        "constant_pad_nd",
        "reshape",
        "contiguous",
        # Whole numbers: sizes that depend on the batch.
        "sym_size.int",
        "int.add",
        "int.sub",
        "int.mul",
        "int.floordiv",
    }
)

# Strings that are arguments: data types, and modes of gelu, convolution and pad.
WORDS: Final = frozenset({"float32", "int64", "none", "tanh", "same", "valid", "constant", "reflect", "replicate"})


def advice(operation: str) -> str:
    """What to do instead of an operation that isn't allowed."""
    if "batch_norm" in operation:
        return "use GroupNorm instead of BatchNorm: devices have small, uneven batches and share no running averages"
    if "lstm" in operation or "gru" in operation or "rnn" in operation:
        return "use 1-D convolutions instead of recurrent layers"
    if operation.startswith("rand") or "bernoulli" in operation:
        return "use nn.Dropout for randomness"
    return "build the model from convolutions, linear layers, pooling, GroupNorm, LayerNorm and elementwise functions"
