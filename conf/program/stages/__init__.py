"""The stages of ours, one a file; `conf/stage` names them."""
