"""Convolution layers on the engine and elsewhere, side by side: what `convforge bench` measures and prints.

- `layers`: which layers, from two notations or from a model;
- `machine`: the limits that layers are held against, measured in the same run by `limits`; `costs`: what the choice of
  algorithms looks at, measured for `convforge tune`;
- `contenders`, `peers`: who computes them: in this process, and in processes of their own (`process`);
- `timing`: medians of interleaved rounds; `memory`: whether glibc keeps memory between calls;
- `run`: all of it together, as rows of data; `table`, `plot`: the rows for the eye;
- `networks`: the same for whole networks.
"""
