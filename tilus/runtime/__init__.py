"""Text -> binary -> launch: the only rooms that may see a compiler or a GPU. They know no IR."""
