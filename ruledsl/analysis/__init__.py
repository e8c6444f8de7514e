"""From the tree to a typed rule: names and inheritance, composition, types."""
