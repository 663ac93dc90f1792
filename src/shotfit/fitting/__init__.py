"""From a method and labelled pictures to a fitted model, and its predictions."""
