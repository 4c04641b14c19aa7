"""How a convolution can be computed: a file for each algorithm, or pass of one, with its kernels and its decisions."""
