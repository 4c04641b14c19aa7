"""What this CPU offers: vector width, registers, fused multiply-add, caches; and the tile that follows from them.

Three targets are generated from one source: `avx512`, `avx2` and `baseline` (128-bit vectors: SSE2 on x86-64, NEON on
arm64). The best one that the CPU has is taken; the environment variable `CONVFORGE_TARGET` forces another.
"""

from __future__ import annotations

import os
import platform
import threading
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import llvmlite

from .. import disk
from ..errors import UserError

DTYPE_BYTES = {"float32": 4, "float64": 8}

compiling = threading.RLock()
"""Held by whoever makes or loads code, or LLVM itself; a fork waits for it."""

LINE = 64
"""Bytes of a cache line, on every CPU that there is a target for."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What the ways to a core's registers, and waiting, cost while all cores work. A cycle here is the time of two
    multiply-adds of a vector, so that the algorithms' models count the same on CPUs that do more or fewer in a clock.

    What stands here is Zen 5's with AVX-512, on which the models were made. Another machine's are measured
    (`bench/costs.py`) and the models scale with them.
    """

    l2: float = 48.0
    """Bytes a cycle that a core reads from its L2."""
    l3: float = 20.0
    memory: float = 7.0
    fork: float = 3_500.0
    """Cycles from one step of a program to the next, on several threads."""
    call: float = 15_000.0
    """Cycles of a call from Python, whatever it computes."""


USUAL = Costs()


@dataclass(frozen=True, slots=True)
class Target:
    """One instruction set, as far as the algorithms need to know it.

    `tile_rows` × `tile_vectors` is the register tile of the inner kernel: so many accumulators, and beside them
    `tile_vectors` registers of weights and one for the broadcast input, must fit into `registers`.
    """

    name: str
    cpu: str
    features: str
    vector_bytes: int
    registers: int
    tile_rows: int
    tile_vectors: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    triple: str = ""
    """The machine, as LLVM names it; "" for the one that is here."""
    costs: Costs = USUAL
    """Of the machine that the choices are for; the code does not depend on them."""

    @property
    def machine(self) -> str:
        """The name under which its costs are kept."""
        return f"{self.name} {self.cpu or platform.machine()}"

    def lanes(self, dtype: str) -> int:
        """Numbers of `dtype` in one vector."""
        return self.vector_bytes // DTYPE_BYTES[dtype]

    def panel(self, dtype: str) -> int:
        """Numbers in a row of the register tile: the output channels that are packed together."""
        return self.lanes(dtype) * self.tile_vectors

    @property
    def mask_registers(self) -> bool:
        """Whether loads and stores of some lanes only are as quick as those of all: AVX-512's are."""
        return self.vector_bytes == 64

    @property
    def x86(self) -> bool:
        """Whether it is x86-64, whose loads add up two registers and a constant by themselves; else arm64."""
        return "aarch64" not in self.triple and platform.machine().lower() not in ("arm64", "aarch64")


# name: (what the CPU must have, bytes in a vector, registers, rows and vectors of the tile)
#   avx512    14·2 accumulators + 2 weights + 1 input = 31 of 32 registers
#   avx2       6·2 accumulators + 2 weights + 1 input = 15 of 16
#   baseline   SSE2 has no FMA, so a product needs a register of its own: 4·2 + 2 + 1 + 1 = 12 of 16;
#              NEON has 32 registers and FMA: 12·2 + 2 + 1 = 27 of 32
_X86 = {
    "avx512": ({"avx512f", "avx512vl", "avx512dq", "avx512bw", "fma"}, 64, 32, 14, 2),
    "avx2": ({"avx2", "fma"}, 32, 16, 6, 2),
    "baseline": (set[str](), 16, 16, 4, 2),
}
_ARM64 = {"baseline": (set[str](), 16, 32, 12, 2)}


def available() -> tuple[str, ...]:
    """Names of the targets that this CPU can run, the best first."""
    have = host_features()
    return tuple(name for name, (needs, *_) in _table().items() if needs <= have)


def current() -> Target:
    """The target to generate for: what `CONVFORGE_TARGET` says, else the best that this CPU has.

    Raises `UserError` if the variable names a target that this CPU does not have.
    """
    return named(os.environ.get("CONVFORGE_TARGET", ""))


@cache
def named(wanted: str) -> Target:
    """The target of this name that this CPU has; "" for the best. Raises `UserError` where it has none."""
    names = available()
    name = wanted or names[0]
    if name not in names:
        raise UserError(f"CONVFORGE_TARGET={wanted!r} is not one of this CPU's targets: {', '.join(names)}.")
    needs, vector_bytes, registers, rows, vectors = _table()[name]
    # 'baseline' must run on every CPU of the architecture; the others are tuned for the one that is here.
    cpu = "" if name == "baseline" else _host()[0]
    features = "" if name == "baseline" else _feature_string(name, needs)
    made = Target(name, cpu, features, vector_bytes, registers, rows, vectors, *_counted_on())
    return replace(made, costs=_costs(disk.read_table(costs_file()).get(made.machine)))


def costs_file() -> Path | None:
    """Where costs are kept, by `Target.machine`, whether there is a file or not; None where nothing can be kept."""
    folder = disk.cache_folder()
    return None if folder is None else folder / "costs.json"


def _costs(kept: object) -> Costs:
    """What is kept, if it can be: numbers above 0 that are not absurd."""
    names = {field.name for field in fields(Costs)}
    if not isinstance(kept, dict) or kept.keys() != names:
        return USUAL
    sane = all(isinstance(value, float) and 1e-3 < value < 1e9 for value in kept.values())
    return Costs(**kept) if sane else USUAL


def arm64() -> Target:
    """Every arm64 CPU under Linux, whatever this machine is: to generate code for them, not to run it here."""
    _, vector_bytes, registers, rows, vectors = _ARM64["baseline"]
    return Target("baseline", "", "", vector_bytes, registers, rows, vectors, *_USUAL_CACHE_BYTES, "aarch64-linux-gnu")


def _feature_string(name: str, needs: set[str]) -> str:
    """The host's features; below AVX-512 without those that widen vectors or registers past the target's own."""
    features = dict(_host()[1])
    for feature in features:
        if name != "avx512" and feature.startswith(("avx512", "avx10", "evex512")):
            features[feature] = False
    return ",".join(("+" if on else "-") + feature for feature, on in sorted(features.items()))


def _table() -> dict[str, tuple[set[str], int, int, int, int]]:
    return _ARM64 if platform.machine().lower() in ("arm64", "aarch64") else _X86


@cache
def host_features() -> frozenset[str]:
    """What this CPU can do, in LLVM's names."""
    return frozenset(feature for feature, on in _host()[1].items() if on)


@cache
def _host() -> tuple[str, dict[str, bool]]:
    """The CPU's name and what it can do, as LLVM says it: asked once a kind of CPU, since LLVM takes 50 MB of memory
    and a tenth of a second to be there, and processes that find their code on disk do without it."""
    folder, known = disk.cache_folder(), _cpu()
    path = folder / "cpus.json" if folder is not None and known else None
    kept = disk.read_table(path).get(known)
    if isinstance(kept, dict) and len(kept) == 1:
        ((name, features),) = kept.items()
        if isinstance(features, dict) and all(isinstance(on, bool) for on in features.values()):
            return name, features
    with compiling:
        import llvmlite.binding as llvm

        name, features = llvm.get_host_cpu_name(), dict(llvm.get_host_cpu_features())
    if path is not None:
        with suppress(OSError):
            disk.add_to_table(path, {known: {name: features}})
    return name, features


_SAYS_WHICH = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")


def _cpu() -> str:
    """A name for CPUs of this model with these features, and for the LLVM that knows them; "" where the system does not
    say which they are."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
    except OSError:
        return ""
    rows = dict(line.partition(":")[::2] for line in first.splitlines())
    said = {name.strip(): value.strip() for name, value in rows.items()}
    if not said.keys() >= {*_SAYS_WHICH}:
        return ""
    return sha256(repr((llvm_version(), [said[name] for name in _SAYS_WHICH])).encode()).hexdigest()


@cache
def llvm_version() -> tuple[str, int]:
    """Which LLVM would be loaded: llvmlite's version, and how many bytes its library has."""
    folder = Path(llvmlite.__file__).parent / "binding"
    libraries = [path for path in folder.glob("*llvmlite*") if path.suffix in (".so", ".dylib", ".dll")]
    return llvmlite.__version__, sum(path.stat().st_size for path in libraries)


_USUAL_CACHE_BYTES = (32 << 10, 512 << 10, 8 << 20)
"""L1 data, L2 and L3 cache that every recent CPU has."""


_L3_A_CORE = 16 << 20


def _counted_on() -> tuple[int, int, int]:
    """L1 data, L2 and L3 cache: of L3 no more than some `_L3_A_CORE` for each core that is here.

    A virtual machine of two cores sees the whole L3 of a server, such as 300 MB, which sixty others fill as well.
    Counted on, it let depthwise layers of 50 MB be read without asking ahead: two thirds as fast as torch.
    """
    l1, l2, l3 = cache_bytes()
    return l1, l2, min(l3, _L3_A_CORE * (os.cpu_count() or 1))


@cache
def cache_bytes() -> tuple[int, int, int]:
    """L1 data, L2 and L3 cache of the first core, as far as the system says."""
    sizes = dict(zip((1, 2, 3), _USUAL_CACHE_BYTES, strict=True))
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level = int((index / "level").read_text())
            kind = (index / "type").read_text().strip()
            size = (index / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        if level in sizes and kind != "Instruction" and size.endswith("K"):
            sizes[level] = int(size[:-1]) << 10
    return sizes[1], sizes[2], sizes[3]
