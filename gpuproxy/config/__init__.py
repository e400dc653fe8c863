"""Settings from the environment and `.env`. Only `app` and `cli` read them; other packages receive single values."""
