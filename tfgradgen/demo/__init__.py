"""A local page on which anyone can draw images, vary them and interpolate between them."""
