"""Whole networks: nodes with a meaning, passes that make them fewer, and how they are read from a torch module."""
