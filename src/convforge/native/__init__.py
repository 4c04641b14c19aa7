"""Machine code, written and run while Python runs: what all kernels stand on. Nothing in here knows a convolution.

`target` says what the CPU offers. A kernel is written in `ir`, a notation for loops in LLVM's form; `runtime` returns
its address, from disk (`linker`) or new (`compiler`). A `program` is steps of kernels, and a `team` of threads runs one
in one call. `builtin` makes functions that Python calls without ctypes.
"""
