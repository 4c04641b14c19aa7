"""Whole networks side by side: what `convforge bench --network` measures and prints.

- `named`: a network from its name; `published`: a few that need no other package;
- `files`: the network in the forms that other runtimes read;
- `contender`: what one is; `inference`, `training`: those that compute the network, or a step of its learning;
- `contenders`: those that were asked for, each in a process of its own; `busy`: a process that takes a core from them;
- `run`: all of it together, as data; `table`: the data for the eye.
"""
