"""Sending the events of the outbox to webhooks."""
