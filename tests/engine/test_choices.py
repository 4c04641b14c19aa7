"""What the model's choices cost, by timings that were measured once: nothing is timed here.

Each file of `timings/` holds what every algorithm took on one machine, in every way in which a layer is used; its
`command` repeats it. The target is that machine's, so the choices are the same wherever this runs.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import pytest

from convforge.bench.layers import parse
from convforge.engine.geometry import Problem
from convforge.engine.plan import Job, Pass
from convforge.engine.select import considered
from convforge.native.target import Target

TIMINGS = sorted((Path(__file__).parent / "timings").glob("*.json"))


def regrets(path: Path) -> dict[tuple[str, bool], list[tuple[float, str]]]:
    """For each pass and memory format, how many times as long the model's choice takes as the quickest, by layer."""
    measured = json.loads(path.read_text(encoding="utf-8"))
    target = Target("measured", "", "", **measured["target"])
    found = defaultdict(list)
    for text, which, channels_last, kept, taken in measured["cases"]:
        layer = parse(text, 1)
        problem = Problem.of(layer.spec, layer.batch, layer.size, channels_last=channels_last)
        choices = considered(Job.of(problem, Pass(which), measured["threads"], kept, target=target)).choices
        chosen = choices[0].algorithm.name
        assert {choice.algorithm.name for choice in choices} == set(taken), f"{text}: measure again"
        found[which, channels_last].append((taken[chosen] / min(taken.values()), f"{text}, kept: {kept}: {chosen}"))
    return found


@pytest.mark.parametrize("path", TIMINGS, ids=lambda path: path.stem)
def test_the_choice_is_nearly_always_the_quickest(path: Path) -> None:
    """Within 2 % in the mean; none takes a third longer."""
    for (which, channels_last), rows in regrets(path).items():
        mean = math.exp(sum(math.log(regret) for regret, _ in rows) / len(rows))
        assert mean < 1.02, f"{which}, channels_last: {channels_last}: {mean}"
        worst, layer = max(rows)
        assert worst < 1.33, f"{which}, channels_last: {channels_last}: {layer} takes {worst} times the quickest"


@pytest.mark.parametrize("text", ["3,224x224,32,3x3,stride=2,padding=1", "3,299x299,32,3x3,stride=2"])
def test_a_stem_s_input_gradient_runs_along_pixels_with_short_vectors(text: str) -> None:
    """Three of eight lanes and the ends of short tiles: direct takes 1.5 times as long."""
    target = Target("avx2", "", "", 32, 16, 6, 2, 32 << 10, 512 << 10, 32 << 20)
    layer = parse(text, 1)
    problem = Problem.of(layer.spec, layer.batch, layer.size)
    choices = considered(Job.of(problem, Pass.INPUT_GRADIENT, 2, target=target)).choices
    assert choices[0].algorithm.name == "planar"
