"""Moves virtual machines from libvirt, oVirt and OpenStack to KubeVirt and accounts for every attribute."""

__version__ = "0.1.0"
