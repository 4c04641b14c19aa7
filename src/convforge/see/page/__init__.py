"""The page of `convforge see`: plain ES modules that a browser loads as they stand, and `bundle`, which makes one file
of them."""
