"""What the configuration of a Tiled server names by its import path."""

from bluesky_tiled_plugins.exporters import json_seq_exporter

from operandi.server.tables import give_each_request_its_connection

give_each_request_its_connection()  # ``tiled serve config`` imports this module, and nothing else of operandi

tell_again = json_seq_exporter
"""Tells the documents of a raw run again, for replay."""
