"""Figures, each beside its yardstick of the same run: `make bench`. Needs the development lock (etcd is in it)."""
