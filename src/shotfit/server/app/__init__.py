"""The labelling page: a folder of pictures in the browser, from the first label to a model that is saved."""
