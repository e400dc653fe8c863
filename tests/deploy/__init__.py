"""The files of docs/deploy, each checked with the program that reads it."""
