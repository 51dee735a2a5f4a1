"""Encoders as files: this library's own, and the layouts of others, both ways."""
