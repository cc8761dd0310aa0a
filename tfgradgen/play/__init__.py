"""Playing with a finished run: images near one of its draws, a path between two draws, the film of a chain."""
