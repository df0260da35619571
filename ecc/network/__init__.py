"""What a network is to us: coupled channel groups, and the smaller network that given widths make."""
