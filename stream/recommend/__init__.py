"""Recommendations: what a shopper shows or says, times the catalogue. Pure: no I/O, no clock."""
