"""The identity of callers: API keys, users, logins, tokens, passwords; and their SSH keys."""
