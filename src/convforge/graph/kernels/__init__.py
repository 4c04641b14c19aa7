"""What networks do between their convolutions, as steps of a program: a kernel a file.

Each is written once for all shapes and layouts: sizes, strides and addresses are numbers of the call. Code is made for
a dtype, for what is computed, and for whether the innermost numbers lie side by side.
"""
