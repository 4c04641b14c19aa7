"""What kernels became: for the report of a training, and for the page.

- `namer`: what a kernel of the first layer looks for, by measurement; `film`: how the first layer's came about.
"""
