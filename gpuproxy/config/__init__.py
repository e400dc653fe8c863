"""Settings from the environment and `.env`. Only `app` and `cli` read them; everything else is handed its values."""
