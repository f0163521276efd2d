"""The cluster state service: see and follow Amazon ECS. `css/service.py` is the map."""

__version__ = "0.1.0"
