"""Whole networks side by side: what `convforge bench --network` measures and prints.

- `named`: a network from its name; `published`: a few that need no other package;
- `files`: the network in the forms that other runtimes read;
- `contenders`: who computes it, each in a process of its own; `busy`: a process that takes a core from them;
- `run`: all of it together, as data; `table`: the data for the eye.
"""
