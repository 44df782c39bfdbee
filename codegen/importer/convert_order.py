"""Convert what depends on the order of elements: extrema and where they are, sorting, pooling.

NaN is the largest element, and the extremum of whatever holds one.
"""

from __future__ import annotations

from tbt_compile.codegen.importer.float_bits import floats, has_keys, keys
from tbt_compile.codegen.importer.registry import ATEN, Call, converter
from tbt_compile.codegen.tvm_api import Expr, relax, static_size, te, tirx


@converter(ATEN.amax.default)
def convert_amax(call: Call) -> Expr:
    """`aten::amax(self, dim, keepdim)`; an empty `dim` means all dimensions."""
    return _extremum(call, call.operands.dim or None, call.operands.keepdim, largest=True)


@converter(ATEN.amin.default)
def convert_amin(call: Call) -> Expr:
    """`aten::amin(self, dim, keepdim)`; an empty `dim` means all dimensions."""
    return _extremum(call, call.operands.dim or None, call.operands.keepdim, largest=False)


@converter(ATEN.max.default)
def convert_max(call: Call) -> Expr:
    """`aten::max(self)`."""
    return _extremum(call, None, False, largest=True)


@converter(ATEN.min.default)
def convert_min(call: Call) -> Expr:
    """`aten::min(self)`."""
    return _extremum(call, None, False, largest=False)


@converter(ATEN.argmax.default)
def convert_argmax(call: Call) -> Expr:
    """`aten::argmax(self, dim, keepdim)`: the first of equal elements, the first NaN if there is one."""
    return _place(call, call.operands.keepdim, largest=True)


@converter(ATEN.argmin.default)
def convert_argmin(call: Call) -> Expr:
    """`aten::argmin(self, dim, keepdim)`: the first of equal elements, the first NaN if there is one."""
    return _place(call, call.operands.keepdim, largest=False)


@converter(ATEN.max.dim)
def convert_max_dim(call: Call) -> Expr:
    """`aten::max.dim(self, dim, keepdim)`: elements, and where the first of each is."""
    return _element_and_place(call, largest=True)


@converter(ATEN.min.dim)
def convert_min_dim(call: Call) -> Expr:
    """`aten::min.dim(self, dim, keepdim)`: elements, and where the first of each is."""
    return _element_and_place(call, largest=False)


@converter(ATEN.sort.default)
def convert_sort(call: Call) -> Expr:
    """`aten::sort(self, dim, descending)`: equal elements keep their order."""
    return _taken(call, _order(call))


@converter(ATEN.sort.stable)
def convert_sort_stable(call: Call) -> Expr:
    """`aten::sort.stable(self, *, stable, dim, descending)`."""
    return _taken(call, _order(call))


@converter(ATEN.argsort.default)
def convert_argsort(call: Call) -> Expr:
    """`aten::argsort(self, dim, descending)`: equal elements keep their order."""
    return _order(call)


@converter(ATEN.argsort.stable)
def convert_argsort_stable(call: Call) -> Expr:
    """`aten::argsort.stable(self, *, stable, dim, descending)`."""
    return _order(call)


@converter(ATEN.topk.default)
def convert_topk(call: Call) -> Expr:
    """`aten::topk(self, k, dim, largest, sorted)`: always sorted; of equal elements the first ones."""
    op = call.operands
    places = relax.op.topk(
        _comparable(call, op.self), k=op.k, axis=op.dim, largest=op.largest, ret_type="indices", dtype="int64"
    )
    return _taken(call, call.emit(places))


@converter(ATEN.median.dim)
def convert_median_dim(call: Call) -> Expr:
    """`aten::median.dim(self, dim, keepdim)`: of an even number of elements the lower one in the middle.

    Raises:
        ValueError: the size of the dimension is not static.
    """
    op = call.operands
    return _taken(call, _middle(call, op.self, op.dim), squeezed=not op.keepdim)


@converter(ATEN.median.default)
def convert_median(call: Call) -> Expr:
    """`aten::median(self)`.

    Raises:
        ValueError: the number of elements is not static.
    """
    row = call.emit(relax.op.flatten(call.operands.self))
    found = call.emit(relax.op.gather_elements(row, _middle(call, row, 0), axis=0))
    return call.emit(relax.op.squeeze(found, [0]))


@converter(ATEN.bucketize.Tensor)
def convert_bucketize(call: Call) -> Expr:
    """`aten::bucketize(self, boundaries, *, out_int32, right)`: NaN is behind all boundaries."""
    op, places = call.operands, call.default()
    if not has_keys(str(op.self.ty.dtype)):
        return places
    return call.compute(_behind, op.self, places, op.boundaries)


@converter(ATEN.max_pool1d.default)
def convert_max_pool1d(call: Call) -> Expr:
    """`aten::max_pool1d(self, kernel_size, ...)`."""
    return _pooled(call)


@converter(ATEN.max_pool2d.default)
def convert_max_pool2d(call: Call) -> Expr:
    """`aten::max_pool2d(self, kernel_size, ...)`."""
    return _pooled(call)


@converter(ATEN.max_pool2d_with_indices.default)
def convert_max_pool2d_with_indices(call: Call) -> Expr:
    """`aten::max_pool2d_with_indices(self, kernel_size, ...)`, without the indices."""
    return _pooled_without_indices(call)


@converter(ATEN.max_pool3d_with_indices.default)
def convert_max_pool3d_with_indices(call: Call) -> Expr:
    """`aten::max_pool3d_with_indices(self, kernel_size, ...)`, without the indices."""
    return _pooled_without_indices(call)


@converter(ATEN.max_pool3d.default)
def convert_max_pool3d(call: Call) -> Expr:
    """`aten::max_pool3d(self, kernel_size, ...)`."""
    return _pooled(call)


def _extremum(call: Call, dim: list[int] | None, keepdim: bool, largest: bool) -> Expr:
    x, emit = call.operands.self, call.emit
    dtype = str(x.ty.dtype)
    reduce = relax.op.max if largest else relax.op.min
    if dtype == "bool":
        return emit(relax.op.astype(emit(reduce(emit(relax.op.astype(x, "int8")), dim, keepdim)), "bool"))
    if not has_keys(dtype):
        return emit(reduce(x, dim, keepdim))
    keyed = call.compute(keys, x, nan_first=not largest, signed_zeros=True)
    return call.compute(floats, emit(reduce(keyed, dim, keepdim)))


def _place(call: Call, keepdim: bool, largest: bool) -> Expr:
    """Where the extremum is, int64."""
    search = relax.op.argmax if largest else relax.op.argmin
    found = call.emit(
        search(_comparable(call, call.operands.self, nan_first=not largest), call.operands.dim, keepdim)
    )
    # TVM gives -1 if no element differs from the extreme value of the dtype.
    return call.emit(relax.op.maximum(found, _int64(0)))


def _element_and_place(call: Call, largest: bool) -> Expr:
    return _taken(call, _place(call, True, largest), squeezed=not call.operands.keepdim)


def _order(call: Call) -> Expr:
    op = call.operands
    return call.emit(relax.op.argsort(_comparable(call, op.self), op.dim, op.descending, dtype="int64"))


def _taken(call: Call, places: Expr, squeezed: bool = False) -> Expr:
    """The elements at `places` along `dim`, and the places."""
    dim = call.operands.dim
    pair = [call.emit(relax.op.gather_elements(call.operands.self, places, axis=dim)), places]
    if squeezed:
        pair = [call.emit(relax.op.squeeze(each, [dim])) for each in pair]
    return call.emit(relax.Tuple(pair))


def _middle(call: Call, x: Expr, dim: int) -> Expr:
    """Where the median is along a dimension, which is kept; where a NaN is if there is one."""
    emit, size = call.emit, static_size(x.ty.shape[dim])
    if size is None:
        raise ValueError("the median of a number of elements that is not fixed")
    order = emit(relax.op.argsort(_comparable(call, x), dim, dtype="int64"))
    place = emit(relax.op.multiply(emit(relax.op.min(order, dim, True)), _int64(0)))
    place = emit(relax.op.add(place, _int64((size - 1) // 2)))
    if has_keys(str(x.ty.dtype)):
        nans = emit(relax.op.sum(emit(relax.op.astype(emit(relax.op.isnan(x)), "int64")), dim, True))
        first = emit(relax.op.subtract(_int64(size), nans))
        place = emit(relax.op.where(emit(relax.op.greater(nans, _int64(0))), first, place))
    return emit(relax.op.gather_elements(order, place, axis=dim))


def _comparable(call: Call, x: Expr, nan_first: bool = False) -> Expr:
    """The operand as integers of the same order, of a dtype that TVM sorts."""
    dtype = str(x.ty.dtype)
    if has_keys(dtype):
        return call.compute(keys, x, nan_first=nan_first)
    return x if dtype in ("int32", "int64") else call.emit(relax.op.astype(x, "int32"))


def _pooled(call: Call) -> Expr:
    x = call.operands.self
    if not has_keys(str(x.ty.dtype)):
        return call.default()
    return call.compute(floats, call.default(self=call.compute(keys, x, signed_zeros=True)))


def _pooled_without_indices(call: Call) -> Expr:
    if any(user.args[1] != 0 for user in call.node.users):
        raise ValueError("the indices of a maximum pooling have no compiled form")
    x = call.operands.self
    if not has_keys(str(x.ty.dtype)):
        return call.default()
    pooled = call.default(self=call.compute(keys, x, signed_zeros=True))
    values = call.emit(relax.TupleGetItem(pooled, 0))
    return call.emit(relax.Tuple([call.compute(floats, values), values]))


def _behind(x: te.Tensor, places: te.Tensor, boundaries: te.Tensor) -> te.Tensor:
    last = tirx.Cast(str(places.dtype), boundaries.shape[0])
    return te.compute(x.shape, lambda *at: tirx.Select(tirx.isnan(x[at]), last, places[at]), name="behind")


def _int64(value: int) -> Expr:
    return relax.const(value, "int64")
