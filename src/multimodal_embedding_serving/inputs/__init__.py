"""What a request may hold (`kinds`) and the items that it expands to (`items`)."""
