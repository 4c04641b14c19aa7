"""Convolutions that nobody thought of: drawn by Hypothesis, and made as simple as can be when one fails.

`CONVFORGE_SPECS` is how many are drawn in all (300 where it is not set), the same ones in every run; with
`--hypothesis-profile=explore` others. `make soak` draws thousands of new ones.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import KINDS, check, some_case

SPECS = int(os.environ.get("CONVFORGE_SPECS", "300"))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_drawn(kind: str) -> None:
    @settings(
        max_examples=SPECS // (len(KINDS) - 1),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.data())
    def every_pass_agrees(data: st.DataObject) -> None:
        check(some_case(lambda options: data.draw(st.sampled_from(list(options))), kind))

    every_pass_agrees()
