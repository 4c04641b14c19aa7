"""`convforge plan`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer
from typer.testing import CliRunner

from convforge.cli import plan as verb
from convforge.errors import UserError
from convforge.spec import SpecError


@pytest.fixture
def run() -> Callable[..., str]:
    app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    verb.register(app)

    def call(*arguments: str) -> str:
        return CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False).output

    return call


def test_the_lessons_layer(run: Callable[..., str], golden: Callable[[str, str], None]) -> None:
    shown = run("conv 64 3x3 same nobias, relu, pool 2, conv 128 3x3 same, gap, linear 10")
    for number in ("1,728", "150,528,000", "87,111×", "483,385,147,392"):
        assert number in shown
    assert max(len(line) for line in shown.splitlines()) <= 100
    golden("cli_plan.txt", "\n".join(line.rstrip() for line in shown.splitlines()))


def test_json(run: Callable[..., str]) -> None:
    data = json.loads(run("conv 1 3x3, conv 1 3x3, conv 1 3x3", "--input", "1x7x7", "--batch", "2", "--json"))
    assert [row["output_shape"] for row in data["rows"]] == [[2, 1, 5, 5], [2, 1, 3, 3], [2, 1, 1, 1]]
    assert data["rows"][-1]["receptive_field"] == [7, 7]


CHAIN = "conv 1 3x3, conv 1 3x3, conv 1 3x3, conv 1 3x3"


def test_the_layers_that_fit_are_shown_and_then_the_one_that_does_not(golden: Callable[[str, str], None]) -> None:
    command = [sys.executable, "-m", "convforge", "plan", CHAIN, "--input", "1x7x7"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    for name, output in (("conv1", "1×5×5"), ("conv2", "1×3×3"), ("conv3", "1×1×1")):
        (line,) = [line for line in result.stdout.splitlines() if line.startswith(name) and "Conv2d" in line]
        assert output in line
    assert result.stderr.startswith("error: layer 'conv4' (conv 1 3x3): a 3×3 kernel cannot be applied to a 1×1 input")
    golden("cli_plan_chain.txt", "\n".join(line.rstrip() for line in result.stdout.splitlines()))


def test_a_program_gets_no_part_of_a_plan(run: Callable[..., str]) -> None:
    with pytest.raises(SpecError, match="layer 'conv4'"):
        run(CHAIN, "--input", "1x7x7", "--json")


def test_the_first_layer_is_not_advised_to_have_fewer_before_it(run: Callable[..., str]) -> None:
    with pytest.raises(SpecError, match=r"layer 'conv1' .*; use padding='same' to keep the size\.$"):
        run("conv 1 9x9", "--input", "1x7x7")


def test_a_batch_without_images(run: Callable[..., str]) -> None:
    with pytest.raises(UserError, match="--batch must be 1 or more, not 0"):
        run("conv 1 3x3", "--batch", "0")


def test_help_teaches(run: Callable[..., str]) -> None:
    shown = run("--help")
    assert "torchvision:NAME" in shown
    assert "[same|valid|same_ceil|same_half|pad P]" in shown


def test_the_command_says_one_sentence_and_exits_with_2() -> None:
    program = "from convforge.cli import main; main()"
    words = [sys.executable, "-c", program, "plan", "conv 1 3x3, conv 1 3x3", "--input", "1x4x4"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "conv1" in done.stdout
    assert done.stderr.startswith("error: layer 'conv2' (conv 1 3x3): a 3×3 kernel cannot be applied to a 2×2 input")
    assert done.stderr.endswith("; use padding='same' to keep the size, or fewer layers.\n")
    assert done.stderr.count("\n") == 1
