"""The command line: the only floor that chooses paths, prints and exits."""
