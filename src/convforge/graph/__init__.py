"""Whole networks, captured by `torch.compile`."""
