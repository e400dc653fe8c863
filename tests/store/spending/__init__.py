"""Tests of spending limits."""
