"""What a server runs: chains of many labels and seeds as a SavedModel that needs neither TFP nor Python."""
