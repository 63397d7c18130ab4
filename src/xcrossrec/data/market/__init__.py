"""The built-in sample market: four small domains with simulated customers, for machines without data."""

from xcrossrec.data.market.catalogue import MARKET_DOMAINS
from xcrossrec.data.market.simulation import MarketSettings, sample_market

__all__ = ["MARKET_DOMAINS", "MarketSettings", "sample_market"]
