"""One click script an MLproject entry point: parse, call, print."""
