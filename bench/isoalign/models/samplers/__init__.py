"""Engines that sample rollouts in place of isoalign's own decoding."""
