"""LLVM IR written like nested loops.

llvmlite's builder is an assembler with basic blocks and φ nodes. This file wraps it so that a kernel reads as the loops
it is: integers and pointers with operators, counted loops whose accumulators stay in registers, `if`, calls.

    with f.loop(rows) as row:                         # for row in range(rows)
        with f.loop(length, carry=sums) as step:      # sums live in registers across the iterations
            weights = w.at(step.index * 32).vector(16)
            step.carry([f.fma(x, weights, s) for s in step.values])
        y.at(row.index * pitch).put(step.values[0])

Every kernel has one signature, `void kernel(int64 *arguments, int64 thread, int64 threads)`: what it works on comes as
one array of numbers, named once by an `Arguments` class of the algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any, TypeAlias

from llvmlite import ir

I64 = ir.IntType(64)
I32 = ir.IntType(32)
PTR = ir.PointerType()
VOID = ir.VoidType()
FLOATS = {"float32": ir.FloatType(), "float64": ir.DoubleType()}

Value: TypeAlias = Any  # llvmlite is untyped; a Value is an ir.Value


# Constants belong to no module, and their text is written once for all that use them. A module of tiles has 3,000
# vectors of constants, nearly all of them the same ones; made anew, they are a third of the time that Python takes.


@cache
def _integer(kind: Any, number: int) -> Value:
    return ir.Constant(kind, number)


@cache
def _integers(kind: Any, numbers: tuple[int, ...]) -> Value:
    return ir.Constant(ir.VectorType(kind, len(numbers)), [_integer(kind, number) for number in numbers])


@cache
def _undefined(kind: Any, lanes: int) -> Value:
    return ir.Constant(ir.VectorType(kind, lanes), ir.Undefined)


def everywhere(kind: Any, lanes: int, number: float) -> Value:
    """A vector of one number."""
    return _everywhere(kind, lanes, float(number).hex())  # which tells −0 from 0


@cache
def _everywhere(kind: Any, lanes: int, number: str) -> Value:
    return ir.Constant(ir.VectorType(kind, lanes), [float.fromhex(number)] * lanes)


class Int:
    """A 64-bit integer at run time; arithmetic with Python's operators, constants folded where both are known."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: Any, value: Value) -> None:
        self.builder, self.value = builder, value

    def _lift(self, other: IntLike) -> Value:
        return other.value if isinstance(other, Int) else _integer(I64, other)

    def _new(self, value: Value) -> Int:
        return Int(self.builder, value)

    def __add__(self, other: IntLike) -> Int:
        return self if _is(other, 0) else self._new(self.builder.add(self.value, self._lift(other)))

    def __sub__(self, other: IntLike) -> Int:
        return self if _is(other, 0) else self._new(self.builder.sub(self.value, self._lift(other)))

    def __mul__(self, other: IntLike) -> Int:
        return self if _is(other, 1) else self._new(self.builder.mul(self.value, self._lift(other)))

    __radd__, __rmul__ = __add__, __mul__

    def __floordiv__(self, other: IntLike) -> Int:
        """Division that truncates: the same as Python's for the sizes and indices it is used on, which are ≥ 0."""
        return self._new(self.builder.sdiv(self.value, self._lift(other)))

    def __mod__(self, other: IntLike) -> Int:
        return self._new(self.builder.srem(self.value, self._lift(other)))

    def compare(self, relation: str, other: IntLike) -> Value:
        """A one-bit value: signed `<`, `<=`, `==`, `!=`, `>=`, `>`."""
        return self.builder.icmp_signed(relation, self.value, self._lift(other))

    def at_most(self, other: IntLike) -> Int:
        """min(self, other)."""
        return self._new(self.builder.select(self.compare("<", other), self.value, self._lift(other)))

    def at_least(self, other: IntLike) -> Int:
        """max(self, other)."""
        return self._new(self.builder.select(self.compare(">", other), self.value, self._lift(other)))


IntLike: TypeAlias = Int | int


def _is(value: IntLike, number: int) -> bool:
    return not isinstance(value, Int) and value == number


class Pointer:
    """An address of numbers of one type; offsets count elements, not bytes."""

    __slots__ = ("builder", "element", "value")

    def __init__(self, builder: Any, value: Value, element: Any) -> None:
        self.builder, self.value, self.element = builder, value, element

    def at(self, offset: IntLike) -> Pointer:
        """The address `offset` elements on."""
        if _is(offset, 0):
            return self
        index = offset.value if isinstance(offset, Int) else _integer(I64, offset)
        return Pointer(self.builder, self.builder.gep(self.value, [index], source_etype=self.element), self.element)

    # Loads and stores promise only the element's own alignment: users pass any address, and on every CPU of the last
    # ten years an unaligned instruction on an aligned address costs nothing.

    def scalar(self) -> Value:
        return self.builder.load(self.value, typ=self.element, align=_bytes(self.element))

    def vector(self, lanes: int) -> Value:
        return self.builder.load(self.value, typ=ir.VectorType(self.element, lanes), align=_bytes(self.element))

    def put(self, value: Value) -> None:
        """Store a scalar or a vector here."""
        self.builder.store(value, self.value, align=_bytes(self.element))

    def integer(self) -> Int:
        return Int(self.builder, self.scalar())

    def unexplained(self) -> Pointer:
        """The same address, with nothing that LLVM could know about where it comes from.

        LLVM's strength reduction writes every address of a loop as the one before it and a step, whatever was meant. In
        a tile of 14×2 sums with four steps a round this ties the loads together, and a hundred sums go by the stack.
        """
        same = ir.InlineAsm(ir.FunctionType(PTR, [PTR]), "", "=r,0")
        return Pointer(self.builder, self.builder.call(same, [self.value]), self.element)

    def count(self) -> Int:
        """The integer here, which is one more afterwards; threads that count at once all get different ones."""
        return Int(self.builder, self.builder.atomic_rmw("add", self.value, ir.Constant(I64, 1), "monotonic"))

    def number(self) -> Int:
        """The address itself as an integer."""
        return Int(self.builder, self.builder.ptrtoint(self.value, I64))


def _bare(value: Carried) -> Value:
    return value.value if isinstance(value, (Int, Pointer)) else value


def _like(carried: Carried, value: Value) -> Carried:
    if isinstance(carried, Pointer):
        return Pointer(carried.builder, value, carried.element)
    return Int(carried.builder, value) if isinstance(carried, Int) else value


def _bytes(element: Any) -> int:
    return element.width // 8 if isinstance(element, ir.IntType) else (8 if isinstance(element, ir.DoubleType) else 4)


Carried: TypeAlias = Any
"""What loops carry on: an `Int`, a `Pointer` or a `Value`, which comes back as what it was."""


@dataclass(slots=True)
class Loop:
    """One counted loop while its body is written; `values` are the carried ones as they stand in this iteration and,
    once the loop is closed, as they came out of it."""

    index: Int
    values: list[Carried]
    following: list[Carried] | None = None

    def carry(self, values: Sequence[Carried]) -> None:
        """What the next iteration finds in `values`."""
        self.following = list(values)


class Function:
    """A function under construction.

    `arguments` names them: "*x step" are an address and an integer, or whatever else is of `type_`. Whoever calls it
    gives each by its name.
    """

    def __init__(
        self, module: ir.Module, name: str, arguments: str, dtype: str, *, internal: bool = False, result: Any = VOID,
        type_: Any = I64,
    ) -> None:  # fmt: skip
        self.names = arguments.replace("*", "").split()
        types = [PTR if argument.startswith("*") else type_ for argument in arguments.split()]
        self.module, self.dtype, self.float = module, dtype, FLOATS[dtype]
        self.function = ir.Function(module, ir.FunctionType(result, types), name)
        if internal:
            self.function.linkage = "internal"
            self.function.attributes.add("noinline")
            # Vectors that do not fit into the registers are kept on the stack: whole cache lines there, not halves.
            self.function.attributes.alignstack = 64
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))

    # --- arguments and constants --------------------------------------------------------------------------------------

    def integer(self, name: str) -> Int:
        """The argument of that name, an integer."""
        return Int(self.builder, self.function.args[self.names.index(name)])

    def integers(self, names: str) -> list[Int]:
        """Several of them."""
        return [self.integer(name) for name in names.split()]

    def pointer(self, name: str, element: Any = None) -> Pointer:
        """The argument of that name, an address."""
        return Pointer(self.builder, self.function.args[self.names.index(name)], element or self.float)

    def pointers(self, names: str) -> list[Pointer]:
        """Several of them, of numbers."""
        return [self.pointer(name) for name in names.split()]

    def address(self, value: Int, element: Any = None) -> Pointer:
        """An integer taken as an address."""
        return Pointer(self.builder, self.builder.inttoptr(value.value, PTR), element or self.float)

    def const(self, number: int) -> Int:
        return Int(self.builder, _integer(I64, number))

    def vector(self, value: Value) -> Vector:
        """A vector to calculate with."""
        return Vector(self, value)

    def zeros(self, lanes: int) -> Value:
        return everywhere(self.float, lanes, 0.0)

    def scalar_zero(self) -> Value:
        return ir.Constant(self.float, 0.0)

    # --- control ------------------------------------------------------------------------------------------------------

    @contextmanager
    def loop(
        self, stop: IntLike, start: IntLike = 0, step: IntLike = 1, carry: Sequence[Carried] = ()
    ) -> Iterator[Loop]:
        """`for index in range(start, stop, step)`; runs not at all where start ≥ stop."""
        begin = Int(self.builder, self._lift(start))
        with self.while_([begin, *carry], lambda index: index.compare("<", stop)) as each:
            loop = Loop(each.index, each.values[1:])
            yield loop
            each.carry([loop.index + step, *(loop.following or ())])
        loop.values = each.values[1:]

    @contextmanager
    def while_(self, start: Sequence[Carried], goes_on: Callable[[Int], Value]) -> Iterator[Loop]:
        """The body again and again, while that holds of the first of what it carries on, an integer."""
        b = self.builder
        before = b.block
        head, body, done = (b.append_basic_block(name) for name in ("loop", "body", "done"))
        b.branch(head)
        b.position_at_end(head)
        phis = [b.phi(_bare(value).type) for value in start]
        values = [_like(value, phi) for value, phi in zip(start, phis, strict=True)]
        b.cbranch(goes_on(values[0]), body, done)
        b.position_at_end(body)
        each = Loop(values[0], values)
        yield each
        for phi, first, following in zip(phis, start, each.following or (), strict=True):
            phi.add_incoming(_bare(first), before)
            phi.add_incoming(_bare(following), b.block)
        b.branch(head)
        b.position_at_end(done)

    def if_(self, condition: Value) -> Any:
        """`with f.if_(condition): …`"""
        return self.builder.if_then(condition)

    def if_else(self, condition: Value) -> Any:
        """`with f.if_else(condition) as (then, otherwise): with then: … with otherwise: …`"""
        return self.builder.if_else(condition)

    def all_of(self, *conditions: Value) -> Value:
        return reduce(self.builder.and_, conditions)

    def any_of(self, *conditions: Value) -> Value:
        return reduce(self.builder.or_, conditions)

    def choose(self, condition: Value, yes: IntLike, no: IntLike) -> Int:
        return Int(self.builder, self.builder.select(condition, self._lift(yes), self._lift(no)))

    def pick(self, condition: Value, yes: Pointer, no: Pointer) -> Pointer:
        return Pointer(self.builder, self.builder.select(condition, yes.value, no.value), yes.element)

    def call(self, callee: Function, **arguments: Int | Pointer | int) -> None:
        self.builder.call(callee.function, self._in_order(callee, arguments))

    def dispatch(self, selector: Int, callees: dict[int, Function], **arguments: Int | Pointer | int) -> None:
        """Call `callees[selector]`; nothing where the selector is not among them."""
        b = self.builder
        done = b.append_basic_block("dispatched")
        switch = b.switch(selector.value, done)
        for number, callee in callees.items():
            block = b.append_basic_block(f"case{number}")
            switch.add_case(ir.Constant(I64, number), block)
            b.position_at_end(block)
            b.call(callee.function, self._in_order(callee, arguments))
            b.branch(done)
        b.position_at_end(done)

    def _in_order(self, callee: Function, arguments: dict[str, Int | Pointer | int]) -> list[Value]:
        if arguments.keys() != set(callee.names):
            raise AssertionError(f"{callee.function.name} takes {callee.names}, not {list(arguments)}")
        return [self._lift(arguments[name]) for name in callee.names]

    def only_if(
        self, condition: Value, values: Sequence[Carried], changed: Callable[[], Sequence[Carried]]
    ) -> list[Carried]:
        """`changed()` where the condition holds, else `values`; the code of `changed` then does not run at all."""
        b = self.builder
        before = b.block
        with b.if_then(condition):
            results = changed()
            inside = b.block
        phis = [b.phi(_bare(value).type) for value in values]
        for phi, value, result in zip(phis, values, results, strict=True):
            phi.add_incoming(_bare(value), before)
            phi.add_incoming(_bare(result), inside)
        return [_like(value, phi) for value, phi in zip(values, phis, strict=True)]

    def done(self, result: Value = None) -> None:
        """The function's end, with what it returns."""
        self.builder.ret_void() if result is None else self.builder.ret(result)

    def _lift(self, value: Int | Pointer | int) -> Value:
        return _integer(I64, value) if isinstance(value, int) else value.value

    # --- numbers ------------------------------------------------------------------------------------------------------

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a·b + c: one instruction where the target has it, else a product and a sum (`llvm.fma` would then be a
        library call a lane; `llvm.fmuladd` is not)."""
        return self._intrinsic("llvm.fmuladd." + _intrinsic_suffix(a.type), a.type, a, b, c)

    def _intrinsic(self, name: str, result: Any, *arguments: Value) -> Value:
        """A call of one of LLVM's own functions."""
        callee = self.module.globals.get(name)
        if callee is None:
            callee = ir.Function(self.module, ir.FunctionType(result, [value.type for value in arguments]), name)
        return self.builder.call(callee, arguments)

    def add(self, a: Value, b: Value) -> Value:
        return self.builder.fadd(a, b)

    def splat(self, value: Value, lanes: int) -> Value:
        """A scalar in every lane."""
        nothing = _undefined(value.type, lanes)
        first = self.builder.insert_element(nothing, value, _integer(I32, 0))
        return self.shuffle(first, nothing, [0] * lanes)

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """Lanes picked from a (0 …) and b (len(a) …)."""
        return self.builder.shuffle_vector(a, b, _integers(I32, tuple(lanes)))

    def first_lanes(self, count: Int, lanes: int) -> Value:
        """A mask of the lanes below `count`."""
        wide = self.splat(count.value, lanes)
        return self.builder.icmp_signed("<", _integers(I64, tuple(range(lanes))), wide)

    def lanes_from(self, first: Int, lanes: int) -> Value:
        """A mask of the lanes from `first` on."""
        return self.builder.not_(self.first_lanes(first, lanes))

    def put_past_caches(self, pointer: Pointer, value: Value) -> None:
        """Store a whole vector, at an address aligned to it, without reading its cache line first or keeping it."""
        vector_bytes = value.type.count * _bytes(self.float)
        stored = self.builder.store(value, pointer.value, align=vector_bytes)
        stored.set_metadata("nontemporal", self.module.add_metadata([ir.Constant(I32, 1)]))

    def put_masked(self, pointer: Pointer, value: Value, mask: Value) -> None:
        """Store the lanes that `mask` has; the memory of the others is not touched."""
        name = f"llvm.masked.store.{_intrinsic_suffix(value.type)}.p0"
        self._intrinsic(name, VOID, value, pointer.value, ir.Constant(I32, _bytes(self.float)), mask)

    def load_masked(self, pointer: Pointer, lanes: int, mask: Value) -> Value:
        """Load the lanes that `mask` has, zeros in the others; the memory of the others is not touched."""
        vector = ir.VectorType(self.float, lanes)
        name = f"llvm.masked.load.{_intrinsic_suffix(vector)}.p0"
        align = ir.Constant(I32, _bytes(self.float))
        return self._intrinsic(name, vector, pointer.value, align, mask, self.zeros(lanes))

    def load(self, pointer: Pointer, lanes: int, mask: Value | None) -> Value:
        """A whole vector, or the lanes that the mask has where there is one."""
        return pointer.vector(lanes) if mask is None else self.load_masked(pointer, lanes, mask)

    def store(self, pointer: Pointer, value: Value, mask: Value | None) -> None:
        """A whole vector, or the lanes that the mask has where there is one."""
        if mask is None:
            pointer.put(value)
        else:
            self.put_masked(pointer, value, mask)

    def each_vector(self, count: Int, lanes: int, body: Callable[[Int, Value | None], None]) -> None:
        """`body(number of the vector, mask)` for `count` numbers; the last ones, where they fill no vector, with a
        mask."""
        whole = count // lanes
        with self.loop(whole) as v:
            body(v.index, None)
        rest = count - whole * lanes
        with self.if_(rest.compare(">", 0)):
            body(whole, self.first_lanes(rest, lanes))

    def prefetch(self, pointer: Pointer, *, write: bool = False) -> None:
        """Ask for the cache line at an address, to read or to write it soon. Any address will do, even a wrong one."""
        how = (_integer(I32, n) for n in (int(write), 3, 1))
        self._intrinsic("llvm.prefetch.p0", VOID, pointer.value, *how)

    def pause(self, x86: bool) -> None:
        """A moment's rest, in a loop that looks for what another thread writes."""
        if x86:
            self._intrinsic("llvm.x86.sse2.pause", VOID)
        else:
            self._intrinsic("llvm.aarch64.hint", VOID, ir.Constant(I32, 1))

    def transposed(self, rows: Sequence[Value]) -> list[Value]:
        """A square of vectors with rows and columns exchanged, in log₂(n) rounds of two-input shuffles.

        Round m exchanges, in every 2m×2m block, the upper right m×m block with the lower left one.
        """
        vectors, size = list(rows), len(rows)
        m = 1
        while m < size:
            low = [lane if not lane & m else size + lane - m for lane in range(size)]
            high = [lane + m if not lane & m else size + lane for lane in range(size)]
            for i in range(size):
                if not i & m:
                    a, b = vectors[i], vectors[i + m]
                    vectors[i], vectors[i + m] = self.shuffle(a, b, low), self.shuffle(a, b, high)
            m *= 2
        return vectors


class Vector:
    """Lanes of numbers, calculated with as a formula is written; a Python number stands for itself in every lane.

    A sum of a product is one instruction, and one rounding, only where `fma` says so.
    """

    __slots__ = ("f", "value")

    def __init__(self, f: Function, value: Value) -> None:
        self.f, self.value = f, value

    @property
    def lanes(self) -> int:
        return int(self.value.type.count)

    def _lift(self, other: VectorLike) -> Value:
        return other.value if isinstance(other, Vector) else everywhere(self.value.type.element, self.lanes, other)

    def _new(self, value: Value) -> Vector:
        return Vector(self.f, value)

    def __add__(self, other: VectorLike) -> Vector:
        return self._new(self.f.builder.fadd(self.value, self._lift(other)))

    def __sub__(self, other: VectorLike) -> Vector:
        return self._new(self.f.builder.fsub(self.value, self._lift(other)))

    def __mul__(self, other: VectorLike) -> Vector:
        return self._new(self.f.builder.fmul(self.value, self._lift(other)))

    def __truediv__(self, other: VectorLike) -> Vector:
        return self._new(self.f.builder.fdiv(self.value, self._lift(other)))

    def __rtruediv__(self, other: float) -> Vector:
        return self._new(self.f.builder.fdiv(self._lift(other), self.value))

    def __rsub__(self, other: float) -> Vector:
        return self._new(self.f.builder.fsub(self._lift(other), self.value))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Vector:
        return self._new(self.f.builder.fneg(self.value))

    def __abs__(self) -> Vector:
        return self.masked((1 << (_bytes(self.value.type.element) * 8 - 1)) - 1)

    def fma(self, factor: VectorLike, summand: VectorLike) -> Vector:
        """self·factor + summand, rounded once where the target can."""
        return self._new(self.f.fma(self.value, self._lift(factor), self._lift(summand)))

    def above(self, number: VectorLike) -> Value:
        """A mask of the lanes above `number`; NaN is not."""
        return self.f.builder.fcmp_ordered(">", self.value, self._lift(number))

    def below(self, number: VectorLike) -> Value:
        """A mask of the lanes below `number`; NaN is not."""
        return self.f.builder.fcmp_ordered("<", self.value, self._lift(number))

    def like(self, number: float) -> Vector:
        """As many lanes, with this number in each."""
        return self._new(self._lift(number))

    def by_llvm(self, name: str, *others: Vector) -> Vector:
        """One of LLVM's functions of a number, or of several: an instruction where the target has one, else the C
        library's."""
        kind, values = self.value.type, [vector.value for vector in (self, *others)]
        return self._new(self.f._intrinsic(f"llvm.{name}.{_intrinsic_suffix(kind)}", kind, *values))

    def where(self, mask: Value, other: VectorLike) -> Vector:
        """Its own lanes where the mask has them, else the other's."""
        return self._new(self.f.builder.select(mask, self.value, self._lift(other)))

    def at_least(self, number: VectorLike) -> Vector:
        """max(self, number) in every lane; NaN stays NaN. x86's `max(number, self)` is exactly that."""
        return self._new(self.f.builder.select(self.below(number), self._lift(number), self.value))

    def at_most(self, number: VectorLike) -> Vector:
        """min(self, number) in every lane; NaN stays NaN."""
        return self._new(self.f.builder.select(self.above(number), self._lift(number), self.value))

    def masked(self, bits: int) -> Vector:
        """The numbers' bits, those of `bits` only."""
        integers = self._integers()
        kept = self.f.builder.and_(integers, ir.Constant(integers.type, [bits] * self.lanes))
        return self._new(self.f.builder.bitcast(kept, self.value.type))

    def shifted_left(self, bits: int) -> Vector:
        """The numbers' bits, moved up."""
        integers = self._integers()
        moved = self.f.builder.shl(integers, ir.Constant(integers.type, [bits] * self.lanes))
        return self._new(self.f.builder.bitcast(moved, self.value.type))

    def _integers(self) -> Value:
        element = ir.IntType(_bytes(self.value.type.element) * 8)
        return self.f.builder.bitcast(self.value, ir.VectorType(element, self.lanes))


VectorLike: TypeAlias = Vector | float


def kernel(module: ir.Module, name: str, dtype: str, arguments: Arguments) -> tuple[Function, dict[str, Int]]:
    """An exported `void name(int64 *arguments, int64 thread, int64 threads)`: the function, and its `arguments`."""
    f = Function(module, name, "*arguments thread threads", dtype)
    return f, arguments.read(f.pointer("arguments", I64))


def share(total: Int, part: Int, parts: Int) -> tuple[Int, Int]:
    """One part [first, last) of `total` things: equal up to one."""
    return total * part // parts, total * (part + 1) // parts


def indices(number: Int, *sizes: Int) -> list[Int]:
    """What `number` counts along several axes, the last running fastest; `sizes` are those of all but the first."""
    found: list[Int] = []
    for size in reversed(sizes):
        number, found = number // size, [number % size, *found]
    return [number, *found]


COUNTERS = 8
"""Numbers before a kernel's arguments that each thread has for `tasks`: a cache line, so that threads do not meet."""


@contextmanager
def tasks(f: Function, total: Int, carry: Sequence[Carried] = ()) -> Iterator[Loop]:
    """The loop over those of `total` tasks that this thread of a kernel does; they may come in any order.

    Each thread has a part of them (`share`), which it does from the first on, so that from call to call it meets what
    is in its caches. When it has done them it takes from the others' parts, from the last on: a thread whose core is
    slower, or busy with something else, holds up the others for no more than the task in its hands.

    Two counters for each thread, which are 0 before a kernel runs, stand before the kernel's arguments: how many of its
    tasks were taken, by whomever, and how many of them by others.
    """
    arguments, (thread, threads) = f.pointer("arguments", I64), f.integers("thread threads")
    with f.loop(threads, carry=carry) as other:
        around = thread + other.index
        whose = f.choose(around.compare("<", threads), around, around - threads)
        first, end = share(total, whose, threads)
        counters = arguments.at((whose - threads) * COUNTERS)
        with f.while_([first, *other.values], lambda _: counters.count().compare("<", end - first)) as each:
            others = other.index.compare("!=", 0)
            (index,) = f.only_if(others, [each.index], lambda: [end - 1 - counters.at(1).count()])
            task = Loop(index, each.values[1:])
            yield task
            each.carry([each.index + 1, *(task.following or ())])
        other.carry(each.values[1:])
    task.values = other.values


def _intrinsic_suffix(type_: Any) -> str:
    return (
        f"v{type_.count}f{_bytes(type_.element) * 8}" if isinstance(type_, ir.VectorType) else f"f{_bytes(type_) * 8}"
    )


class Arguments:
    """The names of the numbers that a kernel is called with, in order: written once, used on both sides of the call."""

    def __init__(self, names: str) -> None:
        self.names = tuple(names.split())
        self._position = {name: position for position, name in enumerate(self.names)}

    def read(self, array: Pointer) -> dict[str, Int]:
        """In the kernel: each argument as a run-time integer."""
        return {name: array.at(position).integer() for name, position in self._position.items()}

    def pack(self, values: dict[str, int]) -> list[int]:
        """Outside: the numbers in order."""
        return [values[name] for name in self.names]

    def position(self, name: str) -> int:
        return self._position[name]
