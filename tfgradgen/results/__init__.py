"""Results of a run: its record, summary and files, and the object that holds them. Only `origin` imports TensorFlow."""
