"""Views of an image: the recipe of their parameters, and the operations that make them."""
