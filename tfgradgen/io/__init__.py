"""Images, run folders and checkpoints on disk."""
