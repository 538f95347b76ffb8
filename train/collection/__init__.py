"""Collections: a user's own files of pictures, listed, checked, cut into parts, and told about.

In: a folder, or a table that names files. Out: a `Collection` of pictures that can be read, each in one part, and its
`Overview`. Uses no other room of `ofa.train`.
"""

from ofa.train.collection.collection import Collection, Rules
from ofa.train.collection.listing import PARTS
from ofa.train.collection.overview import Overview, overview
from ofa.train.collection.reading import read
from ofa.train.collection.tables import write_rows

__all__ = ["PARTS", "Collection", "Overview", "Rules", "overview", "read", "write_rows"]
