"""From the tree to a checked rule: names and inheritance, types, information flow, the locality contract."""
