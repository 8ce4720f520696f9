"""The configuration of the seed document, word for word: refused where it is unsafe, each time with the fix."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.loader import load_config
from polarise.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
SEED = """\
# config/config.yaml
network:
  port: 8080
  host: "0.0.0.0"

security:
  secret_key: "your-secret-key" 
  token_expiry: 3600

docker:
  base_image: "ubuntu:latest"
  container_prefix: "polarise-"
  default_memory: "1g"
  default_cpu_count: 1
  
logging:
  level: "INFO" 
  file: "logs/polarise.log"
"""  # noqa: W291, W293  the seed's own blanks
CORRECTIONS = (
    ('  secret_key: "your-secret-key" \n', ""),
    ('  base_image: "ubuntu:latest"\n', ""),
    ('"0.0.0.0"', '"127.0.0.1"'),
)


@pytest.fixture
def seed_file(tmp_path: Path) -> Path:
    path = tmp_path / "seed.yaml"
    path.write_text(SEED, encoding="utf-8")
    return path


@pytest.mark.parametrize("arguments", [["miner", "--config"], ["--config"]], ids=["miner", "bare"])
def test_command_line_refuses_it_with_status_2_and_the_fixes(seed_file: Path, arguments: list[str]) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("POLARISE_")}
    done = subprocess.run(
        [sys.executable, "main.py", *arguments, str(seed_file)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"{seed_file}: security.secret_key: " in done.stderr
    assert "leave security.secret_key out (one is generated)" in done.stderr
    assert f"{seed_file}: docker.base_image: " in done.stderr
    assert "got 'ubuntu:latest'" in done.stderr
    assert "leave docker.base_image out to use the image that `python main.py setup` builds" in done.stderr
    assert "use 127.0.0.1" in done.stderr
    assert "your-secret-key" not in done.stderr
    assert "Traceback" not in done.stderr


def test_corrected_in_these_points_it_loads_with_every_other_word_kept(tmp_path: Path) -> None:
    text = SEED
    for old, new in CORRECTIONS:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "corrected.yaml"
    path.write_text(text, encoding="utf-8")
    config = load_config(path)
    assert (config.network.port, config.security.token_expiry) == (8080, 3600)
    assert (config.docker.container_prefix, config.docker.default_memory) == ("polarise-", "1g")
    assert config.docker.default_cpu_count == 1
    assert (config.logging.level, config.logging.file) == ("INFO", ROOT / "logs" / "polarise.log")


@pytest.mark.parametrize("kept", range(len(CORRECTIONS)))
def test_each_point_alone_is_refused(tmp_path: Path, kept: int) -> None:
    text = SEED
    for index, (old, new) in enumerate(CORRECTIONS):
        text = text if index == kept else text.replace(old, new)
    path = tmp_path / "seed.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        load_config(path)
