"""What goes wrong when a user asks for something that cannot be."""


class TilusError(Exception):
    """A request that cannot be met, told as what was asked, what there is, and what to do."""
