"""The frozen model: two towers as steps, with what may be changed in them."""
