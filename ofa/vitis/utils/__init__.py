"""What scripts take from `pytorch_nndct.utils`: `from ofa.vitis.utils import slim`."""
