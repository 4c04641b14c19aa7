"""PyTorch's side: the layer as its users call it, from the operators to whole models.

- `ops`: the operators, and `conv2d`, the function with torch's signature; `by_torch`: what goes to torch's own;
- `kept`: packed weights, kept for as long as they are those of the weights;
- `modules`: `Conv2d`, which users know as `convforge.nn.Conv2d`;
- `optimize`: models whose convolutions run on the engine; `backend`: the same for `torch.compile`.
"""
