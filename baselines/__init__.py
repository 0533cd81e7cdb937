"""The algorithms, one file each. A file here with a yaml of its name in conf/algorithm/ is a method of the benchmark."""
