"""Box, MultiDiscrete and MultiBinary, seen as one thing: arrays of one dtype and shape within bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from envmesh import values
from envmesh.tensors import CODES, DTYPES, MAX_RANK, Array, DType, Shape
from envmesh.v1 import space_pb2, value_pb2

__all__ = [
    "MAX_ELEMENTS",
    "ArrayForm",
    "MalformedSpace",
    "array_form",
    "bound_from",
    "bound_tensor",
    "tensor_array",
]

MAX_ELEMENTS = 1 << 26
"""Elements of a space's arrays, at most: whoever reads a space allocates its bounds."""


class MalformedSpace(ValueError):
    """A ``Space`` message that no space fits. The message says what is wrong."""


@dataclass(frozen=True, slots=True)
class ArrayForm:
    """Arrays of one dtype and shape, whose elements are within ``low`` and ``high``, both included.

    The bounds have the shape of the arrays, or rank 0 where all elements share them.
    """

    dtype: DType
    shape: Shape
    low: Array
    high: Array

    @property
    def unlimited(self) -> bool:
        """Whether every array of this dtype and shape fits, so that nobody has to look."""
        if self.dtype.kind == "b":
            least, greatest = 0, 1
        elif self.dtype.kind in "iu":
            least, greatest = np.iinfo(self.dtype).min, np.iinfo(self.dtype).max
        else:
            return False  # NaN is within no bounds
        return bool((self.low == least).all() and (self.high == greatest).all())


def array_form(message: space_pb2.Space) -> ArrayForm | None:
    """The arrays that ``message`` describes, or None where it is a space of another kind.

    Raises:
        MalformedSpace: dtype, shape or bounds are missing or contradict each other.
    """
    kind = message.WhichOneof("kind")
    if kind == "box":
        box = message.box
        dtype = DTYPES.get(box.dtype)
        if dtype is None or dtype.kind not in "biuf":
            raise MalformedSpace(f"{box.dtype} is not the dtype of a box")
        shape = _shape(box.shape)
        form = ArrayForm(dtype, shape, bound_from(box.low, dtype, shape), bound_from(box.high, dtype, shape))
    elif kind == "multi_discrete":
        count = tensor_array(message.multi_discrete.n)
        has_start = message.multi_discrete.HasField("start")
        start = (
            tensor_array(message.multi_discrete.start) if has_start else np.zeros(count.shape, count.dtype)
        )
        if count.dtype.kind not in "iu" or start.dtype != count.dtype or start.shape != count.shape:
            raise MalformedSpace(
                "the counts and starts of a multi_discrete are integers of one dtype and shape"
            )
        if not (count > 0).all():
            raise MalformedSpace("the counts of a multi_discrete are at least 1")
        with np.errstate(over="ignore"):  # what overflows is smaller than its start, and so refused below
            high = np.asarray(start + (count - 1))
        form = ArrayForm(count.dtype, _shape(count.shape), start, high)
    elif kind == "multi_binary":
        int8 = np.dtype(np.int8)
        if not message.multi_binary.shape:
            raise MalformedSpace("a multi_binary has at least one dimension")
        form = ArrayForm(int8, _shape(message.multi_binary.shape), np.array(0, int8), np.array(1, int8))
    else:
        return None
    if not (form.low <= form.high).all():
        raise MalformedSpace(f"a {kind} has a least value greater than its greatest")
    return form


def tensor_array(tensor: value_pb2.Tensor) -> Array:
    """The array of a message; of rank 0 too.

    Raises:
        MalformedSpace: it is no valid tensor.
    """
    try:
        return np.asarray(values.from_proto(value_pb2.Value(tensor=tensor)))
    except values.MalformedValue as error:
        raise MalformedSpace(str(error)) from None


def bound_from(tensor: value_pb2.Tensor, dtype: DType, shape: Shape) -> Array:
    """A bound, of rank 0 or of ``shape``.

    Raises:
        MalformedSpace: it is of another dtype or shape.
    """
    bound = tensor_array(tensor)
    if bound.dtype != dtype or bound.shape not in ((), shape):
        raise MalformedSpace(
            f"a bound of arrays of {dtype} and shape {shape} is {bound.dtype} of shape {bound.shape}"
        )
    return bound


def bound_tensor(bound: Array) -> value_pb2.Tensor:
    """A bound as a message, of rank 0 where all elements are the same."""
    bound = np.asarray(bound)
    if bound.dtype.newbyteorder("<") not in CODES:
        raise TypeError(f"numpy's dtype {bound.dtype} has no form in the protocol")
    if bound.size and (bound == bound.flat[0]).all():
        bound = np.asarray(bound.flat[0])
    return values.to_proto(bound).tensor


def _shape(lengths: object) -> Shape:
    shape = tuple(int(length) for length in lengths)  # type: ignore[attr-defined]
    if len(shape) > MAX_RANK or math.prod(max(length, 1) for length in shape) > MAX_ELEMENTS:
        raise MalformedSpace(
            f"a space of shape {shape} is too large: {MAX_ELEMENTS} elements and {MAX_RANK} dimensions"
        )
    return shape
