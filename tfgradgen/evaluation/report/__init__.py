"""Tables, curves and image grids of a comparison."""
