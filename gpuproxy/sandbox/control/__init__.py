"""The control API, /sandbox/v1/...: reads and changes the markets in ways that a marketplace's API does not offer."""
