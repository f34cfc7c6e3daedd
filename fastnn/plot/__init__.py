"""Pictures of what fastnn knows: activation curves and networks; matplotlib draws.

curves.py draws every activation, network.py one model, sheet.py is the page that they and other
drawings of this project are made on.

Invariant: matplotlib is imported by the drawing itself only, and the same input gives the same
bytes with the same matplotlib.
"""

from fastnn.plot.curves import draw_activations
from fastnn.plot.network import draw_network

__all__ = ["draw_activations", "draw_network"]
