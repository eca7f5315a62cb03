"""Trajectories as one page that plays them step by step, without a network."""

from tabom.viewer.page import viewer_page

__all__ = ["viewer_page"]
