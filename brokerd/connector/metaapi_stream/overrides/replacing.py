"""The one way an override takes effect: on the instance, over a name that sdk.py checks."""


def replace(owner: object, name: str, replacement: object) -> None:
    """Put `replacement` in the place of the owner's own attribute."""
    setattr(owner, name, replacement)
