"""Training tars of a mixture, and the documents beside them."""
