"""One file a method; `common` holds what they share."""
