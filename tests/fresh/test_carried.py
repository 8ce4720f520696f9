"""What a fresh root takes along of the machine's own pip settings."""

from tests.fresh.carried import pip_settings


def test_pip_configuration_becomes_environment_variables() -> None:
    lines = ["global.index-url='https://index.example/simple'", "global.find-links='/a\\n/b'", ":env:.timeout='9'"]
    assert pip_settings(lines) == {"PIP_INDEX_URL": "https://index.example/simple", "PIP_FIND_LINKS": "/a /b"}
