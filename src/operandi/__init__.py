"""operandi: operando scattering tomography as a bluesky and Tiled data service."""
