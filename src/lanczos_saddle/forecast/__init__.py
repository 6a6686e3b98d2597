"""What a count takes, before it is made: memory by part, products, time and width of every way to count."""
