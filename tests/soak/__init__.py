"""Long tests of what the engine, its operators and its networks promise. The helpers of their tests serve here, too."""

import sys
from pathlib import Path

for room in ("engine", "graph"):
    sys.path.insert(0, str(Path(__file__).parents[1] / room))
