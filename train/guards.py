"""Guards of a long training: what a collapse is, from which it goes back to the last good checkpoint."""


class Collapse(ValueError):
    """A model got far worse than it was, or an epoch had no finite step."""
