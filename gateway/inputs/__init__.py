"""From a request's body to fields and an image."""
