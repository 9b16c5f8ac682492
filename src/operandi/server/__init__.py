"""Tiled servers: one in a folder (``embedded``), and what any of them can compute on request (``adapters``)."""
