"""What stands in the place of a weight: layers that are slices of a group of factors, blocks of a weight, lookups."""
