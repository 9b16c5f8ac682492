import re
import socket
from importlib import resources
from pathlib import Path

import httpx
import jsonschema
import pytest
import yaml
from tiled.config import CatalogConfig
from tiled.utils import parse

from operandi.errors import PublishError
from operandi.server.embedded import embedded_config, start_server

CONFIG = Path(__file__).parents[2] / "tiled_config"


def status(server, *, key: str | None, method: str = "GET") -> int:
    headers = {"Authorization": f"Apikey {key}"} if key else {}
    body = {"id": "x", "structure_family": "container", "metadata": {}, "specs": [], "data_sources": []}
    return httpx.request(method, f"{server.uri}/api/v1/metadata/", headers=headers, json=body if method == "POST" else None).status_code


def test_reading_is_public_and_writing_takes_the_key(service):
    assert status(service, key=None) == 200
    assert status(service, key=None, method="POST") == 401
    assert status(service, key="wrong", method="POST") == 401
    assert status(service, key=service.api_key, method="POST") == 200


def test_a_second_server_of_the_process_has_its_own_key_and_its_own_content(service, tmp_path):
    with start_server(tmp_path / "folder", public=False) as other:
        assert status(other, key=other.api_key) == 200
        assert status(other, key=None) == 401
        assert status(other, key=service.api_key) == 401
        assert status(service, key=service.api_key) == 200
        assert httpx.get(f"{other.uri}/api/v1/search/", headers={"Authorization": f"Apikey {other.api_key}"}).json()["data"] == []
        assert other.api_key not in repr(other)
    with pytest.raises(httpx.TransportError):
        httpx.get(other.uri)
    other.stop()


def test_a_server_that_cannot_start_says_why(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PublishError, match="address already in use"):
        start_server(tmp_path / "folder", port=taken.getsockname()[1], timeout_s=20)


def test_the_example_configuration_is_what_the_command_serves(tmp_path, monkeypatch):
    names = {"OPERANDI_FOLDER": tmp_path / "srv", "OPERANDI_STORAGE": tmp_path / "data", "OPERANDI_RAW": tmp_path / "raw"}
    for name, folder in names.items():
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("OPERANDI_API_KEY", "abc123")
    assert parse(CONFIG / "embedded.yml") == embedded_config(tmp_path / "srv", [tmp_path / "data", tmp_path / "raw"], api_key="abc123")


def test_the_production_configuration_is_one_that_tiled_accepts(monkeypatch):
    text = (CONFIG / "production.yml").read_text()
    for name in re.findall(r"\$\{(\w+)\}", text):
        monkeypatch.setenv(name, f"of-{name}")
    config = parse(CONFIG / "production.yml")
    folder = resources.files("tiled.config_schemas")
    schema = yaml.safe_load(folder.joinpath("service_configuration.yml").read_text())
    for section in ("authentication", "database", "streaming_cache", "uvicorn"):
        jsonschema.validate(config[section], schema["properties"][section])
    assert set(config["catalog"]) <= set(CatalogConfig.model_fields)
    assert config["expose_raw_assets"] is False
    assert config["uvicorn"]["ws_per_message_deflate"] is False
