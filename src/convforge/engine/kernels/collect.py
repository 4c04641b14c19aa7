"""The sums of several threads added up, and brought from panels of output channels into the layout of the weights."""

from __future__ import annotations

from llvmlite import ir

from .ir import Arguments, Function, kernel, tasks
from .tile import filled

COLLECT = Arguments("parts splits groups panels outputs channels kernel_h kernel_w w w_g w_k w_c w_i w_j")


def add_collect(module: ir.Module, dtype: str, copy: Function, lanes: int, panel: int) -> None:
    """dw = the sum of the parts, in the layout of the weights."""
    f, a = kernel(module, "collect", dtype, COLLECT)
    kernel_size = a["kernel_h"] * a["kernel_w"]
    part_size = a["groups"] * a["panels"] * panel * kernel_size * a["channels"]
    with tasks(f, a["groups"] * a["panels"] * kernel_size) as task:
        tap, panel_index = task.index % kernel_size, task.index // kernel_size % a["panels"]
        group = task.index // kernel_size // a["panels"]
        outputs = (a["outputs"] - panel_index * panel).at_most(panel)
        width = filled(outputs, lanes)
        offset = (group * a["panels"] + panel_index) * panel * kernel_size * a["channels"] + tap * a["channels"] * width
        total = f.address(a["parts"]).at(offset)
        with f.loop(a["splits"], start=1) as split:
            part = total.at(split.index * part_size)
            with f.loop(a["channels"] * width, step=lanes) as at:
                here = total.at(at.index)
                here.put(f.add(here.vector(lanes), part.at(at.index).vector(lanes)))
        to = f.address(a["w"]).at(
            group * a["w_g"]
            + panel_index * panel * a["w_k"]
            + tap // a["kernel_w"] * a["w_i"]
            + tap % a["kernel_w"] * a["w_j"]
        )
        f.call(
            copy, to=to, to_i=a["w_k"], to_j=a["w_c"], source=total, source_i=1, source_j=width, width=outputs,
            length=a["channels"],
        )  # fmt: skip
    f.done()
