"""See the module essays in this folder."""
