"""Encoders and heads: pure Flax modules."""
