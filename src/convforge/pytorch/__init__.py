"""PyTorch's side: the layer as its users call it, from the operators to whole models. Imports go from below upwards:

- `backend`: what `torch.compile` captures; `optimize`: a model, and what became of it and of each layer;
- `whole`: takes a model's calls; `networks`: answers them by whole networks, as long as the model is its `snapshot`;
- `modules`: `Conv2d`, which users know as `convforge.nn.Conv2d`; `functional`: `conv2d`;
- `plain`: its short way, past torch's dispatcher, with `guards` that know a call again; `operators`: the long one,
  `torch.ops.convforge`, put together from their `definitions`, what they `compute` on the CPU, and their derivatives
  in `autograd`;
- `plans`: a pass of certain sizes, planned once; `kept`: packed weights, kept for as long as they are those of the
  weights;
- `unchanged`, `fingerprint`: whether dictionaries and memory are what they were, asked in machine code;
- `arguments`, `layout`: what a call says, and how its tensors lie in memory;
- `by_engine`, `by_torch`: who computes: all that is asked of the engine, and what PyTorch's own convolution does.
"""
