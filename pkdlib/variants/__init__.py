"""What may take the place of the paper's own: other maps of layers, other distances between states."""

from typing import Annotated

from pydantic import AfterValidator


def _known_distance(name: str) -> str:
    from pkdlib.variants.distances import DISTANCES  # here, because torch takes seconds to import

    if name not in DISTANCES:
        raise ValueError(f"must be one of {', '.join(DISTANCES)}")
    return name


DistanceName = Annotated[str, AfterValidator(_known_distance)]
