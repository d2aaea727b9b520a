"""What builds the study and its book; no part of the package that users call."""
