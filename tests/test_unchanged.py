"""Whether dictionaries hold what they held, and objects count what they counted."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from convforge.pytorch import unchanged
from convforge.pytorch.unchanged import Counted, Held

Dictionary = dict[Any, Any]


@pytest.fixture(params=["by version tags", "by looking"], autouse=True)
def asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which dictionaries are asked."""
    if request.param == "by looking":
        monkeypatch.setattr(unchanged, "_TAGS", 0)
    elif not unchanged._TAGS:
        pytest.skip("dictionaries of this Python have no version tags")


def dictionaries() -> tuple[Dictionary, list[Dictionary]]:
    return {"own": object()}, [{"a": object(), "b": object(), 3: None}, {}, {"c": [1]}]


@pytest.mark.parametrize(
    "change",
    [
        lambda own, _: own.update(own=object()),
        lambda own, _: own.update(more=1),
        lambda own, _: own.clear(),
        lambda _, others: others[0].update(a=object()),
        lambda _, others: others[0].pop("b"),
        lambda _, others: others[0].update({"last": others[0].pop(3)}),
        lambda _, others: others[1].update(new=None),
        lambda _, others: others[2].update(c=[1]),
        lambda _, others: others[2].clear(),
    ],
)
def test_every_change_of_a_dictionary_is_noticed(change: Callable[[Dictionary, list[Dictionary]], Any]) -> None:
    own, others = dictionaries()
    held = Held(own, others)
    assert held.same(own)
    assert held.same(dict(own))
    change(own, others)
    assert not held.same(own)


def test_what_comes_back_is_the_same() -> None:
    own, others = dictionaries()
    held, before = Held(own, others), others[0]["a"]
    for _ in range(2):
        assert held.same(own)
        others[0]["a"] = object()
        assert not held.same(own)
        assert not held.same(own), "what has been found changed stays so"
        others[0]["a"] = before
    assert held.same(own)


def test_attributes_that_the_interpreter_sets_in_its_quickest_way_are_noticed() -> None:
    class Layer:
        pass

    layer: Any = Layer()
    layer.kept = value = object()

    def put(what: object) -> None:
        layer.kept = what

    for _ in range(100):
        put(value)
    held = Held({}, [vars(layer)])
    for n in range(100):
        assert held.same({})
        put(n)
        assert not held.same({})
        put(value)


def test_nothing_at_all() -> None:
    assert Held({}, []).same({})
    assert not Held({}, []).same({1: 1})


class Thing:
    pass


def test_values_are_kept_alive_but_for_one() -> None:
    keeps, kept = Thing(), Thing()
    own, seen, gone = {"keeps": keeps, "kept": kept}, weakref.ref(kept), weakref.ref(keeps)
    held = Held(own, [], without=keeps)
    assert held.same(own)
    del keeps, kept
    own.clear()
    gc.collect()
    assert seen() is not None
    assert gone() is None
    assert not held.same(own)


def test_questions_leave_no_references_behind() -> None:
    own, others = dictionaries()
    tensors = [torch.ones(3), torch.ones(400)]
    held, counted = Held(own, others), watch(tensors)
    before = [sys.getrefcount(one) for one in (own, *others, *tensors, torch.Tensor)]
    for _ in range(1000):
        assert held.same(own)
        assert counted.same()
    assert [sys.getrefcount(one) for one in (own, *others, *tensors, torch.Tensor)] == before


ADDRESS_OF = torch._C._dynamo.guards._torchinductor_pyobject_tensor_data_ptr  # type: ignore[attr-defined]


def watch(tensors: list[torch.Tensor]) -> Counted:
    return Counted([(t, t.data_ptr(), t.nbytes) for t in tensors], torch.Tensor._version, ADDRESS_OF)


@pytest.mark.parametrize("numbers", [1, 2, 3, 15, 16, 17, 1000])
@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.mul_(2),
        lambda t: t[-1:].zero_(),
        lambda t: t.data.mul_(1.0001),
        lambda t: t.data.neg_(),
        lambda t: t.numpy().__setitem__(slice(None), 7),
        lambda t: t.__setattr__("data", t.data.clone()),
        lambda t: torch.utils.swap_tensors(t, torch.ones(t.shape)),
        lambda t: torch.utils.swap_tensors(t, torch.nn.Parameter(torch.ones(t.shape))),
        lambda t: t.untyped_storage().resize_(0),
    ],
)
def test_what_becomes_of_a_tensor_is_noticed(change: Callable[[torch.Tensor], Any], numbers: int) -> None:
    tensors = [torch.ones(5), torch.randn(numbers), torch.ones(70)]
    counted = watch(tensors)
    assert counted.same()
    change(tensors[1])
    assert not counted.same()


@pytest.mark.parametrize("numbers", [1, 2, 3, 7, 15, 16])
def test_any_single_number_of_a_small_one(numbers: int) -> None:
    for n in range(numbers):
        tensors = [torch.randn(numbers), torch.randn(numbers)]
        counted = watch(tensors)
        tensors[1].data[n] += 1
        assert not counted.same()


def test_counters_that_say_nothing_are_not_the_same() -> None:
    """Tensors of inference mode have none, and a tensor may become one."""
    t = torch.ones(3)
    counted = watch([t])
    with torch.inference_mode():
        other = torch.ones(3)
    torch.utils.swap_tensors(t, other)
    assert not counted.same()
