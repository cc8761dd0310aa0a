"""What a run leaves: its record, its summary, its files, and the object that holds them. Imports no TensorFlow but `origin`."""
