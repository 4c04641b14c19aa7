"""Why a layer is as fast as it is: which algorithm and why, its loops and tiles, and the time it takes beside the
machine's limits. What `convforge explain` prints.

- `gather`: the explanation as data; `text`: the same for the eye; `assembly`: the innermost loop as the CPU gets it.
"""
