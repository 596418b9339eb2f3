"""A simulated shop with known incidents, so that everyone can see the radar work, and measure whether it does."""

from stream.simulate.incidents import Finding, Incident, load_incidents, match_alerts, save_incidents
from stream.simulate.shop import START, Shop

__all__ = ["START", "Finding", "Incident", "Shop", "load_incidents", "match_alerts", "save_incidents"]
