"""Tests of interp.models."""
