"""The web app: explain a photograph, refine the explanation, compare methods."""
