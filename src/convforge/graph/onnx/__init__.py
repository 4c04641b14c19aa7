"""ONNX files as graphs: `read`; `opened` is the first half of it.

- `files`: bytes or a path → the file's nodes and weights, checked, within bounds;
- `probes`: what goes in, and the sizes that it is read for;
- `reading`: the file followed node by node, for several sizes of its inputs at once, so that what depends on them is
  told from what does not;
- `attributes`: what a node says besides its inputs;
- `folding`: what is computed of sizes and constants, in NumPy, while the file is read;
- `operators`: what is computed when the network runs, as nodes.

Needs the package `onnx`, which parses the file.
"""

from .files import File, opened
from .reading import read

__all__ = ["File", "opened", "read"]
