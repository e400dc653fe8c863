"""The dashboard: web pages over the same calls, roles and errors as the API."""
