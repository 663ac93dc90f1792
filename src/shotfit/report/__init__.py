"""What people look at: one self-contained page about a model or a comparison."""
