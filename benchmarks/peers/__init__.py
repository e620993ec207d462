"""Programs that train models of other libraries on the data of a benchmark, each by its own library's functions."""
