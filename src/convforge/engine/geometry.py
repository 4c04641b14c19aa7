"""From a spec to the numbers that the kernels run on. Nothing here touches data.

The three passes of a convolution come down to two computations:

- `Sliding`: kernels slide over an image. The forward pass is one. The input gradient at stride s is s·s of them, one
  for each phase: the input rows with h + pad ≡ ρ (mod s) meet only the taps with i·d ≡ ρ (mod s), and for those

      h + pad = p'·s + ρ   ⇒   p = p' − (i·d − ρ)/s,

  a convolution at stride 1 with fewer taps, so nothing is multiplied by an inserted zero;
- the weight gradient, which takes the forward pass's geometry as it is.

Padding, dilation and stride are numbers that nothing of that size in memory stands behind, so nothing here or in the
kernels may take time or memory in proportion to them. On an axis where they are large (`Axis.long`), taps that are
nowhere inside the image are left out (`Axis.trimmed`), and outputs whose kernels would reach over far more than the
image are taken in pieces, each with the taps that are inside there (`Axis.pieces`). Where there are phases of the
input gradient that no tap meets, all of it is cleared first.

Strides and offsets count elements. Height and width are an `Axis` each, so that they share the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..native.target import DTYPE_BYTES, Target
from ..spec import Conv2dSpec, ceil_div, kernel_extent, round_up

Strides = tuple[int, int, int, int]

_LONG = 1024
"""From so many input positions under a few neighbouring outputs on it is worth a thought which are in the image."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a `Sliding`: sizes, and the distances between neighbours in x, w and y with their starting points."""

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    """Before; negative crops. What is padded after follows from `out`."""
    x_step: int
    w_step: int
    y_step: int
    x_start: int = 0
    w_start: int = 0
    y_start: int = 0

    def met_at(self, tap: int) -> range:
        """The outputs p at which a tap is inside the image: 0 ≤ p·s + i·d − pad < size.

        >>> axis = Axis(size=5, out=5, kernel=3, stride=1, dilation=1, pad=1, x_step=1, w_step=1, y_step=1)
        >>> axis.met_at(0), axis.met_at(1)
        (range(1, 5), range(0, 5))
        """
        offset = self.pad - tap * self.dilation
        first = max(0, ceil_div(offset, self.stride))
        return range(first, max(first, min(self.out, (self.size - 1 + offset) // self.stride + 1)))

    @property
    def extent(self) -> int:
        """Inputs that a kernel spans."""
        return kernel_extent(self.kernel, self.dilation)

    def seen_by(self, outputs: int) -> int:
        """Inputs from the first to the last that so many neighbouring outputs meet."""
        return (outputs - 1) * self.stride + self.extent

    @property
    def long(self) -> bool:
        """Whether a few neighbouring outputs, and the kernel of each, reach over very many inputs."""
        return self.seen_by(17) - 1 > _LONG

    @property
    def blank(self) -> bool:
        """Whether it sees nothing but padding, in its `emptied` form."""
        return self.kernel == 1 and not self.met_at(0)

    def emptied(self) -> Axis:
        """The same outputs where no tap is inside the image at any of them: one tap, on as many zeros."""
        return replace(self, kernel=1, stride=1, dilation=1, pad=self.out)

    def trimmed(self) -> Axis:
        """Where it is long, without the first and last taps that are inside the image at no output. Gaps in a single
        tap mean nothing, nor does the step to the next output where there is none.

        >>> Axis(10, 10, 3, 1, 10**6, 10**6, x_step=1, w_step=1, y_step=1).trimmed()  # doctest: +ELLIPSIS
        Axis(size=10, out=10, kernel=1, stride=1, dilation=1, pad=0, ... w_start=1, y_start=0)
        """
        if not self.long:
            return replace(self, dilation=1) if self.kernel == 1 else self
        first, last = 0, self.kernel - 1
        while first <= last and not self.met_at(first):
            first += 1
        while first < last and not self.met_at(last):
            last -= 1
        if first > last:
            return self.emptied() if self.kernel else self
        return replace(
            self,
            kernel=last - first + 1,
            stride=self.stride if self.out > 1 else 1,
            dilation=self.dilation if last > first else 1,
            pad=self.pad - first * self.dilation,
            w_start=self.w_start + first * self.w_step,
        )

    def pieces(self) -> Iterator[Axis]:
        """The outputs in pieces, so that the inputs that a piece's kernel reaches over are no more than the sizes of
        image and kernel account for. Nearly always that is this axis as it is.

        Taps further apart than the image is large are never inside at the same output: a piece for each of them.
        Others have one piece, from the first to the last output that any of them is inside at. All else sees padding.
        """
        if not self.long:
            yield self
            return
        met = [(self.met_at(tap), tap) for tap in reversed(range(self.kernel))]  # the last taps are inside first
        met = [(outputs, tap) for outputs, tap in met if outputs]
        if met and self.dilation < self.size:
            met = [(range(met[0][0].start, met[-1][0].stop), 0)]
        kernel, done = self.kernel if self.dilation < self.size else 1, 0
        for outputs, tap in met:
            if done < outputs.start:
                yield self._part(range(done, outputs.start)).emptied()
            yield replace(self._part(outputs, tap), kernel=kernel).trimmed()
            done = outputs.stop
        if done < self.out:
            yield self._part(range(done, self.out)).emptied()

    def _part(self, outputs: range, tap: int = 0) -> Axis:
        """Some of the outputs, and the taps from this one on."""
        return replace(
            self,
            out=len(outputs),
            pad=self.pad - tap * self.dilation - outputs.start * self.stride,
            w_start=self.w_start + tap * self.w_step,
            y_start=self.y_start + outputs.start * self.y_step,
        )

    def folded(self) -> Axis:
        """A single tap at stride s reads every s-th input: the same at stride 1 on a thinned-out input."""
        if self.kernel > 1 or self.stride == 1:
            return self
        s, pad = self.stride, ceil_div(self.pad, self.stride)
        first = pad * s - self.pad  # the first input that is read, if it exists
        size = max(0, ceil_div(self.size - first, s))
        return replace(
            self,
            size=size,
            stride=1,
            pad=pad,
            x_step=self.x_step * s if size > 1 else self.x_step,
            x_start=self.x_start + first * self.x_step if size else self.x_start,
        )

    def phases(self) -> Iterator[Axis]:
        """The input gradient along this axis (see above), by phases: those that have taps inside the image. Here `size`
        is x's, that is, the result's."""
        s, d = self.stride, self.dilation
        taps_of: dict[int, list[int]] = {}
        for tap in range(self.kernel):
            taps_of.setdefault(tap * d % s, []).append(tap)
        # Taps of a phase are so far apart, where it has more than one.
        every = min(s // math.gcd(s, d), max(self.kernel, self.size))
        for phase, taps in sorted(taps_of.items()):
            # h = q·s + first for q = 0 …, the positions of this phase inside the image
            first = (phase - self.pad) % s
            out = ceil_div(self.size - first, s)
            if out < 1:
                continue
            base = (first + self.pad - phase) // s  # p' of the first of them
            # p = p' − (i·d − ρ)/s falls as the tap rises: the taps are taken from the last to the first
            axis = replace(
                self.exchanged(),
                out=out,
                kernel=len(taps),
                stride=1,
                dilation=d // math.gcd(s, d),
                pad=(taps[-1] * d - phase) // s - base,
                w_step=-every * self.w_step,
                w_start=self.w_start + taps[-1] * self.w_step,
                y_step=s * self.x_step if out > 1 else self.x_step,
                y_start=self.x_start + first * self.x_step,
            ).trimmed()
            if not axis.blank:
                yield axis

    def cleared(self) -> Axis:
        """The input gradient along this axis, of all phases, as if no tap met the image."""
        return replace(self.exchanged(), kernel=0, stride=1, dilation=1, pad=0)

    def exchanged(self) -> Axis:
        """With x's and y's part in each other's place."""
        return replace(
            self, size=self.out, out=self.size, x_step=self.y_step, x_start=self.y_start, y_step=self.x_step,
            y_start=self.x_start,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sliding:
    """One sliding of kernels over images, layouts included. `channels` and `outputs` are those of one group.

    `lanewise` marks a depthwise one, whose groups are panels of channels: nothing is summed over them (`depthwise.py`).
    """

    images: int
    groups: int
    channels: int
    outputs: int
    vertical: Axis
    horizontal: Axis
    x_n: int
    x_c: int
    y_n: int
    y_c: int
    w_g: int
    w_k: int
    w_c: int
    all_channels: int
    lanewise: bool = False

    @property
    def depth(self) -> int:
        """Input channels that are summed for one output."""
        return 1 if self.lanewise else self.channels

    @property
    def all_outputs(self) -> int:
        return self.all_channels if self.lanewise else self.groups * self.outputs

    @property
    def taps(self) -> int:
        """Products that are summed for one output."""
        return self.vertical.kernel * self.horizontal.kernel * self.depth

    def simplified(self) -> Sliding:
        """The same computation as fewer, longer rows: strides of single taps folded, and a pointwise convolution's
        pixels joined into one row where they lie one after the other, so that tiles need not end with an image's row.
        """
        v, h = self.vertical.folded(), self.horizontal.folded()
        joined = replace(self, vertical=v, horizontal=h)
        pointwise = v.kernel == h.kernel == 1 and v.pad == h.pad == 0 and (v.size, h.size) == (v.out, h.out)
        if pointwise and v.x_step == h.size * h.x_step and v.y_step == h.out * h.y_step:
            pixels = v.size * h.size
            row = replace(
                h,
                size=pixels,
                out=pixels,
                x_start=h.x_start + v.x_start,
                w_start=h.w_start + v.w_start,
                y_start=h.y_start + v.y_start,
            )
            one = Axis(1, 1, 1, 1, 1, 0, x_step=pixels * h.x_step, w_step=0, y_step=pixels * h.y_step)
            joined = replace(joined, vertical=one, horizontal=row)
            if self.x_n == pixels * h.x_step and self.y_n == pixels * h.y_step:
                whole = replace(row, size=pixels * self.images, out=pixels * self.images)
                one = replace(one, x_step=self.images * self.x_n, y_step=self.images * self.y_n)
                joined = replace(joined, images=1, vertical=one, horizontal=whole)
        return joined

    def exchanged(self) -> Sliding:
        """With x's and y's part in each other's place, and so the channels of the weights."""
        return replace(
            self,
            channels=self.outputs,
            outputs=self.channels,
            all_channels=self.groups * self.outputs,
            vertical=self.vertical.exchanged(),
            horizontal=self.horizontal.exchanged(),
            x_n=self.y_n,
            x_c=self.y_c,
            y_n=self.x_n,
            y_c=self.x_c,
            w_k=self.w_c,
            w_c=self.w_k,
        )

    @property
    def blank(self) -> bool:
        """Whether it sees nothing but padding."""
        return self.vertical.blank or self.horizontal.blank

    def pieces(self) -> Iterator[Sliding]:
        """The outputs in pieces (`Axis.pieces`). One that sees nothing but padding needs no more than a single tap and
        channel of zeros."""
        for v in self.vertical.pieces():
            for h in [self.horizontal] if v.blank else self.horizontal.pieces():
                if v.blank or h.blank:
                    yield replace(self, vertical=v.emptied(), horizontal=h.emptied(), channels=1)
                else:
                    yield replace(self, vertical=v, horizontal=h)

    @property
    def phases_touch(self) -> bool:
        """Whether the horizontal phases of the input gradient are one convolution with s times as many outputs.

        All phases have the same taps and cover the row where the stride divides kernel, padding and width. In NHWC,
        x's gradient at (q·s + ρ, c) is then number ρ·C + c behind q·s, and the weight of tap t·s + ρ and channel c is
        number ρ·C + c behind tap t·s: (ρ, c) counts output channels that lie side by side.
        """
        h, s = self.horizontal, self.horizontal.stride
        return (
            s > 1
            and self.groups == h.dilation == 1
            and h.kernel % s == h.pad % s == h.size % s == 0
            and (self.x_c, h.x_step) == (self.w_c, h.w_step) == (1, self.channels)
        )

    @property
    def numbers(self) -> dict[str, int]:
        """What kernels are told of it; each takes those that its `Arguments` name."""
        v, h = self.vertical, self.horizontal
        return {
            "x_n": self.x_n, "x_c": self.x_c, "x_h": v.x_step, "x_w": h.x_step,
            "w_g": self.w_g, "w_k": self.w_k, "w_c": self.w_c, "w_i": v.w_step, "w_j": h.w_step,
            "y_n": self.y_n, "y_c": self.y_c, "y_h": v.y_step, "y_w": h.y_step,
            "images": self.images, "groups": self.groups, "channels": self.channels, "outputs": self.outputs,
            "all_channels": self.all_channels, "all_outputs": self.all_outputs, "depth": self.depth,
            "height": v.size, "width": h.size, "out_height": v.out, "out_width": h.out,
            "kernel_h": v.kernel, "kernel_w": h.kernel, "stride_h": v.stride, "stride_w": h.stride,
            "dilation_h": v.dilation, "dilation_w": h.dilation, "pad_top": v.pad, "pad_left": h.pad,
        }  # fmt: skip

    @property
    def weights(self) -> dict[str, int]:
        """The same for packing the weights and for collecting their gradient, to which a depthwise one's channels are
        all outputs of one group."""
        if not self.lanewise:
            return self.numbers
        return self.numbers | {"groups": 1, "outputs": self.all_channels, "channels": 1, "w_g": 0, "w_c": self.taps}

    @property
    def x_start(self) -> int:
        return self.vertical.x_start + self.horizontal.x_start

    @property
    def w_start(self) -> int:
        return self.vertical.w_start + self.horizontal.w_start

    @property
    def y_start(self) -> int:
        return self.vertical.y_start + self.horizontal.y_start

    @property
    def macs(self) -> int:
        return self.images * self.all_outputs * self.vertical.out * self.horizontal.out * self.taps


@dataclass(frozen=True, slots=True)
class Problem:
    """A convolution on tensors of given sizes and layouts: x `(N, C, H, W)`, w `(K, C/g, k, k)`, y `(N, K, H', W')`.

    `pads` are those before (top, left). The strides tell the layout; any will do.
    """

    dtype: str
    x_shape: Strides
    w_shape: Strides
    y_shape: Strides
    stride: tuple[int, int]
    pads: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    x_strides: Strides
    w_strides: Strides
    y_strides: Strides

    @classmethod
    def of(
        cls, spec: Conv2dSpec, batch: int, size: tuple[int, int], dtype: str = "float32", channels_last: bool = True
    ) -> Problem:
        """A spec on a batch of images, all tensors dense and in the same memory format."""
        shapes = (
            (batch, spec.in_channels, *size),
            spec.weight_shape,
            (batch, spec.out_channels, *spec.output_size(size)),
        )

        (top, _), (left, _) = spec.sides(size)
        x, w, y = (_dense(shape, channels_last) for shape in shapes)
        return cls(dtype, *shapes, spec.stride, (top, left), spec.dilation, spec.groups, x, w, y)

    def of_one_image(self) -> Problem:
        """The same of the batch's first image, all tensors dense and channels_last."""
        x, y = (1, *self.x_shape[1:]), (1, *self.y_shape[1:])
        x_strides, w_strides, y_strides = (_dense(shape, channels_last=True) for shape in (x, self.w_shape, y))
        return replace(self, x_shape=x, y_shape=y, x_strides=x_strides, w_strides=w_strides, y_strides=y_strides)

    def forward(self) -> Sliding:
        """x and w to y."""
        axes = [
            Axis(
                size=self.x_shape[2 + a],
                out=self.y_shape[2 + a],
                kernel=self.w_shape[2 + a],
                stride=self.stride[a],
                dilation=self.dilation[a],
                pad=self.pads[a],
                x_step=self.x_strides[2 + a],
                w_step=self.w_strides[2 + a],
                y_step=self.y_strides[2 + a],
            ).trimmed()
            for a in (0, 1)
        ]
        outputs = self.w_shape[0] // self.groups
        return Sliding(
            images=self.x_shape[0],
            groups=self.groups,
            channels=self.w_shape[1],
            outputs=outputs,
            vertical=axes[0],
            horizontal=axes[1],
            x_n=self.x_strides[0],
            x_c=self.x_strides[1],
            y_n=self.y_strides[0],
            y_c=self.y_strides[1],
            w_g=self.w_strides[0] * outputs,
            w_k=self.w_strides[0],
            w_c=self.w_strides[1],
            all_channels=self.x_shape[1],
        )

    def input_gradient(self, joined: bool = True) -> Iterator[Sliding]:
        """y's gradient and w to x's: input and output change places, and so do the channels of the weights. Phases that
        touch are `joined` to one sliding, whose output channels are then not x's."""
        straight = self.forward()
        v, h = straight.vertical, straight.horizontal
        turned = straight.exchanged()
        down, across = list(v.phases()), list(h.phases())
        if sum(axis.out for axis in down) < v.size or sum(axis.out for axis in across) < h.size:
            yield replace(turned, vertical=v.cleared(), horizontal=h.cleared())
        if joined and straight.phases_touch:
            turned, across = replace(turned, outputs=h.stride * turned.outputs), across[:1]
        for vertical in down:
            for horizontal in across:
                yield replace(turned, vertical=vertical, horizontal=horizontal)


def _dense(shape: Strides, channels_last: bool) -> Strides:
    _, c, h, w = shape
    return (c * h * w, 1, w * c, c) if channels_last else (c * h * w, h * w, w, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Blocks
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Blocking:
    """How output pixels are cut into blocks, and how each block's input lies in scratch (see `blocks.py`)."""

    rows: int
    columns: int
    pitch: int
    in_place: bool
    sparse: bool
    row_pitch: int
    scratch_numbers: int

    def count(self, s: Sliding) -> tuple[int, int]:
        """Blocks down and across an image."""
        return ceil_div(s.vertical.out, self.rows), ceil_div(s.horizontal.out, self.columns)

    def arguments(self, s: Sliding) -> dict[str, int]:
        """What the kernels are told: the `BLOCK_ARGUMENTS` but for addresses."""
        v, h = s.vertical, s.horizontal
        down, across = self.count(s)
        touching = h.dilation * self.pitch == s.channels and not s.lanewise
        return s.numbers | {
            "block_rows": self.rows, "block_columns": self.columns,
            "row_blocks": down, "column_blocks": across,
            "pitch": self.pitch, "row_pitch": self.row_pitch, "in_place": int(self.in_place),
            "slot_r": v.kernel if self.sparse else v.stride,
            "slot_i": 1 if self.sparse else v.dilation,
            "slot_sets": 1 if self.sparse else v.extent,
            "set_size": v.kernel if self.sparse else 1,
            "set_step": v.stride if self.sparse else 1,
            "member_step": v.dilation if self.sparse else 0,
            "runs": 1 if touching else h.kernel,
            "run_step": h.dilation * self.pitch,
            "run_length": h.kernel * s.channels if touching else s.depth,
        }  # fmt: skip


def blocking(s: Sliding, dtype: str, target: Target, most_pixels: int, threads: int) -> Blocking:
    """Blocks whose packed input takes about a third of L2, beside the weights, and of at most `most_pixels` pixels."""
    v, h = s.vertical, s.horizontal
    size = DTYPE_BYTES[dtype]
    in_place = _readable_in_place(s, size)
    pitch = h.x_step if in_place else scratch_pitch(s.channels, h.stride, size)
    budget = target.l2_bytes // 3 // (pitch * size)  # pixels of input

    def rows_of(rows: int) -> tuple[int, bool]:
        dense, sparse = v.seen_by(rows), rows * v.kernel
        if in_place or v.kernel == 0:  # a phase that no tap meets: nothing is read, zeros are written
            return max(dense, 1), False
        return min(dense, sparse), sparse < dense

    # Columns: whole rows where one output row's input fits, else a multiple of the tile.
    fit = (budget // rows_of(1)[0] - h.extent) // h.stride + 1
    columns = min(h.out, most_pixels, max(target.tile_rows, fit // target.tile_rows * target.tile_rows))
    columns = ceil_div(h.out, ceil_div(h.out, columns))
    if columns < h.out:
        columns = min(h.out, round_up(columns, target.tile_rows))
    width = h.seen_by(columns)

    # Rows: as many as fit, but no fewer than four blocks a thread where the image allows it.
    rows = 1
    while rows < v.out and rows_of(rows + 1)[0] * width <= budget and (rows + 1) * columns <= most_pixels:
        rows += 1
    panels = ceil_div(s.outputs, target.panel(dtype))
    others = s.images * s.groups * ceil_div(h.out, columns) * panels
    rows = min(rows, max(1, v.out * others // (4 * threads)))
    rows = ceil_div(v.out, ceil_div(v.out, rows))

    slots, sparse = rows_of(rows)
    row_pitch = v.x_step if in_place else width * pitch
    return Blocking(rows, columns, pitch, in_place, sparse, row_pitch, 0 if in_place else slots * width * pitch)


def _readable_in_place(s: Sliding, size: int) -> bool:
    """Channels side by side, no padding on any side, and neighbouring pixels not all in the same cache sets."""
    inside = all(axis.pad == 0 and axis.seen_by(axis.out) <= axis.size for axis in (s.vertical, s.horizontal))
    pixel_step = s.horizontal.stride * s.horizontal.x_step
    whole_vectors = s.all_channels % s.channels == 0  # else the last group's loads would run past the image
    return inside and whole_vectors and s.x_c == 1 and pixel_step > 0 and pixel_step * size % 4096 != 0


def scratch_pitch(channels: int, stride: int, size: int) -> int:
    """Numbers a pixel in scratch: its channels, and a cache line more where the tile's pixels would otherwise be a
    multiple of 1024 bytes apart: they would then share a quarter of L1's sets (64 of 64 bytes), or less, and a tile
    touches 14 of them at once. Measured: +5 % at 256 to 1024 channels."""
    return channels + 64 // size if stride * channels * size % 1024 == 0 else channels
