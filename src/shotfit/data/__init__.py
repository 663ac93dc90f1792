"""Pictures and tasks: what there is to fit to, read and checked."""
