"""Model families, the checkpoints they are stored in, and the files that others can run."""
