"""What the papers look at, as numbers and plots: layers, transfer difficulty, pairs of texts, likeness of tasks."""
