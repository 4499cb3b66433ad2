"""Indirect object identification (paper Sec. 4): prompt pairs, patching one run into another, orders of features."""

from __future__ import annotations
