"""Whole networks for those who use them: called with arrays or tensors, asked about pictures, kept in one file.

- `model`: `Model`, what `convforge.load` and `convforge.compile` return;
- `compiled`: a graph on the engine; `compile`: a torch module as a graph;
- `about`: classes and normalisation; `pictures`: what `predict` takes, as arrays;
- `answers`: what a network returns, tuples and dictionaries too; `prediction`, `report`: what is said to people;
- `bundle`: the file.

Nothing here needs torch until it is given a tensor or a module.
"""
