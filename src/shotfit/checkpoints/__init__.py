"""From a name, a file or a folder to the towers of a checkpoint."""
