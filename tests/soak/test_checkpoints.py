"""Files of a run that were damaged, or written by somebody with a purpose: each is read as it is or refused in one
sentence, in little memory."""

from __future__ import annotations

import copy
import itertools
import json
import random
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from reprlib import repr as short
from typing import Any, TypeAlias

import pytest
import torch
from safetensors.torch import save as to_safetensors

from convforge.errors import UserError
from convforge.learned import film
from convforge.models.checkpoint import ARCHITECTURE, WEIGHTS, Architecture, load, save, to_json
from convforge.train import Options
from convforge.train.folder import CONFIG, stored
from convforge.train.state import STATE, Progress, begin, load_state, save_state

from .conftest import Soak

DOTS = Architecture("vgg", {"widths": [4], "convs": 1, "first": 3}, ("a", "b"), (1, 8, 8), (0.5,), (0.2,))
MEMORY = 2**30
"""Bytes of addresses that reading may take beyond what the process has."""

NESTED, NESTED_OBJECTS = "@nested@", "@nested objects@"  # Python's encoder nests less deeply than its decoder
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 8, 63, 10**9, 2**31, 2**63, 10**400, -(10**400), 0.5, 1e308, 5e-324,
    float("nan"), float("inf"), -float("inf"), "", "a", "\ud800", "\x1b[31m\n", "x" * 100_000, "resnet", "dense",
    "timm:", "timm:../x", "timm:hf-hub:a/b", "os.system", [], [[]], [1], [1, 2], [0, 0, 0], [-1, 8, 8], [1, 8, 8],
    [1, 8, 8, 8], [1, 10**9, 10**9], [10**9, 8, 8], [1, 7, 8], [1, 8192, 8192], [True, 8, 8], [1.0, 8, 8], ["1", 8, 8],
    [None] * 3, [float("nan")], [1e300], [0.0], [-1], [True], ["0.5"], [10**400], ["a"] * 1000, ["a"] * 1_000_001,
    {}, {"a": 1}, {"": 1}, {"self": 1}, {"classes": 3}, {"input_shape": [1, 8, 8]}, {"family": "vgg"},
    {"widths": []}, {"widths": [16384] * 64}, {"widths": {}}, {"convs": 0}, {"first": 2}, {"first": 10**9},
    NESTED, NESTED_OBJECTS,
]  # fmt: skip


def dumped(value: Any) -> bytes:
    text = json.dumps(value)
    text = text.replace(json.dumps(NESTED), "[" * 900 + "]" * 900)
    return text.replace(json.dumps(NESTED_OBJECTS), '{"a":' * 900 + "1" + "}" * 900).encode()


def places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The ways to all parts of a JSON value."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (key,)
            for rest in places(value[key]):
                yield (key, *rest)


Case: TypeAlias = tuple[str, Callable[[], bytes]]
"""What was done to a file, and a function that makes it, for some are long."""


def replaced(value: Any, place: tuple[Any, ...], new: tuple[Any, ...]) -> bytes:
    """JSON whose part at `place` is another, or missing where `new` is empty."""
    changed = copy.deepcopy(value)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if new:
        inner[place[-1]] = new[0]
    else:
        del inner[place[-1]]
    return dumped(changed)


def there_twice(value: dict[str, Any], key: str, new: Any) -> bytes:
    return dumped(value)[:-1] + f", {json.dumps(key)}: ".encode() + dumped(new) + b"}"


def altered(value: Any) -> Iterator[Case]:
    """JSON with one entry replaced by anything, or missing, or one too many, or there twice; and what is no JSON."""
    for place in places(value):
        yield f"without {place}", partial(replaced, value, place, ())
        for new in VALUES:
            yield f"{place} is {short(new)}", partial(replaced, value, place, (new,))
    for new in VALUES:
        yield f"an unknown entry {short(new)}", partial(dumped, value | {"unknown": new})
        yield f"all is {short(new)}", partial(dumped, new)
        for key in value:
            yield f"{key} twice, {short(new)}", partial(there_twice, value, key, new)
    whole = dumped(value)
    for text in (b"", b"\xff\xfe", bytes(100), b"9" * 5000, b"[" * 10**6, b'{"a":' * 10**5, whole + b"x", whole[:-1]):
        yield f"the text is {text[:20]!r}", text.__bytes__


def flipped(content: bytes, draw: random.Random, head: int) -> bytes:
    """A few bytes changed, put in, left out or repeated, most of them among the first `head`; or the end cut off."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        place = draw.randrange(min(head, len(changed)) if draw.random() < 0.9 else len(changed))
        match draw.randrange(6):
            case 0:
                changed[place] = draw.randrange(256)
            case 1:
                changed[place] = draw.choice(b'{}[],:"0123456789-.eE\\')
            case 2:
                changed.insert(place, draw.choice(b'{}[],:"0123456789-.eE\\'))
            case 3:
                del changed[place : place + draw.randrange(1, 4)]
            case 4:
                changed[place:place] = changed[place : place + draw.randrange(1, 40)]
            case _:
                if len(changed) > 2 and draw.random() < 0.2:
                    del changed[draw.randrange(1, len(changed)) :]
    return bytes(changed) or b"\0"


def headed(data: bytes, header: Callable[[], bytes]) -> bytes:
    text = header()
    return struct.pack("<Q", len(text)) + text + data


def with_other_headers(content: bytes) -> Iterator[Case]:
    """A safetensors file whose header says something else about the same numbers."""
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    for claimed in (0, 1, length - 1, length + 1, len(content), 2**24, 2**24 + 1, 2**31, 2**40, 2**63, 2**64 - 1):
        yield f"a header of {claimed} bytes", (struct.pack("<Q", claimed) + content[8:]).__bytes__
    for what, text in altered(header):
        yield what, partial(headed, data, text)
    names = [name for name in header if name != "__metadata__"]
    for name in names:
        other: list[tuple[str, Any]] = [
            *(("shape", shape) for shape in ([2**62, 4], [2**32, 2**32], [0, 2**63], [1] * 10**5, [-1, -4])),
            *(("data_offsets", at) for at in ([0, 0], [0, 2**63], [0, len(data)], [4, 0], [-4, 0], [1, 5])),
            ("data_offsets", header[names[0]]["data_offsets"]),
        ]
        for key, new in other:
            yield (
                f"{key} of {name} is {short(new)}",
                partial(headed, data, partial(replaced, header, (name, key), (new,))),
            )
    yield "numbers for nobody", (content + bytes(8)).__bytes__
    yield "numbers missing", content[:-1].__bytes__
    many = {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}
    yield "a hundred thousand tensors", partial(headed, b"", partial(dumped, many))


class Target:
    """A file of a run, and how it is read."""

    def __init__(self, path: Path, read: Callable[[], object]) -> None:
        self.path, self.read, self.good = path, read, path.read_bytes()
        self.tensors = path.suffix == ".safetensors"

    def damaged(self, draw: random.Random) -> Iterator[Case]:
        """All that is done to it on purpose, in any order, then chance without end."""
        on_purpose = list(with_other_headers(self.good) if self.tensors else altered(json.loads(self.good)))
        draw.shuffle(on_purpose)
        head = 8 + struct.unpack("<Q", self.good[:8])[0] if self.tensors else len(self.good)
        by_chance = partial(flipped, self.good, draw, head)
        for number in itertools.count():
            if on_purpose:
                yield on_purpose.pop()
            yield f"bytes changed by chance, {number}", by_chance


@pytest.fixture
def targets(tmp_path: Path) -> dict[str, Target]:
    model = DOTS.build()
    optimizer = torch.optim.AdamW(model.parameters())
    begin(optimizer)
    save(tmp_path, model, DOTS)
    epoch = dict.fromkeys(
        ("epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "lr", "seconds", "images_per_second"),
        1.5,
    )
    progress = Progress(7, epochs=[epoch], seen=16, right=3, loss=2.5, seconds=0.5, best=1)
    save_state(tmp_path, model, optimizer, progress, model.state_dict())
    options = Options("photos", threads=1, name="run").to_dict()
    (tmp_path / CONFIG).write_bytes(to_json({"options": options, "data": {"fingerprint": "0" * 64}, "versions": {}}))
    described = {"film": json.dumps({"layer": "0", "frames": [[0, 0.0], [4, 0.5]]})}
    (tmp_path / film.FILM).write_bytes(to_safetensors({"kernels": torch.zeros(2, 4, 1, 3, 3)}, described))

    def read_film() -> None:
        found = film.read(tmp_path)
        assert found is not None
        for number in range(len(found.frames)):
            found.values(number)

    reads: dict[str, Callable[[], object]] = {
        ARCHITECTURE: lambda: load(tmp_path),
        WEIGHTS: lambda: load(tmp_path),
        STATE: lambda: load_state(tmp_path, model, optimizer, tmp_path / ARCHITECTURE),
        CONFIG: lambda: stored(tmp_path, None, None),
        film.FILM: read_film,
    }
    assert json.loads((tmp_path / ARCHITECTURE).read_text()).keys() == asdict(DOTS).keys()
    return {name: Target(tmp_path / name, read) for name, read in reads.items()}


@pytest.fixture
def little_memory() -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    ("name", "few", "many"),
    [(ARCHITECTURE, 70, 4000), (WEIGHTS, 50, 4000), (STATE, 30, 2000), (CONFIG, 30, 3000), (film.FILM, 30, 2000)],
)
def test_damaged_files_are_refused_in_a_sentence(
    soak: Soak, targets: dict[str, Target], name: str, few: int, many: int
) -> None:
    target, refused = targets[name], 0
    target.read()
    cases = target.damaged(random.Random(name))
    for _ in range(soak.length(few, many)):
        what, content = next(cases)
        refusal = ""
        with soak.case(f"{name}, {what}"):
            target.path.write_bytes(content())
            try:
                target.read()
            except UserError as sentence:
                refusal = str(sentence)
                refused += 1
            assert len(refusal) < 800, f"{len(refusal)} characters: {refusal[:300]}"
            assert len(refusal.splitlines()) <= 1, refusal
            assert not refusal or str(target.path.parent) in refusal, refusal
    assert refused > soak.tried / 2, "hardly anything was damaged"
    soak.figure(f"refused, of {name}", f"{refused:,}")
