"""What a plan looks like."""

from __future__ import annotations

from collections.abc import Callable

from plan_networks import Mobile, ResNet, Transformer, UNet
from rich.console import Console
from torch import nn

from convforge.models import families
from convforge.planning import plan
from convforge.planning.table import as_short_table, as_text, short_sums


def test_tables_are_as_they_were_judged_good(golden: Callable[[str, str], None]) -> None:
    lesson = nn.Sequential(nn.Conv2d(3, 64, 3, padding="same", bias=False))
    kinds = nn.Sequential(
        nn.Conv2d(3, 8, 4, padding="same"),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(8, 8, (3, 5), (2, 1), (1, 4), (1, 2), groups=2),
        nn.GroupNorm(2, 8),
        nn.ConvTranspose2d(8, 8, 4, 2, 1),
    )
    golden("plan_lesson.txt", str(plan(lesson, (3, 224, 224))))
    golden("plan_resnet.txt", str(plan(ResNet(), (3, 224, 224))))
    golden("plan_mobile.txt", str(plan(Mobile(), (3, 224, 224))))
    golden("plan_unet.txt", str(plan(UNet(), (3, 64, 64))))
    golden("plan_transformer.txt", str(plan(Transformer(), (3, 32, 32))))
    golden("plan_kinds.txt", str(plan(kinds, (3, 32, 32), batch=2)))


def test_a_hundred_columns_are_enough_and_nothing_is_lost() -> None:
    model = nn.Sequential()
    inner = model
    for name in ("backbone", "stages", "downsampling", "projection"):
        inner.add_module(name, nn.Sequential())
        inner = inner.get_submodule(name)
    inner.add_module("convolution", nn.Conv2d(3, 2048, 7, 2, 3, padding_mode="circular"))
    text = as_text(plan(model, (3, 1024, 2048)))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "…" not in text
    folded = "".join(line.split(" ")[0] for line in text.splitlines())
    assert "backbone.stages.downsampling.projection.convolution" in folded


def test_at_eighty_columns_each_layer_keeps_to_one_line() -> None:
    counted = plan(ResNet(), (3, 224, 224))
    lines = as_text(counted, width=80).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert "…" not in "".join(lines)
    for row in counted.rows:
        assert [line for line in lines if line.startswith(row.name)], row.name
    assert "Left out, for want of width: Memory, Stride." in lines


def test_numbers_too_long_for_the_width_are_rounded_and_not_cut() -> None:
    text = as_text(plan(nn.Sequential(nn.Conv2d(3, 64, 3, padding=1)), (3, 4096, 4096)), width=60)
    assert "…" not in text
    assert "54.0 P" in text


def test_the_short_form(golden: Callable[[str, str], None]) -> None:
    console = Console(width=80, color_system=None, legacy_windows=False)
    counted = plan(families.build("vgg", classes=10, input_shape=(1, 28, 28)), (1, 28, 28))
    with console.capture() as shown:
        console.print(as_short_table(counted))
    lines = [line.rstrip() for line in shown.get().splitlines()]
    golden("plan_short.txt", "\n".join([*lines, "", *short_sums(counted)]))
