"""`convforge relabel`: images that a run gets wrong, or is unsure about, on a page, and what somebody says of them."""
