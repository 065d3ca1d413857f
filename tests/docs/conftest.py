"""Models come from a config: nothing is fetched. Set before anything imports transformers, which reads it once."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
