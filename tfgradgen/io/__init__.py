"""Images and checkpoints on disk."""
