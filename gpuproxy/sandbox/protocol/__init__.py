"""Requests and answers of any dialect, and the faults that can be armed for them."""
