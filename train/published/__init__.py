"""What others have published: the largest networks of their search spaces, and their supernets' weights.

`networks` are backbones for `ofa.Supernet` like any other; `load_supernet` puts a file of once-for-all's or of
AttentiveNAS' and AlphaNet's into one.
"""

from ofa.train.published.networks import attentive_nas, ofa_mobilenet_v3, ofa_proxyless, ofa_resnet
from ofa.train.published.weights import load_supernet

__all__ = ["attentive_nas", "load_supernet", "ofa_mobilenet_v3", "ofa_proxyless", "ofa_resnet"]
