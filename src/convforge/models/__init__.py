"""Model families, and the checkpoints they are stored in."""
