"""What others have published: the largest networks of their search spaces, and their supernets' weights.

In: numbers of classes and channels, widths and depths; or a supernet and the file of once-for-all's, AttentiveNAS' or
AlphaNet's. Out: backbones for `ofa.Supernet` like any other; or the file's weights in the supernet.
Uses `ofa.supernet`, `ofa.train.backbones`, timm.
"""

from ofa.train.published.networks import attentive_nas, cifar_resnet, ofa_mobilenet_v3, ofa_proxyless, ofa_resnet
from ofa.train.published.weights import load_supernet

__all__ = ["attentive_nas", "cifar_resnet", "load_supernet", "ofa_mobilenet_v3", "ofa_proxyless", "ofa_resnet"]
