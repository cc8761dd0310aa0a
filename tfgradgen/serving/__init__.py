"""Export of chains for many labels and seeds as a SavedModel that a server runs without TFP or Python."""
