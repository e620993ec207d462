"""Models that predict the numbers of an image from others of it: in an order, or in any."""
