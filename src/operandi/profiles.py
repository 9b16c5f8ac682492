"""Tiled profiles: servers by name."""

from pathlib import Path

import tiled.profiles
import yaml

from .errors import NotPublishedError

PROFILE = "operandi"


def profile_uri(name: str) -> str:
    """The server that the profile ``name`` names.

    Raises
    ------
    NotPublishedError
        There is no such profile.
    """
    profiles = tiled.profiles.load_profiles()
    if name not in profiles:
        raise NotPublishedError(f"no Tiled profile {name!r}, only {sorted(profiles)}; make it with operandi.install_profile(uri)")
    return profiles[name][1]["uri"]


def install_profile(uri: str, name: str = PROFILE, *, folder: Path | None = None) -> Path:
    """Make ``tiled.client.from_profile(name)``, and ``operandi.open(name)``, reach ``uri`` from now on.

    Writes ``<folder>/<name>.yml`` (by default in Tiled's folder of user profiles) and returns its path. No key is
    stored: give it as ``api_key``, or in the environment as TILED_API_KEY.
    """
    file = (folder or tiled.profiles.paths[-1]) / f"{name}.yml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({name: {"uri": uri}}))
    tiled.profiles.load_profiles.cache_clear()
    return file
