"""The command line: the only layer that chooses paths, prints and exits."""
