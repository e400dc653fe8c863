"""Who calls: API keys, users, logins, tokens, passwords."""
