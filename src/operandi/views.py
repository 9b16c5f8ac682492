"""What a server computes of a result on request."""

from typing import Any

from tiled.client.container import Container
from tiled.client.utils import ClientError

from .errors import NotPublishedError, ShapeError
from .nodes import WINDOWS, window_key
from .reading import container


def window_node(result: Container, q_min: float, q_max: float, background: str | None) -> Any:
    """Node of the maps (frame, y, x) of a window of q, Å⁻¹.

    Raises
    ------
    ShapeError
        The window is none, or it or its background reaches beyond the patterns.
    NotPublishedError
        No frame is there yet, or the server has no adapter for windows.
    """
    try:
        return container(result)[(*WINDOWS, window_key(q_min, q_max, background))]
    except KeyError as error:
        raise NotPublishedError(
            f"{result.uri} has no windows on request: it has no frame yet, or its server does not compute them (compare its configuration "
            "with tiled_config/); operandi.screen(result.volumes, windows) makes the same maps on this machine"
        ) from error
    except ClientError as error:
        if error.response.status_code != 400:
            raise
        raise ShapeError(error.response.json()["detail"]) from error
