"""Tests of the store over PostgreSQL beyond the contract suite."""
