"""Every test over the plugins takes the fixture ``plugin``."""

import pytest

from clreg_plugins import RegularizationPlugin
from tests.plugins.digits import PLUGINS


@pytest.fixture(params=list(PLUGINS))
def plugin_name(request: pytest.FixtureRequest) -> str:
    """The name of each plugin in turn."""
    return request.param


@pytest.fixture
def plugin(plugin_name: str) -> RegularizationPlugin:
    """Each plugin in turn, with moderate strength."""
    return PLUGINS[plugin_name]()
