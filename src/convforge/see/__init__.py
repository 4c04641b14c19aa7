"""The explorer: a network opened to look into, on a page where every number can be traced to the products that made it."""
