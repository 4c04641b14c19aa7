"""What a report looks like: the table as it was judged good, and the plot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from convforge import UserError
from convforge.bench import plot
from convforge.bench.layers import parse
from convforge.bench.machine import Machine
from convforge.bench.run import Report, Row, Timing
from convforge.bench.table import as_table
from convforge.engine.plan import Pass


def example() -> Report:
    limits = Machine("avx512", 2, peak=450e9, memory=45e9, cache=290e9)
    wide = parse('mb1ic64ih56oc64oh56kh3ph1n"resnet_50_v1_5:res2a_branch2b*3"')
    deep = parse("256,28,256,3,padding=1,groups=256,batch=16")
    torch = {"torch channels_last": Timing(0.0009, 4.3e-7), "torch": Timing(0.0008, 2.1e-7)}
    peers = {"ONNX Runtime": Timing(0.0007, 4.3e-7), "OpenVINO": Timing(0.0006, 4.3e-7)}
    all_of_them = {"direct": Timing(0.00063, 3.2e-7), "winograd 4×4": Timing(0.00025, 1.1e-6)}
    slower = {"direct": Timing(0.0005, 3.2e-7), "winograd 4×4": Timing(0.000625, 1.1e-6)}
    rows = (
        Row(wide, Pass.FORWARD, "winograd 4×4", Timing(0.00025, 1.1e-6), torch | peers, all_of_them),
        Row(wide, Pass.INPUT_GRADIENT, "winograd 4×4", Timing(0.000625, 3.2e-7), torch, slower),
        Row(wide, Pass.WEIGHT_GRADIENT, "direct", Timing(0.00064, 3.0e-7), torch, {"direct": Timing(0.00064, 3.0e-7)}),
        Row(deep, Pass.FORWARD, "depthwise", Timing(0.0011, 5.6e-8), torch | peers),
        Row(deep, Pass.INPUT_GRADIENT, "depthwise", Timing(0.0012, 5.6e-8), torch),
        Row(deep, Pass.WEIGHT_GRADIENT, "depthwise", Timing(0.0010, 2.4e-7), torch),
    )
    return Report(
        limits, True, False, {"python": "3.11.7", "torch": "2.13.0"}, rows, ("Stopped before the last layer.",)
    )


def shown(report: Report, width: int) -> str:
    console = Console(file=StringIO(), width=width, color_system=None, legacy_windows=False, force_jupyter=False)
    with console.capture() as capture:
        console.print(as_table(report))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def test_the_table_is_as_it_was_judged_good(golden: Callable[[str, str], None]) -> None:
    golden("bench_table.txt", shown(example(), width=120))
    golden("bench_narrow.txt", shown(example(), width=80))
    forward = tuple(replace(row, algorithms={}) for row in example().rows if row.which is Pass.FORWARD)
    golden("bench_forward.txt", shown(replace(example(), rows=forward, memory_kept=False, notes=()), width=120))


def test_a_cold_table(golden: Callable[[str, str], None]) -> None:
    def cold(row: Row) -> Row:
        times = {"convforge": 1.2 * row.ours.seconds} | {name: 1.1 * t.seconds for name, t in row.others.items()}
        return replace(row, algorithms={}, cold=times)

    rows = tuple(cold(row) for row in example().rows)
    golden("bench_cold.txt", shown(replace(example(), rows=rows, notes=()), width=120))
    assert rows[0].cold_ratio == pytest.approx(0.0006 * 1.1 / (0.00025 * 1.2))
    assert rows[0].to_dict(example().limits)["cold_seconds"]["OpenVINO"] == pytest.approx(0.00066)


def test_a_report_without_rows_is_not_an_error() -> None:
    assert "Stopped" in shown(replace(example(), rows=()), width=80)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_plot_is_written(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"roofline{suffix}"
    plot.check(path)
    plot.write(example(), path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")


def test_the_plot_says_what_is_where() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.add_subplot()
    report = example()
    plot.draw(report, Pass.FORWARD, axes)
    by_label = {line.get_label(): line for line in axes.get_lines()}
    roof = by_label["roofline: memory, then FMA peak"]
    assert max(roof.get_ydata()) == pytest.approx(450)
    ours = by_label["convforge, winograd 4×4 (multiplies less often than the definition)"]
    row = report.rows[0]
    assert (ours.get_xdata()[0], ours.get_ydata()[0]) == pytest.approx(
        (row.layer.intensity(Pass.FORWARD), row.layer.flops / 0.00025 / 1e9)
    )
    assert "convforge, direct" not in by_label  # that is another pass's


def test_a_plot_that_cannot_be_is_refused_before_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"\.png, \.svg, \.pdf"):
        plot.check(tmp_path / "roofline.jpg")
    with pytest.raises(UserError, match="no folder"):
        plot.check(tmp_path / "none" / "roofline.png")
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"convforge\[bench\]"):
        plot.check(tmp_path / "roofline.png")
