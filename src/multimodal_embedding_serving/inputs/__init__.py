"""What a request may contain (`kinds`), and the items that it expands to (`items`)."""
