"""Pictures in: for training, for prediction and for the page the same way.

- `read`: image files as arrays of pixels; `memory`: what all that are read at once may take;
- `photographs`: those that installed packages carry.
"""
