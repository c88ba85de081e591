"""Adapting an explainer to single images, many at once."""
