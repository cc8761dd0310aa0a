"""Defaults and bounds of what is done with a finished run, for its functions and their flags. Does not import TensorFlow."""

SCALE, MOST_SCALE = 8, 64  # factor by which `show` enlarges; the most of any
FPS, LEAST_FPS, MOST_FPS = 12.0, 0.1, 50.0  # viewers of GIF show no more, and the file cannot hold longer pauses than 655 s
AMOUNT, LEAST_AMOUNT = 0.3, 1e-3  # of `vary`; below the least one, steps are lost in the rounding of float32
VARY_IMAGES, MOST_VARY_IMAGES = 16, 4096
VARY_STEPS, MOST_VARY_STEPS = 16, 10_000
MORPH_FRAMES, FILM_FRAMES, MOST_FRAMES = 48, 96, 2000
MORPH_STEPS, MOST_MORPH_STEPS = 16, 1000
