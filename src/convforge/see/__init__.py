"""The explorer: a page on which every number of a network can be traced to the products that made it."""
