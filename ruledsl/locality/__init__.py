"""What every synapse would have to know: labels, information flow, the locality contract."""
