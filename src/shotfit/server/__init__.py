"""What answers over HTTP on this machine: predictions, and the labelling page."""
